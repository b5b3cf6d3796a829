-- The ledger by time (ADR 8): what is older than the retention goes away as a whole partition, and an insert meets a small
-- index. The tables of before become the first partitions, with all their rows and indexes: one scan each proves their bound.
declare
    -- Partitions begin at midnights, UTC. The first one lasts a day longer than it must: upkeep has that long for the next.
    border timestamptz := (date_trunc('day', now() at time zone 'UTC') + interval '2 days') at time zone 'UTC';
    ledger text;
    granted record;
begin
    alter index dispatcher.publications_waiting rename to publications_first_waiting;
    foreach ledger in array array['triggers', 'publications'] loop
        execute format('alter table dispatcher.%I rename to %I', ledger, ledger || '_first');
        -- No key of its own: it would have to hold the time too, and forbid nothing. Each partition has one of ids alone.
        execute format('create table dispatcher.%I (like dispatcher.%I including defaults) partition by range (claimed_at)',
            ledger, ledger || '_first');
    end loop;
    create index publications_waiting on dispatcher.publications (claimed_at) where enqueued_at is null and lapsed_at is null;
    foreach ledger in array array['triggers', 'publications'] loop
        -- Who may use the table may use it in its new form.
        for granted in
            select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role, a.privilege_type
            from pg_class c, aclexplode(c.relacl) a
            where c.oid = format('dispatcher.%I', ledger || '_first')::regclass and a.grantee <> c.relowner
        loop
            execute format('grant %s on dispatcher.%I to %s', granted.privilege_type, ledger, granted.role);
        end loop;
        execute format('alter table dispatcher.%I add constraint before_the_border check (claimed_at < %L)', ledger || '_first', border);
        execute format('alter table dispatcher.%I attach partition dispatcher.%I for values from (minvalue) to (%L)',
            ledger, ledger || '_first', border);
        execute format('alter table dispatcher.%I drop constraint before_the_border', ledger || '_first');
    end loop;
end;

-- A partition that is not attached yet.
create function dispatcher.make_partition(ledger text, name text) returns void
language plpgsql as $function$
begin
    execute format('create table dispatcher.%I (like dispatcher.%I including defaults, primary key (%I)) with (fillfactor = %s)',
        name, ledger,
        case ledger when 'triggers' then 'trigger_id' else 'publication_id' end,
        case ledger when 'triggers' then 100 else 70 end);
end $function$;

-- No claim ever fails for want of a partition.
perform dispatcher.make_partition('triggers', 'triggers_default');
alter table dispatcher.triggers attach partition dispatcher.triggers_default default;
perform dispatcher.make_partition('publications', 'publications_default');
alter table dispatcher.publications attach partition dispatcher.publications_default default;

-- The partitions of both tables; `until` is null for the default one.
create function dispatcher.ledger_partitions() returns table (ledger text, partition text, until timestamptz, id oid, rows_about bigint)
language sql stable set datestyle = 'ISO' as $function$
    select p.relname::text, c.relname::text,
        substring(pg_get_expr(c.relpartbound, c.oid) from $re$TO \('([^']+)'\)$re$)::timestamptz, c.oid, greatest(c.reltuples, 0)::bigint
    from pg_inherits i
    join pg_class p on p.oid = i.inhparent
    join pg_class c on c.oid = i.inhrelid
    where p.oid in ('dispatcher.triggers'::regclass, 'dispatcher.publications'::regclass) and p.relkind = 'p'
$function$;

-- What follows locks one of the two tables in a transaction, and whoever does so is alone: claims use both, and would deadlock with
-- whoever locks one after the other.

