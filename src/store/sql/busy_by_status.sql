-- Whether the pipeline of `c` has an execution that is not over: null if it has none, else a status that we do not know, or ''. By
-- an index on (pipeline_id, status): from one status that occurs to the next, so that a long history of finished executions is
-- never read.
with recursive present (status) as (
    (select x.status from executions x where x.pipeline_id = {pipeline_id} order by x.status limit 1)
    union all
    select (select x.status from executions x where x.pipeline_id = {pipeline_id} and x.status > p.status order by x.status limit 1)
    from present p
    where p.status is not null
)
select case when count(*) > 0 then
        coalesce(min(w.word) filter (where w.word <> all ($25::text[])), '')
    end
from (
    select lower(p.status::text) as word
    from present p
    where p.status is not null
        -- of a ticker's slot, the executions of other tickers do not count; nor do those that are too old
        and case when {any_row_counts} then true else exists (
            select from executions e
            where e.pipeline_id = {pipeline_id} and e.status = p.status and {slot_row}
        ) end
    {or_no_status}
) w
where w.word <> all ($26::text[])
