-- Takes partitions over: whoever held them before is fenced from here on.
with opened as (
    insert into dispatcher.progress as p (consumer_group, topic, partition, epoch)
    select $1, $2, partition, 1 from unnest($3::int[]) as u (partition) order by partition
    on conflict (consumer_group, topic, partition) do update set epoch = p.epoch + 1, updated_at = now()
    returning partition, epoch, next_offset, cluster_id, topic_id, committed_seen,
        -- Set back by an operator: what is decided of the offsets that come again.
        int8multirange(int8range(next_offset, greatest(next_offset, decided_to))) - skipped as decided
)
select partition, epoch, next_offset, cluster_id, topic_id, committed_seen,
    case when next_offset is null then '{}' else array(select lower(r) from unnest(decided) r) end as decided_from,
    case when next_offset is null then '{}' else array(select upper(r) from unnest(decided) r) end as decided_to
from opened
