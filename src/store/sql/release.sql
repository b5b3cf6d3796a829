-- Frees slots by the results of their tasks: $1 ended, $2 were revoked or expired.
-- All attempts of a trigger share one task id. After a second attempt nobody can tell which of them a result belongs to, so the slot
-- stays held. The broker may hold a task twice if a sweeper took up its outbox entry: one copy can expire while the other still
-- waits, so an expiry frees no such slot. In both cases the end of the lease frees it. $3 (a planted bug) skips these checks.
with held as materialized (
    select s.pipeline_id, s.ticker
    from dispatcher.slots s
    join dispatcher.triggers t on t.trigger_id = s.trigger_id
    join dispatcher.publications p on p.publication_id = t.publication_id
    where (s.trigger_id = any ($1::uuid[]) or s.trigger_id = any ($2::uuid[]))
        and ($3::bool or t.attempt = 1 and (s.trigger_id = any ($1::uuid[]) or p.swept_at is null))
    -- In the order of claims, against deadlocks. A new attempt that is made meanwhile is seen: its row is locked too.
    order by s.pipeline_id, s.ticker
    for update of s, t
)
delete from dispatcher.slots s using held h where s.pipeline_id = h.pipeline_id and s.ticker = h.ticker
