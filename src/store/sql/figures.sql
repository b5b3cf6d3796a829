-- For the metrics: what our deployment owes its broker, tasks that left no trace of a start, and what became of the group's records.
select
    (select count(*) from dispatcher.publications p
        where p.deployment_id = $1::integer and p.enqueued_at is null and p.lapsed_at is null) as waiting,
    (select coalesce(extract(epoch from now() - min(p.claimed_at)), 0)::bigint from dispatcher.publications p
        where p.deployment_id = $1::integer and p.enqueued_at is null and p.lapsed_at is null) as oldest_seconds,
    (select count(*) from dispatcher.slots s
        join dispatcher.triggers t on t.trigger_id = s.trigger_id
        join dispatcher.publications p on p.publication_id = t.publication_id
        where s.deployment_id = $1::integer and s.leased_until > now() and t.failed_at is null and p.enqueued_at is not null
            and not exists (select from dispatcher.starts g where g.trigger_id = t.trigger_id)
            and not ({over})) as not_started,
    g.consumed, g.triggered, g.busy, g.redelivered, g.merged, g.unmatched, g.stale, g.invalid
from (
    select coalesce(sum(consumed), 0)::bigint as consumed, coalesce(sum(triggered), 0)::bigint as triggered,
        coalesce(sum(busy), 0)::bigint as busy, coalesce(sum(redelivered), 0)::bigint as redelivered,
        coalesce(sum(merged), 0)::bigint as merged, coalesce(sum(unmatched), 0)::bigint as unmatched,
        coalesce(sum(stale), 0)::bigint as stale, coalesce(sum(invalid), 0)::bigint as invalid
    from dispatcher.progress
    where consumer_group = (select d.consumer_group from dispatcher.deployments d where d.deployment_id = $1::integer)
        and topic = $2::text) g
