-- Takes up outbox entries that were claimed and never confirmed: whoever claimed them has crashed, or cannot reach the broker.
-- A sweeper asks for all that are due ($7 null); the loop asks for its own by id. Compare-and-set throughout: any number may race,
-- and a slot that has passed on is left alone.
with
due as materialized (
    select p.publication_id, p.trigger_ids, p.claimed_at
    from dispatcher.publications p
    where p.enqueued_at is null and p.lapsed_at is null
        and {ours}
        and case when $7::uuid[] is null then
            p.claimed_at < now() - make_interval(secs => $1::float8)
            and coalesce(p.swept_at < now() - make_interval(secs => $1::float8), true)
        else p.publication_id = any ($7::uuid[]) end
    order by p.claimed_at
    limit 50
    for update skip locked
),
-- Locked in the order in which claims lock them: in any other, the two deadlock.
held as materialized (
    select s.pipeline_id, s.ticker, t.publication_id, t.trigger_id,
        coalesce(coalesce(t.signal_time, t.claimed_at) < now() - make_interval(secs => $6::float8), false) as stale,
        -- Has the task started? A mark of the worker guard or an execution with the trigger's id proves it. An execution with another id
        -- counts only if the entry is older than $8, when Redis may have lost the guard against a second publication. For a younger entry
        -- that execution may be a run that a user started by hand.
        exists (select from dispatcher.starts g where g.trigger_id = t.trigger_id)
            or {by_id}
            or due.claimed_at < now() - make_interval(secs => $8::float8) and {trusts_time} and {by_time} as started
    from due
    -- a trigger that was enqueued again belongs to its new entry
    join dispatcher.triggers t on t.trigger_id = any (due.trigger_ids) and t.publication_id = due.publication_id
    join dispatcher.slots s on s.pipeline_id = t.pipeline_id and s.ticker = t.ticker and s.trigger_id = t.trigger_id
    where t.failed_at is null
    order by s.pipeline_id, s.ticker
    for update of s
),
-- Triggers whose slot has passed on: they may have started, and be over, before anybody confirmed that the broker had them.
gone as materialized (
    select s.publication_id, s.trigger_id,
        exists (select from dispatcher.starts g where g.trigger_id = s.trigger_id) or {by_id} as started
    from due
    join dispatcher.triggers s on s.trigger_id = any (due.trigger_ids) and s.publication_id = due.publication_id
    where s.failed_at is null and not exists (
        select from dispatcher.slots o where o.pipeline_id = s.pipeline_id and o.ticker = s.ticker and o.trigger_id = s.trigger_id)
),
-- The loop leaves an entry with a stale signal to the sweepers, and changes nothing.
mode as materialized (
    select $7::uuid[] is null or not coalesce(bool_or(stale and not started), false) as acts from held
),
renewed as (
    update dispatcher.slots s
    set leased_until = now() + make_interval(secs => $2::float8)
    from held, mode
    where mode.acts and s.pipeline_id = held.pipeline_id and s.ticker = held.ticker and s.trigger_id = held.trigger_id
        and not held.stale and not held.started
    returning held.publication_id, held.trigger_id
),
noted as (
    update dispatcher.triggers t
    set leased_until = now() + make_interval(secs => $2::float8)
    from renewed r
    where t.trigger_id = r.trigger_id
    returning t.publication_id, t.trigger_id, t.pipeline_id, t.kwargs::text as kwargs
),
taken as (
    update dispatcher.publications p
    set swept_at = now(),
        enqueued_at = case when f.some_started and not f.some_left then now() end,
        lapsed_at = case when not f.some_started and not f.some_left then now() end
    from (
        select due.publication_id,
            coalesce(bool_or(h.started), false) as some_started,
            coalesce(bool_or(h.held and not h.started), false) as some_left
        from due left join (
            select publication_id, started, true as held from held
            union all
            select publication_id, started, false from gone
        ) h using (publication_id)
        group by due.publication_id
    ) f, mode
    where mode.acts and p.publication_id = f.publication_id
    returning p.publication_id, f.some_started, p.claimed_at < now() - make_interval(secs => $8::float8) as is_old
)
select t.publication_id, f.what, f.trigger_id, f.kwargs,
    (extract(epoch from now() + make_interval(secs => $2::float8)) * 1000000)::bigint as leased_until_us,
    t.some_started, f.pipeline_id, t.is_old
from taken t
left join (
    select publication_id, 'task' as what, trigger_id, pipeline_id, kwargs from noted
    union all
    select publication_id, 'stale', trigger_id, pipeline_id, null from held where stale and not started
    union all
    select publication_id, 'gone', trigger_id, null, null from gone where not started
) f using (publication_id)
union all
select publication_id, 'left', null, null, 0, false, null, false from due, mode where not mode.acts
order by publication_id, pipeline_id
