-- What the newest triggers ($1) tell of the workers: whether they leave the worker guard's marks, and whether their executions
-- have our ids. A canary's mark, or one of another task, belongs to no trigger of ours.
with
sign as materialized (
    select
        s.claimed_at,
        -- scalar subqueries: else PostgreSQL may read the whole table for them
        coalesce((select true from dispatcher.starts g where g.trigger_id = s.trigger_id limit 1), false) as marked,
        {by_id} as has_our_id,
        {by_time} as made_since
    from (
        select t.trigger_id, t.pipeline_id, t.ticker, t.claimed_at
        from unnest($1::uuid[]) as u (trigger_id)
        cross join lateral (select * from dispatcher.triggers t where t.trigger_id = u.trigger_id limit 1) t
    ) s
),
-- Where executions have our ids, any other execution was started by somebody else, and tells nothing of our task.
started as materialized (
    select marked from sign
    where marked or has_our_id or (made_since and not (select bool_or(has_our_id) from sign))
    order by claimed_at desc
    limit 20
)
select
    (select count(*) from started) as starts,
    (select count(*) from started where marked) as marks,
    (select count(*) from sign where has_our_id) as with_our_id,
    (select count(*) from sign where made_since and not has_our_id) as with_other_ids
