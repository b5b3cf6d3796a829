//! What the operator must know of the platform's tables and of its server before claims trust them: what may hide an execution, in
//! which zone times are read, what may lose a commit. Each is told once. Does IO.

use std::collections::HashSet;

use super::StoreError;
use super::catalog::{LOCAL, is_utc};
use super::database::Connection;

/// Tells what has not been told before.
///
/// # Errors
/// PostgreSQL does not answer, or claims could not trust what it would show them.
pub(super) async fn look(connection: &Connection, time_zone: &str, told: &mut HashSet<String>) -> Result<(), StoreError> {
    look_at_kinds(connection, told).await?;
    look_at_times(connection, time_zone, told).await?;
    look_at_durability(connection, told).await
}

/// Whether the platform's tables are tables.
async fn look_at_kinds(connection: &Connection, told: &mut HashSet<String>) -> Result<(), StoreError> {
    let rows = connection.query(KINDS, &[]).await?;
    for row in &rows {
        let read = || Ok((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?, row.try_get::<_, bool>(2)?));
        let (table, kind, is_foreign) = read().map_err(StoreError::Answer)?;
        let is_executions = table == "executions";
        match kind.as_str() {
            "m" if is_executions => {
                return Err(StoreError::Platform(
                    "executions is a materialized view: it hides executions made since its last refresh, so busy pipelines would \
                     look idle. Give the role the table itself, or a plain view of it, by this name (search_path)"
                        .to_owned(),
                ));
            }
            "m" => late(told, &table, "materialized view"),
            "v" if is_executions && told.insert("executions_is_a_view".to_owned()) => {
                tracing::warn!(
                    event = "executions_is_a_view",
                    text = "claims trust the view to show every execution that is not over"
                );
            }
            _ if is_foreign => late(told, &table, "foreign table"),
            _ => {}
        }
    }
    let rows = connection.query("select has_table_privilege('pg_subscription_rel', 'select')", &[]).await?;
    let may_look: bool = rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(StoreError::Answer)?;
    if may_look {
        for row in connection.query(SUBSCRIBED, &[]).await? {
            late(told, row.try_get(0).map_err(StoreError::Answer)?, "logical subscription");
        }
    }
    Ok(())
}

fn late(told: &mut HashSet<String>, table: &str, source: &str) {
    if told.insert(format!("late {table} {source}")) {
        let text = if table == "executions" {
            "an execution that has not arrived here yet keeps no pipeline busy: use the database that the workers write"
        } else {
            "a pipeline that was changed or stopped is triggered as before until the change arrives here"
        };
        tracing::warn!(event = "platform_table_may_be_late", table, source, text);
    }
}

/// The platform's tables, views included, with their kind and whether a part of them is on another server.
const KINDS: &str = "
    with recursive part (name, kind, id) as (
        select t.name, c.relkind::text, c.oid
        from unnest('{executions,pipelines,scanners}'::text[]) as t (name) join pg_class c on c.oid = to_regclass(t.name)
        union
        select p.name, p.kind, i.inhrelid from part p join pg_inherits i on i.inhparent = p.id
    )
    select p.name, p.kind, bool_or(c.relkind = 'f') from part p join pg_class c on c.oid = p.id group by p.name, p.kind";

/// Those of them that are fed by another server.
const SUBSCRIBED: &str = "
    with recursive part (name, id) as (
        select t.name, to_regclass(t.name)::oid from unnest('{executions,pipelines,scanners}'::text[]) as t (name)
        union
        select p.name, i.inhrelid from part p join pg_inherits i on i.inhparent = p.id
    )
    select distinct p.name from part p join pg_subscription_rel r on r.srrelid = p.id";

