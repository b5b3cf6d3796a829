-- Whether the outbox entry `p` is of our deployment ($3). One without a deployment was written by an instance of the version before: it is
-- ours if we adopt ($4) what is of our topic ($5).
(p.deployment_id = $3::integer or $3::integer is null or p.deployment_id is null and $4::bool and exists (
    select from dispatcher.triggers o where o.trigger_id = any (p.trigger_ids) and o.topic = $5::text))
