-- Makes the row of a deployment: a consumer group ($1) on a topic ($2) with a target ($3).
with
-- The row that the migration left for the group and topic becomes that of the first target.
named as (
    update dispatcher.deployments set target = $3
    where consumer_group = $1 and topic = $2 and target = ''
    returning deployment_id
)
insert into dispatcher.deployments (consumer_group, topic, target, former_ids, looks_back, adopts)
-- All deployments of a topic make the same ids: neither a change of the broker nor a group that is made anew makes a signal new.
select $1, $2, $3, coalesce(bool_or(d.former_ids), false), coalesce(bool_or(d.looks_back), false),
    count(d.topic) = 0
from dispatcher.deployments d
where d.topic = $2
having not exists (select from named)
on conflict (consumer_group, topic, target) do nothing
