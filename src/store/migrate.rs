//! Makes and updates the schema `dispatcher`, and says whether this program can work with it. Does IO.

mod versions;

use std::time::Duration;

use tokio_postgres::error::SqlState;

use self::versions::{Found, Standing, VERSIONS, Version, standing, too_old};
use super::catalog::columns;
use super::database::Connection;
use super::{Database, StoreError};

pub use versions::KNOWN;

/// Claims under way lock the same tables, in an order of their own: one of two that deadlock has to try again.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Where a change of the rules is told.
pub(super) const CHANNEL: &str = "dispatcher_rules_changed";

/// Not the owner's right, or the owner's table is locked for long: both leave us with the interval, and are no failure.
const REFUSED: [SqlState; 2] = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::LOCK_NOT_AVAILABLE];

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before.
    pub from: usize,
    /// The schema's version now. One beyond [`KNOWN`] was left as it is: it says that this program can work with it.
    pub to: usize,
    /// Tables whose changes are told at once from now on.
    pub notifying: Vec<String>,
    /// Tables on which we may not make a trigger; their changes are seen at the next refresh.
    pub silent: Vec<String>,
}

/// Brings our schema to the newest version. Any number of instances may do it at once.
///
/// # Errors
/// PostgreSQL does not answer or refuses, or this program cannot work with the server or with the schema.
pub async fn migrate(database: &Database) -> Result<Migrated, StoreError> {
    let connection = database.connect().await?;
    let from = match look(database, &connection).await? {
        Standing::Older(version) => version,
        Standing::Same => KNOWN,
        Standing::Workable(version) => {
            return Ok(Migrated { from: version, to: version, notifying: Vec::new(), silent: Vec::new() });
        }
        Standing::Unworkable(version) => return Err(too_new(database, version)),
    };
    for (number, version) in (1..).zip(&VERSIONS).skip(from) {
        apply(&connection, number, version).await?;
    }
    let (notifying, silent) = install_triggers(&connection).await?;
    Ok(Migrated { from, to: KNOWN, notifying, silent })
}

/// Makes one version of the schema, unless it is there.
async fn apply(connection: &Connection, number: usize, version: &Version) -> Result<(), StoreError> {
    let (column, value) = version.works_with.map_or_else(Default::default, |oldest| (", works_with", format!(", {oldest}")));
    // The advisory lock lets one instance migrate; the check makes the others pass by. A ledger that has grown may take
    // long, and breaking off would only mean to begin again.
    let sql = format!(
        "begin;
         set local statement_timeout = 0;
         select pg_advisory_xact_lock(hashtext('trigger-dispatcher migrate'));
         create schema if not exists dispatcher;
         create table if not exists dispatcher.schema_versions (version integer primary key, applied_at timestamptz not null default now());
         do $migrate$ begin
             if not exists (select from dispatcher.schema_versions where version = {number}) then
                 {}
                 insert into dispatcher.schema_versions (version{column}) values ({number}{value});
             end if;
         end $migrate$;
         commit",
        version.sql
    );
    for _ in 1..ATTEMPTS {
        match connection.batch_of_any_length(&sql).await {
            Err(error) if error.is_a_lock() || error.is_a_deadlock() => connection.batch("rollback").await?,
            other => return other,
        }
        tokio::time::sleep(PAUSE).await;
    }
    connection.batch_of_any_length(&sql).await
}

/// Lets programs of an older schema version start again: removes the later versions from the list, if such programs can work with
/// them. Their tables and columns stay, and migrating again finds them. Returns the versions that were removed, oldest first.
///
/// # Errors
/// PostgreSQL does not answer or refuses, there is no schema, or a later version is not for such programs.
pub async fn allow(database: &Database, version: usize) -> Result<Vec<usize>, StoreError> {
    let connection = database.connect().await?;
    match look(database, &connection).await? {
        Standing::Older(0) => return Err(StoreError::Schema(format!("{}: there is none to go back from", database.schema()))),
        Standing::Unworkable(version) => return Err(too_new(database, version)),
        Standing::Older(_) | Standing::Same | Standing::Workable(_) => {}
    }
    connection.batch("begin; select pg_advisory_xact_lock(hashtext('trigger-dispatcher migrate'))").await?;
    let rows = connection.query(include_str!("sql/allow_version.sql"), &[&i32::try_from(version).unwrap_or(i32::MAX)]).await?;
    connection.batch("commit").await?;
    let lists = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let (removed, unfit): (Vec<i32>, Vec<i32>) =
        rows.first().map_or(Ok(Default::default()), lists).map_err(StoreError::Answer)?;
    if let Some(unfit) = unfit.first() {
        return Err(StoreError::Schema(format!(
            "{} has version {unfit}, with which no program of version {version} can work: nothing was changed; go back to a \
             later version, or restore a backup",
            database.schema()
        )));
    }
    Ok(removed.into_iter().filter_map(|version| usize::try_from(version).ok()).collect())
}

