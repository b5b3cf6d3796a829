-- A status that is null is one that we do not know. The walk above ends before it, for null is greater than nothing.
union all
select '(null)' where exists (
    select from executions e
    where e.pipeline_id = {pipeline_id} and e.status is null and (c.ticker = '' or coalesce({symbol}, c.ticker) = c.ticker)
        and {recent}
)
