-- What changed and when, kept by triggers that the dispatcher does not know of: the checker's evidence.
create schema chaos;

create table chaos.executions (id uuid, pipeline_id uuid, status text, at timestamptz not null default clock_timestamp());
create function chaos.note_execution() returns trigger language plpgsql as $$ begin
    insert into chaos.executions (id, pipeline_id, status) values (new.id, new.pipeline_id, new.status);
    return null;
end $$;
create trigger chaos_history after insert or update on executions for each row execute function chaos.note_execution();

create table chaos.attempts (
    trigger_id uuid, attempt integer, publication_id uuid, failed boolean, at timestamptz not null default clock_timestamp()
);
create function chaos.note_attempt() returns trigger language plpgsql as $$ begin
    insert into chaos.attempts (trigger_id, attempt, publication_id, failed)
    values (new.trigger_id, new.attempt, new.publication_id, new.failed_at is not null);
    return null;
end $$;
create index on chaos.attempts (trigger_id);
create trigger chaos_history after insert or update on dispatcher.triggers for each row execute function chaos.note_attempt();

-- decided_at is the transaction's time, which claims carry too; at is when the row was written.
create table chaos.progress (
    number bigserial primary key, topic text, partition integer, epoch bigint, next_offset bigint, consumed bigint,
    decided_at timestamptz not null default now(), at timestamptz not null default clock_timestamp()
);
create function chaos.note_progress() returns trigger language plpgsql as $$ begin
    insert into chaos.progress (topic, partition, epoch, next_offset, consumed)
    values (new.topic, new.partition, new.epoch, new.next_offset, new.consumed);
    return null;
end $$;
create trigger chaos_history after insert or update on dispatcher.progress for each row execute function chaos.note_progress();
