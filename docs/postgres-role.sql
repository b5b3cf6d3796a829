-- The rights that `trigger-dispatcher run` needs in PostgreSQL, and no more. Run it in the platform's database, as the owner of
-- its tables, after `trigger-dispatcher migrate` has made the schema `dispatcher` as that same owner. Safe to run again: do so
-- after every migration.
--
-- The rights belong to a role that nobody logs in as. Give the service a login of its own in it:
--     create role dispatcher_1 login password '…' in role trigger_dispatcher;
-- The service must not be able to change the platform's tables or to make objects: it runs no migration (it finds the schema up
-- to date, or says which version it needs), and the platform's tables are read only to it.
do $$
begin
    -- Roles belong to the whole server, not to a database.
    create role trigger_dispatcher nologin;
exception
    when duplicate_object or unique_violation then null;
end $$;

-- The platform. A grant on columns is enough where a table holds what the dispatcher should not see: of pipelines it reads id,
-- user_id, is_active, trigger_mode, scanner_tickers, scanner_id and signal_subscriptions; of executions id, pipeline_id, status,
-- symbol and created_at; of scanners id and config.
grant select on pipelines, executions to trigger_dispatcher;
do $$
begin
    if to_regclass('scanners') is not null then
        grant select on scanners to trigger_dispatcher;
    end if;
end $$;

-- Row-level security on these tables would hide rows: a hidden execution makes a busy pipeline look idle. The service's sessions
-- say `row_security = off`, so PostgreSQL refuses instead, and claims wait. Where a table has policies, let the login pass them (only
-- a superuser may grant that, and a role does not inherit it from the role that it is in):
--     alter role dispatcher_1 bypassrls;

-- Our own schema. The service deletes nothing of the ledger itself: partitions are made, and those that are older than
-- LEDGER_RETENTION_DAYS dropped, by functions that run with their owner's rights and refuse to touch what is in flight.
grant usage on schema dispatcher to trigger_dispatcher;
grant select on dispatcher.schema_versions, dispatcher.starts to trigger_dispatcher;
grant select, insert, update on dispatcher.triggers, dispatcher.publications, dispatcher.progress, dispatcher.deployments
    to trigger_dispatcher;
grant select, insert, update, delete on dispatcher.slots to trigger_dispatcher;
grant execute on function dispatcher.prepare_partitions(text, integer), dispatcher.old_partitions(interval), dispatcher.in_flight(text),
    dispatcher.drop_partition(text, interval), dispatcher.delete_old(text, interval, integer) to trigger_dispatcher;
