-- Where partitions are read from, before their records are decided. Only what is not known yet is written, and only by their
-- owner.
with
found as (
    select *
    from unnest($3::int[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::boolean[], $9::bigint[])
        as u (partition, epoch, next_offset, cluster_id, topic_id, is_told, skips_from)
),
-- Sorted by key, as claims lock them.
held as materialized (
    select p.partition
    from dispatcher.progress p
    join found f using (partition, epoch)
    where p.consumer_group = $1 and p.topic = $2 and p.partition = any ($3::int[])
    order by p.partition
    for update of p
)
update dispatcher.progress p
-- A repetition comes late, and finds an offset that has moved on.
set next_offset = greatest(p.next_offset, f.next_offset),
    skipped = case
        -- Reading begins at the end. An operator may have these records decided later.
        when p.next_offset is null and f.skips_from < f.next_offset then int8multirange(int8range(f.skips_from, f.next_offset))
        -- Another member of the group has decided the records up to there.
        when isempty(p.skipped) or p.next_offset is null then p.skipped
        else p.skipped - int8multirange(int8range(p.next_offset, greatest(p.next_offset, f.next_offset)))
    end,
    cluster_id = coalesce(p.cluster_id, f.cluster_id),
    topic_id = coalesce(p.topic_id, f.topic_id),
    committed_seen = case when not f.is_told then p.committed_seen end,
    updated_at = now()
from held h join found f using (partition)
where p.consumer_group = $1 and p.topic = $2 and p.partition = h.partition
returning p.partition
