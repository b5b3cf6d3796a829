-- Whether the pipeline of `c` has an execution that is not over, by reading all its executions.
select
    count(*) > 0 as busy,
    min(lower(e.status::text)) filter (where lower(e.status::text) <> all ($25::text[])) as unknown_status
from executions e
where e.pipeline_id = {pipeline_id} and not c.held
    and (c.ticker = '' or coalesce(upper(trim({symbol})), c.ticker) = c.ticker)
    and lower(e.status::text) <> all ($26::text[])
