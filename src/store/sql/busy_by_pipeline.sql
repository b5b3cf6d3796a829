-- Whether the pipeline of `c` has an execution that is not over, by reading all its executions: null if it has none, else a status
-- that we do not know, or ''.
select case when count(*) > 0 then
        coalesce(min(lower(e.status::text)) filter (where lower(e.status::text) <> all ($25::text[])), '')
    end
from executions e
where e.pipeline_id = {pipeline_id}
    and (c.ticker = '' or coalesce(upper(trim({symbol})), c.ticker) = c.ticker)
    and lower(e.status::text) <> all ($26::text[])
