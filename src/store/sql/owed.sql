-- What each deployment still owes its broker, and what it has in flight.
select d.deployment_id, d.consumer_group, d.topic, d.target,
    (select count(*) from dispatcher.publications p
        where p.deployment_id = d.deployment_id and p.enqueued_at is null and p.lapsed_at is null) as waiting,
    (select extract(epoch from now() - min(p.claimed_at))::bigint from dispatcher.publications p
        where p.deployment_id = d.deployment_id and p.enqueued_at is null and p.lapsed_at is null) as oldest_seconds,
    (select count(*) from dispatcher.slots s where s.deployment_id = d.deployment_id and s.leased_until > now()) as in_flight
from dispatcher.deployments d
order by d.consumer_group, d.topic, d.deployment_id
