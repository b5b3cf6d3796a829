-- Slots in flight that are ours, by key, after the last one that was seen.
select s.pipeline_id, s.ticker, s.trigger_id
from dispatcher.slots s
where (s.pipeline_id, s.ticker) > ($1, $2) and s.leased_until > now()
    and (s.deployment_id = $4::integer or $4::integer is null or s.deployment_id is null and $5::bool and exists (
        select from dispatcher.triggers o where o.trigger_id = s.trigger_id and o.topic = $6::text))
order by s.pipeline_id, s.ticker
limit $3
