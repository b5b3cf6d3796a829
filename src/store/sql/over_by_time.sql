-- Whether anyone has made an execution for the slot `s` since its claim, such as a worker with ids of its own.
coalesce((
    select true
    from executions e
    where e.pipeline_id = {slot_pipeline_id}
        and (s.ticker = '' or coalesce({symbol}, s.ticker) = s.ticker)
        and {made_since}
    limit 1
), false)
