-- Executions that keep a pipeline busy for very long: active, of an active pipeline, and made before $2 seconds. A few of each pipeline.
select e.id::text, c.pipeline_id, coalesce(lower(e.status::text), '(null)'), extract(epoch from now() - {made_at})::bigint, {recent}
from (select p.id as pipeline_id from pipelines p where p.is_active and lower(p.trigger_mode::text) = 'signal') c
cross join lateral (
    select * from executions e
    where e.pipeline_id = {pipeline_id}
        and coalesce(lower(e.status::text), '(null)') <> all ($1::text[])
        and {made_at} < now() - make_interval(secs => $2::float8)
    order by e.created_at
    limit 3
) e
order by 4 desc
limit 100
