-- Whether the pipeline of `c` has an execution that is not over, by an index on (pipeline_id, status): from one status that
-- occurs to the next, so that a long history of finished executions is never read.
with recursive present (status) as (
    (select x.status from executions x where x.pipeline_id = {pipeline_id} and not c.held order by x.status limit 1)
    union all
    select (select x.status from executions x where x.pipeline_id = {pipeline_id} and x.status > p.status order by x.status limit 1)
    from present p
    where p.status is not null
)
select
    count(*) > 0 as busy,
    min(lower(p.status::text)) filter (where lower(p.status::text) <> all ($25::text[])) as unknown_status
from present p
where p.status is not null
    and lower(p.status::text) <> all ($26::text[])
    -- of a ticker's slot, the executions of other tickers do not count
    and case when c.ticker = '' then true else exists (
        select from executions e
        where e.pipeline_id = {pipeline_id} and e.status = p.status and coalesce(upper(trim({symbol})), c.ticker) = c.ticker
    ) end
