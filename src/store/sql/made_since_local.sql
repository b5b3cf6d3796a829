-- The column holds local times. Where the clocks go back, a local time means two instants: the earlier one counts, or an execution
-- of before the claim would free the slot. Clocks go back by half an hour, an hour or two.
(
    -- Alone it lets too many through, but an index on (pipeline_id, created_at) can serve it.
    e.created_at > (s.claimed_at at time zone {zone})
    and (
        select min(i.instant)
        from (select e.created_at at time zone {zone} as usual offset 0) u
        cross join lateral (
            values (u.usual), (u.usual - interval '30 minutes'), (u.usual - interval '1 hour'), (u.usual - interval '2 hours')
        ) i (instant)
        -- A local time that the clocks have skipped is none of these.
        where i.instant = u.usual or (i.instant at time zone {zone}) = e.created_at
    ) > s.claimed_at
)