-- Makes the partitions that are needed soon; says which, and whether claims have had to use the default one.
create function dispatcher.prepare_partitions(of_ledger text, days integer)
returns table (partition text, from_default boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '2s' as $function$
#variable_conflict use_column
declare
    span constant interval := make_interval(days => days);
    ahead constant timestamptz := now() + greatest(span, interval '2 days');
    spare text := of_ledger || '_default';
    top timestamptz;
    border timestamptz;
    stray boolean;
begin
    if of_ledger not in ('triggers', 'publications') or days < 1 then
        raise invalid_parameter_value using message = 'no such ledger, or less than a day';
    end if;
    top := (select max(p.until) from dispatcher.ledger_partitions() p where p.ledger = of_ledger);
    if top >= ahead or not pg_try_advisory_xact_lock(hashtext('trigger-dispatcher upkeep')) then
        return;
    end if;
    -- The lock is ours: what others have made meanwhile counts.
    top := coalesce((select max(p.until) from dispatcher.ledger_partitions() p where p.ledger = of_ledger), date_trunc('day', now()));
    while top < ahead loop
        border := top + span;
        partition := of_ledger || to_char(top, '_YYYYMMDD');
        from_default := false;
        if top <= now() then
            -- Nobody has made the present one in time. The default partition becomes it, and a new one takes its place.
            border := date_trunc('day', now()) + interval '1 day';
            execute format('lock table only dispatcher.%I in access exclusive mode', of_ledger);
            execute format('select exists (select from dispatcher.%I where claimed_at >= %L)', spare, top) into from_default;
        end if;
        if from_default then
            execute format('alter table dispatcher.%I detach partition dispatcher.%I', of_ledger, spare);
            execute format('alter table dispatcher.%I rename to %I', spare, partition);
            perform dispatcher.make_partition(of_ledger, spare);
            execute format('with moved as (delete from dispatcher.%I where claimed_at < %L or claimed_at >= %L returning *)
                insert into dispatcher.%I select * from moved', partition, top, border, spare);
            execute format('alter table dispatcher.%I attach partition dispatcher.%I default', of_ledger, spare);
        else
            perform dispatcher.make_partition(of_ledger, partition);
        end if;
        execute format('alter table dispatcher.%I attach partition dispatcher.%I for values from (%L) to (%L)',
            of_ledger, partition, top, border);
        return next;
        top := border;
    end loop;
end $function$;

-- Whether anything that is not over refers to a partition: a running lease, or a publication that a sweeper may still take up.
-- Null if there is no such partition.
create function dispatcher.in_flight(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $function$
declare
    of_ledger text := (select p.ledger from dispatcher.ledger_partitions() p where p.partition = name);
    found_one boolean;
begin
    if of_ledger is null then
        return null;
    end if;
    execute format(case of_ledger
        when 'triggers' then
            'select exists (select from dispatcher.slots s join dispatcher.%1$I t using (trigger_id) where s.leased_until > now())
                 or exists (select from dispatcher.publications b cross join unnest(b.trigger_ids) as i (id)
                     join dispatcher.%1$I t on t.trigger_id = i.id where b.enqueued_at is null and b.lapsed_at is null)'
        else
            'select exists (select from dispatcher.%1$I where enqueued_at is null and lapsed_at is null)
                 or exists (select from dispatcher.slots s join dispatcher.triggers t using (trigger_id)
                     join dispatcher.%1$I b using (publication_id) where s.leased_until > now())'
        end, name) into found_one;
    return found_one;
exception
    -- Dropped since we looked for it.
    when undefined_table then return null;
end $function$;

-- Partitions whose every row is older, the oldest first.
create function dispatcher.old_partitions(older_than interval)
returns table (partition text, until timestamptz, rows_about bigint, bytes bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $function$
    select p.partition, p.until, p.rows_about, coalesce(pg_total_relation_size(p.id), 0)
    from dispatcher.ledger_partitions() p
    where p.until <= now() - older_than
    order by p.until, p.partition
$function$;

-- Drops one of them: 'dropped'; or 'in flight', 'gone', or 'another' if another instance prunes at the time.
create function dispatcher.drop_partition(name text, older_than interval) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $function$
declare
    of_ledger text;
begin
    if older_than < interval '1 day' then
        raise invalid_parameter_value using message = 'a day is the least that is kept';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('trigger-dispatcher upkeep')) then
        return 'another';
    end if;
    of_ledger := (select p.ledger from dispatcher.ledger_partitions() p where p.partition = name and p.until <= now() - older_than);
    if of_ledger is null then
        return 'gone';
    end if;
    -- This keeps claims and sweeps out. Whoever looks first without it holds locks that they may have to wait for: a deadlock.
    execute format('lock table only dispatcher.%I in access exclusive mode', of_ledger);
    if dispatcher.in_flight(name) is distinct from false then
        return 'in flight';
    end if;
    execute format('drop table dispatcher.%I', name);
    return 'dropped';
end $function$;

-- Rows that are older in a table without partitions by time, and over: at most so many are deleted, or with 0 counted only.
create function dispatcher.delete_old(table_name text, older_than interval, most integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $function$
declare
    old text;
    found_rows bigint;
begin
    if older_than < interval '1 day' then
        raise invalid_parameter_value using message = 'a day is the least that is kept';
    end if;
    old := case table_name
        when 'starts' then 'coalesce(finished_at, leased_until) < now() - $1'
        when 'slots' then 'leased_until < now() - $1'
        when 'triggers_default' then 'claimed_at < now() - $1 and not exists (
            select from dispatcher.slots s where s.trigger_id = old.trigger_id and s.leased_until > now())
            and not exists (select from dispatcher.publications b
                where b.enqueued_at is null and b.lapsed_at is null and old.trigger_id = any (b.trigger_ids))'
        when 'publications_default' then 'claimed_at < now() - $1 and (enqueued_at is not null or lapsed_at is not null)'
    end;
    if old is null then
        raise invalid_parameter_value using message = 'nothing is deleted from such a table';
    end if;
    if most = 0 then
        execute format('select count(*) from dispatcher.%I old where %s', table_name, old) into found_rows using older_than;
    else
        -- Locked ones are in use, whatever their age.
        execute format('delete from dispatcher.%1$I where ctid = any (array(
            select ctid from dispatcher.%1$I old where %2$s limit $2 for update skip locked))', table_name, old) using older_than, most;
        get diagnostics found_rows = row_count;
    end if;
    return found_rows;
end $function$;
create index if not exists starts_over on dispatcher.starts (coalesce(finished_at, leased_until));

-- Two claims of one trigger at the same time, on either side of midnight, meet no key that both are in. The slot lets one of them
-- win, but it may be free again before the other one comes; and that one's statement sees nothing newer than itself. This does.
create function dispatcher.may_cross_a_border() returns boolean
language sql stable as $function$
    -- A claim takes at most 30 s (its commit may hang for longer), and its time is that of its beginning.
    select (extract(epoch from now())::bigint + 600) % 86400 < 1200
$function$;
grant execute on function dispatcher.may_cross_a_border() to public;
create function dispatcher.refuse_doubles() returns trigger
language plpgsql as $function$
begin
    -- By itself: together with the question below it would be a query, and not just a comparison.
    if not dispatcher.may_cross_a_border() then
        return null;
    end if;
    if exists (
        select from claimed c
        where exists (select from dispatcher.triggers t where t.trigger_id = c.trigger_id and t.claimed_at <> c.claimed_at)
    ) then
        raise unique_violation using message = 'a trigger was claimed a moment ago, in another partition';
    end if;
    return null;
end $function$;
create trigger refuse_doubles after insert on dispatcher.triggers
    referencing new table as claimed for each statement execute function dispatcher.refuse_doubles();

-- Whom they serve is for the owner to say (docs/postgres-role.sql).
revoke all on function dispatcher.make_partition(text, text), dispatcher.prepare_partitions(text, integer),
    dispatcher.old_partitions(interval), dispatcher.in_flight(text), dispatcher.drop_partition(text, interval), dispatcher.delete_old(text, interval, integer)
    from public;
