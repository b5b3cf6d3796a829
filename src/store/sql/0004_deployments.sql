-- Several deployments may share one database. A deployment is a consumer group, a topic and a target (broker and queue). It
-- publishes, retries and releases only its own triggers. Slots are shared: a pipeline has one execution in flight, whoever
-- started it.
--
-- Only new tables and columns, each with a default: instances of the version before go on beside new ones. `if not exists`
-- lets an operator go back to the version before (docs/migrating.md) and forward again.
create table if not exists dispatcher.deployments (
    deployment_id integer generated always as identity primary key,
    consumer_group text not null,
    topic text not null,
    -- where its tasks go, without credentials; '' until the first instance of this version registers
    target text not null,
    -- trigger ids as the version before made them, without the deployment
    former_ids boolean not null default false,
    -- ids of the version before are looked up too: several topics shared them
    looks_back boolean not null default false,
    -- takes the rows of its topic that name no deployment: instances of the version before wrote them
    adopts boolean not null default false,
    -- an execution with a trigger's id was seen once: since then, executions of the slot that have other ids are somebody else's
    workers_use_our_ids boolean not null default false,
    created_at timestamptz not null default now(),
    unique (consumer_group, topic, target)
);
-- Back and forward again: instances of the version before have made ids of before meanwhile, whatever the deployment.
update dispatcher.deployments set looks_back = true where not former_ids;
-- The topic of which most was decided keeps the ids of before, so a signal that comes again finds its own trigger. Other topics
-- get ids of their own and look back. Where some are registered already, the new ones come after them.
insert into dispatcher.deployments (consumer_group, topic, target, former_ids, looks_back, adopts)
select n.consumer_group, n.topic, '', n.keeps_ids, not n.keeps_ids,
    n.is_only_of_topic and not exists (select from dispatcher.deployments d where d.topic = n.topic and d.adopts)
from (
    select p.consumer_group, p.topic,
        p.topic = coalesce(
            (select d.topic from dispatcher.deployments d where d.former_ids limit 1),
            -- One that nobody has read for a week is gone.
            (select m.topic from dispatcher.progress m group by m.topic
                order by max(m.updated_at) > now() - interval '7 days' desc, sum(m.consumed) desc, m.topic limit 1)) as keeps_ids,
        -- Of several groups nobody knows whose such a row is: an operator hands it over (outbox move --from 0).
        count(*) over (partition by p.topic) = 1 as is_only_of_topic
    from dispatcher.progress p
    where not exists (select from dispatcher.deployments d where d.consumer_group = p.consumer_group and d.topic = p.topic)
    group by p.consumer_group, p.topic
) n;

alter table dispatcher.schema_versions
    -- the oldest version whose programs can work with this one; null: only programs that know it
    add column if not exists works_with integer;

-- Null: written by an instance of the version before.
alter table dispatcher.publications add column if not exists deployment_id integer;
alter table dispatcher.slots add column if not exists deployment_id integer;
alter table dispatcher.triggers
    -- Kafka's time of the record that leads: how old the signal is
    add column if not exists signal_time timestamptz,
    -- why `failed_at` is set: 'never_started', or 'stale' (the signal was too old before its task reached the broker)
    add column if not exists given_up text;

alter table dispatcher.progress
    -- which Kafka cluster and which incarnation of the topic the offsets are of; null: not known yet
    add column if not exists cluster_id text,
    add column if not exists topic_id text,
    -- the offset that Kafka had committed for the group when an operator last set ours: one beyond it is somebody else's work
    add column if not exists committed_seen bigint,
    -- offsets below it were decided or skipped before; null: as far as next_offset
    add column if not exists decided_to bigint,
    -- of these, the ones that were skipped, never decided
    add column if not exists skipped int8multirange not null default '{}';
