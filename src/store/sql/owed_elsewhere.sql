-- Entries older than a minute that other targets of our group and topic still wait for.
select d.deployment_id, d.target, count(*)
from dispatcher.deployments ours
join dispatcher.deployments d on d.consumer_group = ours.consumer_group and d.topic = ours.topic and d.deployment_id <> ours.deployment_id
join dispatcher.publications p on p.deployment_id = d.deployment_id
where ours.deployment_id = $1 and p.enqueued_at is null and p.lapsed_at is null and p.claimed_at < now() - interval '1 minute'
group by d.deployment_id, d.target
union all
-- Those that name no deployment, where none of the topic adopts them.
select 0, 'unknown', count(*)
from dispatcher.publications p
where p.deployment_id is null and p.enqueued_at is null and p.lapsed_at is null and p.claimed_at < now() - interval '1 minute'
    and exists (select from dispatcher.triggers t join dispatcher.deployments ours using (topic)
        where t.trigger_id = any (p.trigger_ids) and ours.deployment_id = $1
            and not exists (select from dispatcher.deployments d where d.topic = t.topic and d.adopts))
having count(*) > 0
