-- As the version before deployments had it, filled in for the sample platform. Not to be changed.
-- Records that no offset has passed, though parts of their batch were decided.
select distinct t.partition, t.record_offset
from dispatcher.progress p
join dispatcher.publications b on b.publication_id = any (p.parts)
join dispatcher.triggers t on t.trigger_id = any (b.trigger_ids)
where p.consumer_group = $1 and p.topic = $2 and p.partition = any ($3::int[])
    and t.topic = p.topic and t.partition = p.partition and t.record_offset >= coalesce(p.next_offset, 0)
