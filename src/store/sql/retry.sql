-- A new attempt for triggers that never started, or their end after too many. Compare-and-set on the attempt that was seen:
-- of any number of sweepers one wins, and a slot that has passed on is left alone.
with
seen as materialized (
    select * from unnest($1::uuid[], $2::int[]) as u (trigger_id, attempt)
),
held as materialized (
    select t.trigger_id, t.attempt
    from dispatcher.triggers t
    join seen using (trigger_id, attempt)
    join dispatcher.slots s on s.trigger_id = t.trigger_id and s.pipeline_id = t.pipeline_id and s.ticker = t.ticker
    where t.failed_at is null
    -- in the order of claims, against deadlocks
    order by s.pipeline_id, s.ticker
    for update of t, s
),
again as (
    update dispatcher.triggers t
    set attempt = t.attempt + 1, publication_id = $3::uuid, leased_until = now() + make_interval(secs => $4::float8)
    from held h
    where t.trigger_id = h.trigger_id and h.attempt < $5::int
    returning t.trigger_id, t.pipeline_id, t.kwargs::text as kwargs
),
renewed as (
    update dispatcher.slots s
    set leased_until = now() + make_interval(secs => $4::float8)
    from again a
    where s.trigger_id = a.trigger_id
),
publication as (
    insert into dispatcher.publications (publication_id, trigger_ids, swept_at)
    select $3::uuid, array_agg(trigger_id), now() from again having count(*) > 0
),
failed as (
    -- It keeps its slot until its lease ends: the last task may wait in a long queue, and may start until then.
    update dispatcher.triggers t set failed_at = now()
    from held h
    where t.trigger_id = h.trigger_id and h.attempt >= $5::int
    returning t.trigger_id
)
select trigger_id, pipeline_id, kwargs, (extract(epoch from now() + make_interval(secs => $4::float8)) * 1000000)::bigint as leased_until_us
from again
union all
select trigger_id, null, null, null from failed