/// Which schema there is, and what this program may do with it. Refuses a server that is too old.
async fn look(database: &Database, connection: &Connection) -> Result<Standing, StoreError> {
    let rows = connection.query("select current_setting('server_version_num')::int", &[]).await?;
    let number: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::Answer)?;
    if let Some(name) = too_old(number) {
        return Err(StoreError::Unfit(format!(
            "PostgreSQL at {} is {name}, trigger-dispatcher needs 14 or newer: upgrade the server, or set POSTGRES_HOST to a newer one",
            database.address()
        )));
    }
    Ok(standing(found(connection).await?, KNOWN))
}

fn too_new(database: &Database, version: usize) -> StoreError {
    StoreError::Unfit(format!(
        "{} has version {version}, trigger-dispatcher {} knows {KNOWN} and cannot work with it: run a newer trigger-dispatcher, or let \
         the newer one go back with `trigger-dispatcher migrate --allow-version {KNOWN}`",
        database.schema(),
        env!("CARGO_PKG_VERSION"),
    ))
}

/// The schema in a database; `None` when it has none.
async fn found(connection: &Connection) -> Result<Option<Found>, StoreError> {
    let [known] = columns(connection, ["dispatcher.schema_versions"]).await?;
    if known.is_missing() {
        return Ok(None);
    }
    // Through JSON, because the column came with version 4.
    let sql = "select coalesce(max(version), 0),
            coalesce(max(coalesce((to_jsonb(v) ->> 'works_with')::int, version)) filter (where version > $1), 0)
        from dispatcher.schema_versions v";
    let rows = connection.query(sql, &[&i32::try_from(KNOWN).unwrap_or(i32::MAX)]).await?;
    let numbers = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let (version, works_with): (i32, i32) = rows.first().map_or(Ok((0, 0)), numbers).map_err(StoreError::Answer)?;
    let number = |value| usize::try_from(value).unwrap_or(0);
    Ok(Some(Found { version: number(version), works_with: number(works_with) }))
}

/// The schema's version. Fails unless this program can work with it as it is.
///
/// # Errors
/// The schema is missing or older: another program will migrate it, so it may be waited for. Or this program cannot work with the server or with the schema.
/// Or PostgreSQL does not answer.
pub async fn check(database: &Database) -> Result<usize, StoreError> {
    let connection = database.connect().await?;
    match look(database, &connection).await? {
        Standing::Same => Ok(KNOWN),
        Standing::Workable(version) => Ok(version),
        Standing::Unworkable(version) => Err(too_new(database, version)),
        Standing::Older(version) => Err(StoreError::Schema(format!(
            "{} has version {version}, this program needs {KNOWN}: run `trigger-dispatcher migrate`",
            database.schema()
        ))),
    }
}

/// Lets changes of the rules be told at once, where the platform's owner lets us.
async fn install_triggers(connection: &Connection) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let (mut notifying, mut silent) = (Vec::new(), Vec::new());
    let watched = [
        ("pipelines", vec!["is_active", "trigger_mode", "scanner_tickers", "scanner_id", "signal_subscriptions", "user_id"]),
        ("scanners", vec!["config"]),
    ];
    let [pipelines, scanners] = columns(connection, ["pipelines", "scanners"]).await?;
    for ((table, names), found) in watched.into_iter().zip([pipelines, scanners]) {
        let names: Vec<_> = names.into_iter().filter(|name| found.has(name)).collect();
        if names.is_empty() {
            continue;
        }
        let there = connection
            .query("select from pg_trigger where tgrelid = to_regclass($1) and tgname = 'dispatcher_rules_changed'", &[&table])
            .await?;
        if !there.is_empty() {
            notifying.push(table.to_owned());
            continue;
        }
        // Updates of other columns (a last run, say) are frequent, and no change of a rule.
        let result = connection
            .batch(&format!(
                // One instance at a time: two that replace the function at once get an error that is not about rights.
                "begin;
                 select pg_advisory_xact_lock(hashtext('trigger-dispatcher migrate'));
                 set local lock_timeout = '3s';
                 create or replace function dispatcher.tell_rules_changed() returns trigger language plpgsql as
                     $$ begin perform pg_notify('{CHANNEL}', ''); return null; end $$;
                 create or replace trigger dispatcher_rules_changed after insert or delete or update of {} on {table}
                     for each statement execute function dispatcher.tell_rules_changed();
                 commit",
                names.join(", ")
            ))
            .await;
        match result {
            Ok(()) => notifying.push(table.to_owned()),
            Err(StoreError::Postgres { error, .. }) if error.code().is_some_and(|code| REFUSED.contains(code)) => {
                connection.batch("rollback").await?;
                silent.push(table.to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((notifying, silent))
}