/// In which zone `executions.created_at` is read, and whether that may be wrong.
async fn look_at_times(connection: &Connection, time_zone: &str, told: &mut HashSet<String>) -> Result<(), StoreError> {
    let known = "select from pg_timezone_names where lower(name) = lower($1)";
    if !is_utc(time_zone) && connection.query(known, &[&time_zone]).await?.is_empty() {
        return Err(StoreError::Platform(
            "EXECUTIONS_TIME_ZONE names a time zone that PostgreSQL does not know: choose one of `select name from pg_timezone_names`"
                .to_owned(),
        ));
    }
    let rows = connection.query(CREATED_AT, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let read = || Ok((row.try_get::<_, String>(0)?, row.try_get::<_, Option<String>>(1)?));
    let (column_type, default) = read().map_err(StoreError::Answer)?;
    let is_local = column_type == LOCAL;
    if told.insert(format!("created_at {column_type}")) {
        let read_as = if is_local { time_zone } else { "its own zone" };
        tracing::info!(event = "executions_time_zone", column = "created_at", column_type, read_as);
    }
    if is_local && default.is_some_and(|default| writes_the_sessions_zone(&default)) {
        let rows = connection.query(ZONE_OF_THE_DATABASE, &[&time_zone]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let read = || Ok((row.try_get::<_, String>(0)?, row.try_get::<_, bool>(1)?));
        let (database_zone, agrees) = read().map_err(StoreError::Answer)?;
        if !agrees && told.insert(format!("zone {database_zone}")) {
            tracing::warn!(
                event = "executions_time_zone_doubtful",
                database_zone,
                read_as = time_zone,
                text = "created_at has no time zone, and its default writes the writer's local time: if rows use the default, \
                        set EXECUTIONS_TIME_ZONE to the zone of the sessions that write them"
            );
        }
    }
    Ok(())
}

/// Whether a column's default is the session's local time, which depends on the zone of whoever writes.
fn writes_the_sessions_zone(default: &str) -> bool {
    const CLOCKS: [&str; 6] =
        ["now()", "current_timestamp", "localtimestamp", "clock_timestamp()", "transaction_timestamp()", "statement_timestamp()"];
    let default = default.to_lowercase();
    let names_a_zone = default.contains("at time zone") || default.contains("timezone(");
    !names_a_zone && CLOCKS.iter().any(|clock| default.contains(clock))
}

const CREATED_AT: &str = "
    select format_type(a.atttypid, null), pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = to_regclass('executions') and a.attname = 'created_at' and not a.attisdropped";

/// Our sessions set a zone of their own; what others begin with is its reset value. Zones have many names, so their clocks are
/// compared, in winter and in summer.
const ZONE_OF_THE_DATABASE: &str = "
    select s.reset_val, bool_and((i.instant at time zone s.reset_val) = (i.instant at time zone $1))
    from pg_settings s, unnest('{2024-01-15 12:00+00,2024-07-15 12:00+00}'::timestamptz[]) as i (instant)
    where s.name = 'TimeZone'
    group by s.reset_val";

/// Whether the server keeps what it has committed.
async fn look_at_durability(connection: &Connection, told: &mut HashSet<String>) -> Result<(), StoreError> {
    let loose = "
        select name from pg_settings where name in ('fsync', 'full_page_writes') and setting = 'off'
        union all
        select 'synchronous_commit'
        where current_setting('synchronous_commit') = 'local' and current_setting('synchronous_standby_names') <> ''";
    for row in connection.query(loose, &[]).await? {
        let setting: String = row.try_get(0).map_err(StoreError::Answer)?;
        if !told.insert(format!("loose {setting}")) {
            continue;
        }
        if setting == "synchronous_commit" {
            // The operator has chosen it against a standby that stands still, and a crash of the server alone loses nothing.
            tracing::warn!(
                event = "postgres_may_lose_commits",
                setting,
                text = "it is local: after a failover claims may be gone whose tasks have left, and their signals start twice"
            );
        } else {
            tracing::error!(
                event = "postgres_may_lose_commits",
                setting,
                text = "it is off: after a crash of the machine claims may be gone whose tasks have left; set it to on"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_names_no_zone_writes_the_sessions() {
        for (default, expected) in [
            ("now()", true),
            ("CURRENT_TIMESTAMP", true),
            ("LOCALTIMESTAMP(0)", true),
            ("(clock_timestamp())::timestamp without time zone", true),
            ("(now() AT TIME ZONE 'utc'::text)", false),
            ("timezone('utc'::text, now())", false),
            ("'2024-01-01 00:00:00'::timestamp without time zone", false),
        ] {
            assert_eq!(writes_the_sessions_zone(default), expected, "{default}");
        }
    }
}
