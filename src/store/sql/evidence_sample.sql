-- The newest triggers of a deployment ($1; null: of all), for evidence.sql. The ledger has no index by time, but its rows stand in
-- the order of their claims: the last pages of the partition that takes rows now hold the newest.
with
place as materialized (
    select since, pages
    from (
        select
            coalesce(substring(bound from $re$FROM \('([^']+)'\)$re$)::timestamptz, '-infinity') as since,
            coalesce(substring(bound from $re$TO \('([^']+)'\)$re$)::timestamptz, 'infinity') as until,
            pg_relation_size(id) / current_setting('block_size')::bigint as pages
        from (
            select pg_get_expr(c.relpartbound, c.oid) as bound, c.oid as id
            from pg_inherits i
            join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'dispatcher.publications'::regclass
        ) b
        -- the default partition has no bounds
        where b.bound like 'FOR VALUES%'
    ) p
    where now() >= since and now() < until
    limit 1
),
ours as materialized (
    select u.trigger_id
    from (
        select b.claimed_at, b.trigger_ids
        from dispatcher.publications b
        where b.claimed_at >= (select since from place)
            and b.claimed_at > now() - interval '7 days'
            and b.ctid >= (select format('(%s,0)', greatest(pages - 64, 0))::tid from place)
            and ($1::int is null or b.deployment_id = $1)
        order by b.claimed_at desc
        limit 100
    ) b
    cross join lateral unnest(b.trigger_ids) as u (trigger_id)
    order by b.claimed_at desc
    limit 100
),
-- Where a new partition has just begun, or others claim more: who holds a slot.
holding as (
    select s.trigger_id
    from dispatcher.slots s
    where (select count(*) < 20 from ours)
        and s.claimed_at > now() - interval '7 days'
        and ($1::int is null or s.deployment_id = $1)
    order by s.claimed_at desc
    limit 100
)
select trigger_id from ours union select trigger_id from holding
