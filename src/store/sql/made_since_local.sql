-- The column holds local times. In the hour that the end of summer time repeats, a local time means two instants: the earlier one
-- counts, or an execution of before the claim would free the slot. An hour before, the local time is unique.
(
    -- alone it lets too many through, but an index on (pipeline_id, created_at) can serve it
    e.created_at > (s.claimed_at at time zone {zone})
    and least(e.created_at at time zone {zone}, ((e.created_at - interval '1 hour') at time zone {zone}) + interval '1 hour') > s.claimed_at
)
