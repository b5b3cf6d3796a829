-- As the version before deployments had it, filled in for the sample platform. Not to be changed.
-- Takes up publications that were claimed but never confirmed: whoever claimed them has crashed, or cannot reach the broker.
-- Compare-and-set throughout: any number of sweepers may race, and a slot that has passed on is left alone.
with
due as materialized (
    select publication_id, trigger_ids
    from dispatcher.publications
    where enqueued_at is null and lapsed_at is null
        and claimed_at < now() - make_interval(secs => $1::float8)
        and coalesce(swept_at < now() - make_interval(secs => $1::float8), true)
    order by claimed_at
    limit 50
    for update skip locked
),
-- Locked in the order in which claims lock them: in any other, the two deadlock.
held as materialized (
    select s.pipeline_id, s.ticker, t.publication_id, t.trigger_id
    from due
    -- a trigger that was enqueued again belongs to its new publication
    join dispatcher.triggers t on t.trigger_id = any (due.trigger_ids) and t.publication_id = due.publication_id
    join dispatcher.slots s on s.pipeline_id = t.pipeline_id and s.ticker = t.ticker and s.trigger_id = t.trigger_id
    order by s.pipeline_id, s.ticker
    for update of s
),
renewed as (
    update dispatcher.slots s
    set leased_until = now() + make_interval(secs => $2::float8)
    from held
    where s.pipeline_id = held.pipeline_id and s.ticker = held.ticker and s.trigger_id = held.trigger_id
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
        lapsed_at = case when exists (select from renewed r where r.publication_id = p.publication_id) then null else now() end
    from due
    where p.publication_id = due.publication_id
    returning p.publication_id, p.lapsed_at
)
select t.publication_id, n.trigger_id, n.pipeline_id, n.kwargs,
    (extract(epoch from now() + make_interval(secs => $2::float8)) * 1000000)::bigint as leased_until_us
from taken t left join noted n using (publication_id)
order by t.publication_id, n.pipeline_id
