-- A new attempt for triggers that never started, or their end after too many or when their signal is too old. Compare-and-set on the
-- attempt that was seen: of any number of sweepers one wins, and a slot that has passed on is left alone.
with
seen as materialized (
    select * from unnest($1::uuid[], $2::int[]) as u (trigger_id, attempt)
),
held as materialized (
    select t.trigger_id, t.attempt,
        coalesce(coalesce(t.signal_time, t.claimed_at) < now() - make_interval(secs => $6::float8), false) as stale
    from dispatcher.triggers t
    join seen on seen.trigger_id = t.trigger_id and (seen.attempt = t.attempt or $8::bool)
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
    where t.trigger_id = h.trigger_id and h.attempt < $5::int and not h.stale
    returning t.trigger_id, t.pipeline_id, t.kwargs::text as kwargs
),
renewed as (
    update dispatcher.slots s
    set leased_until = now() + make_interval(secs => $4::float8)
    from again a
    where s.trigger_id = a.trigger_id
),
publication as (
    insert into dispatcher.publications (publication_id, trigger_ids, swept_at, deployment_id)
    select $3::uuid, array_agg(trigger_id), now(), $7::integer from again having count(*) > 0
),
failed as (
    -- It keeps its slot until its lease ends: the last task may wait in a long queue, and may start until then.
    update dispatcher.triggers t
    set failed_at = now(), given_up = case when h.stale then 'stale' else 'never_started' end
    from held h
    where t.trigger_id = h.trigger_id and (h.attempt >= $5::int or h.stale)
    returning t.trigger_id, t.given_up
)
select trigger_id, pipeline_id, kwargs, (extract(epoch from now() + make_interval(secs => $4::float8)) * 1000000)::bigint as leased_until_us,
    null::text as given_up
from again
union all
select trigger_id, null, null, null, given_up from failed
