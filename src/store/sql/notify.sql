-- Tells changes of the rules in a table of the platform's at once. The functions stand in the table's own schema, and look at
-- columns by name when they run: a column may go or change, and the schema may be dumped and restored alone.
begin;
-- One instance at a time: two that replace a function at once get an error that is not about rights.
select pg_advisory_xact_lock(hashtext('trigger-dispatcher migrate'));
set local lock_timeout = '3s';
do $install$
declare
    home text := (select quote_ident(n.nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass('{table}'));
begin
    execute format($make$
        create or replace function %1$s.dispatcher_{table}_changed() returns trigger language plpgsql as $body$
        begin
            -- Only what the rules read counts. Rows of the same content are of no interest, so no key is needed.
            if tg_op = 'UPDATE' then
                -- By itself: only this event has such tables.
                if not exists (
                    select r.rule from is_now n, lateral (select jsonb_object_agg(key, value) as rule from jsonb_each(to_jsonb(n)) where key in ({names})) r
                    except all
                    select r.rule from was w, lateral (select jsonb_object_agg(key, value) as rule from jsonb_each(to_jsonb(w)) where key in ({names})) r
                ) then
                    return null;
                end if;
            end if;
            perform pg_notify('{channel}', '');
            return null;
        end $body$
    $make$, home);
    drop trigger if exists dispatcher_rules_changed on {table};
    drop trigger if exists dispatcher_rules_updated on {table};
    execute format('create trigger dispatcher_rules_changed after insert or delete or truncate on {table}
        for each statement execute function %1$s.dispatcher_{table}_changed()', home);
    -- Its tables of old and new rows allow one event only.
    execute format('create trigger dispatcher_rules_updated after update on {table}
        referencing old table as was new table as is_now
        for each statement execute function %1$s.dispatcher_{table}_changed()', home);
    -- The function of older versions, once no table needs it.
    if to_regprocedure('dispatcher.tell_rules_changed()') is not null
        and not exists (select from pg_trigger where tgfoid = to_regprocedure('dispatcher.tell_rules_changed()')) then
        drop function dispatcher.tell_rules_changed();
    end if;
end $install$;
commit
