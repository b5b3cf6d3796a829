-- Gives up triggers ($1) of an outbox entry ($2), because their signals have passed the maximum age.
-- If the broker does not have their tasks ($3), this statement frees their slots. Otherwise a task may still start, and each slot stays
-- held until its lease ends. If the entry has no other task to publish ($4), it is closed too.
with
-- First the entry, then the slots: in the order in which sweepers take it up.
entry as materialized (
    select publication_id from dispatcher.publications where publication_id = $2::uuid for update
),
held as materialized (
    select s.pipeline_id, s.ticker, s.trigger_id
    from entry
    cross join dispatcher.slots s
    join dispatcher.triggers t on t.trigger_id = s.trigger_id
    -- Of a later attempt the broker may still have an earlier one.
    where s.trigger_id = any ($1::uuid[]) and $3::bool and t.attempt = 1
    -- in the order of claims, against deadlocks
    order by s.pipeline_id, s.ticker
    for update of s
),
freed as (
    delete from dispatcher.slots s using held h
    where s.pipeline_id = h.pipeline_id and s.ticker = h.ticker and s.trigger_id = h.trigger_id
),
over as (
    -- After the lock: a row that this statement has changed already cannot be locked by it.
    update dispatcher.publications p set lapsed_at = now()
    from entry
    where p.publication_id = entry.publication_id and p.enqueued_at is null and p.lapsed_at is null and $4::bool
)
update dispatcher.triggers t set failed_at = now(), given_up = 'stale'
where t.trigger_id = any ($1::uuid[]) and t.publication_id = $2::uuid and t.failed_at is null
returning t.trigger_id
