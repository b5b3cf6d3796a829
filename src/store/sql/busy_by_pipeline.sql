-- Whether the pipeline of `c` has an execution that is not over, by reading all its executions: null if it has none, else a status
-- that we do not know, or ''. A status that is null is one that we do not know.
select case when count(*) > 0 then
        coalesce(min(w.word) filter (where w.word <> all ($25::text[])), '')
    end
from (
    select coalesce(lower(e.status::text), '(null)') as word
    from executions e
    where e.pipeline_id = {pipeline_id}
        and (c.ticker = '' or coalesce({symbol}, c.ticker) = c.ticker) and {recent}
) w
where w.word <> all ($26::text[])
