-- What each deployment still owes its broker, and what it has in flight.
select d.deployment_id, d.consumer_group, d.topic, d.target,
    (select count(*) from dispatcher.publications p
        where p.deployment_id = d.deployment_id and p.enqueued_at is null and p.lapsed_at is null) as waiting,
    (select extract(epoch from now() - min(p.claimed_at))::bigint from dispatcher.publications p
        where p.deployment_id = d.deployment_id and p.enqueued_at is null and p.lapsed_at is null) as oldest_seconds,
    (select count(*) from dispatcher.slots s where s.deployment_id = d.deployment_id and s.leased_until > now()) as in_flight
from dispatcher.deployments d
union all
-- Of instances of the version before, where no deployment adopts them: as number 0, by topic.
select 0, '', t.topic, '', count(distinct p.publication_id), extract(epoch from now() - min(p.claimed_at))::bigint, 0
from dispatcher.publications p
join dispatcher.triggers t on t.trigger_id = any (p.trigger_ids)
where p.deployment_id is null and p.enqueued_at is null and p.lapsed_at is null
    and not exists (select from dispatcher.deployments d where d.topic = t.topic and d.adopts)
group by t.topic
order by 2, 3, 1
