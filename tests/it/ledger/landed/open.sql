-- As the version before deployments had it, filled in for the sample platform. Not to be changed.
-- Takes partitions over: whoever held them before is fenced from here on.
insert into dispatcher.progress as p (consumer_group, topic, partition, epoch)
select $1, $2, partition, 1 from unnest($3::int[]) as u (partition) order by partition
on conflict (consumer_group, topic, partition) do update set epoch = p.epoch + 1, updated_at = now()
returning partition, epoch, next_offset
