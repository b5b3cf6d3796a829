-- The rights that the worker guard (`PostgresStarts`) needs in PostgreSQL, and no more. Run it in the platform's database, as the owner
-- of the schema `dispatcher`, after `trigger-dispatcher migrate`. Safe to run again.
--
-- The rights belong to a role that nobody logs in as. Give them to the role that the workers log in as:
--     grant trigger_dispatcher_worker to the_workers_role;
do $$
begin
    -- Roles belong to the whole server, not to a database.
    create role trigger_dispatcher_worker nologin;
exception
    when duplicate_object or unique_violation then null;
end $$;

grant usage on schema dispatcher to trigger_dispatcher_worker;
-- It deletes nothing: `trigger-dispatcher prune` forgets old marks.
grant select, insert, update on dispatcher.starts to trigger_dispatcher_worker;
