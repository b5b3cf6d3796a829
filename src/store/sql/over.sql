-- Whether the trigger that holds the slot `s` is over, given that no execution of the slot is active: it has an execution of its
-- own, or a worker with ids of its own has made one since the claim. Scalar subqueries, because PostgreSQL would turn
-- `exists ... or exists ...` into a scan of all executions.
(
    coalesce((select true from executions e where {id_is_trigger} limit 1), false)
    or coalesce((
        select true
        from executions e
        where e.pipeline_id = {slot_pipeline_id}
            and (s.ticker = '' or coalesce(upper(trim({symbol})), s.ticker) = s.ticker)
            and {created_at} > s.claimed_at
        limit 1
    ), false)
)
