-- Hands what a deployment ($1) still owes its broker over to another one ($2): the entries that wait, and the slots of their triggers.
-- 0 is for entries of a topic ($3) that name no deployment.
with moved as (
    update dispatcher.publications p set deployment_id = $2::integer, swept_at = null
    where p.enqueued_at is null and p.lapsed_at is null
        and case when $1::integer > 0 then p.deployment_id = $1::integer else p.deployment_id is null and exists (
            select from dispatcher.triggers t where t.trigger_id = any (p.trigger_ids) and t.topic = $3::text) end
    returning p.trigger_ids
),
held as materialized (
    select s.pipeline_id, s.ticker from dispatcher.slots s
    where s.trigger_id in (select unnest(trigger_ids) from moved)
    -- in the order of claims, against deadlocks
    order by s.pipeline_id, s.ticker
    for update
),
slots as (
    update dispatcher.slots s set deployment_id = $2::integer
    from held h where s.pipeline_id = h.pipeline_id and s.ticker = h.ticker
)
select count(*) as entries, coalesce(sum(cardinality(trigger_ids)), 0)::bigint as tasks from moved
