-- Frees slots whose task is over by its result: those that ran to their end ($1), and those that were revoked or expired ($2). All attempts of a
-- trigger share its task id, so a result speaks of the slot only while there was one attempt; and a task that was taken up may be
-- in the broker twice, so that the first one expires while the second one waits. The end of the lease frees those ($3 asks nothing).
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
