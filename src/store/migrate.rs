//! Makes and updates the schema `dispatcher`. Does IO.

use tokio_postgres::error::SqlState;

use super::catalog::columns;
use super::database::Connection;
use super::{Database, StoreError};

/// The versions of our schema, oldest first. A released one is never changed.
const VERSIONS: [&str; 4] = [
    include_str!("sql/0001_ledger.sql"),
    include_str!("sql/0002_partitions.sql"),
    include_str!("sql/0003_parts.sql"),
    include_str!("sql/0004_deployments.sql"),
];

/// Where a change of the rules is told.
pub(super) const CHANNEL: &str = "dispatcher_rules_changed";

/// Not the owner's right, or the owner's table is locked for long: both leave us with the interval, and are no failure.
const REFUSED: [SqlState; 2] = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::LOCK_NOT_AVAILABLE];

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before.
    pub from: usize,
    /// The schema's version now.
    pub to: usize,
    /// Tables whose changes are told at once from now on.
    pub notifying: Vec<String>,
    /// Tables on which we may not make a trigger; their changes are seen at the next refresh.
    pub silent: Vec<String>,
}

/// Brings our schema to the newest version. Any number of instances may do it at once.
///
/// # Errors
/// PostgreSQL does not answer or refuses, or the schema is of a newer version than this program.
pub async fn migrate(database: &Database) -> Result<Migrated, StoreError> {
    let connection = database.connect().await?;
    let from = version(&connection).await?.unwrap_or(0);
    if from > VERSIONS.len() {
        return Err(StoreError::Schema(format!(
            "the schema dispatcher has version {from}, this program knows {}: run a newer trigger-dispatcher",
            VERSIONS.len()
        )));
    }
    for (number, sql) in VERSIONS.iter().enumerate().skip(from) {
        let number = number + 1;
        // The advisory lock lets one instance migrate; the check makes the others pass by. A ledger that has grown may take
        // long, and breaking off would only mean to begin again.
        connection
            .batch_of_any_length(&format!(
                "begin;
                 set local statement_timeout = 0;
                 select pg_advisory_xact_lock(hashtext('trigger-dispatcher migrate'));
                 create schema if not exists dispatcher;
                 create table if not exists dispatcher.schema_versions (version integer primary key, applied_at timestamptz not null default now());
                 do $migrate$ begin
                     if not exists (select from dispatcher.schema_versions where version = {number}) then
                         {sql}
                         insert into dispatcher.schema_versions (version) values ({number});
                     end if;
                 end $migrate$;
                 commit"
            ))
            .await?;
    }
    let (notifying, silent) = install_triggers(&connection).await?;
    Ok(Migrated { from, to: VERSIONS.len(), notifying, silent })
}

/// The version of the schema in a database; `None` when it has none.
pub(super) async fn version(connection: &Connection) -> Result<Option<usize>, StoreError> {
    let [known] = columns(connection, ["dispatcher.schema_versions"]).await?;
    if known.is_missing() {
        return Ok(None);
    }
    let rows = connection.query("select coalesce(max(version), 0) from dispatcher.schema_versions", &[]).await?;
    let version: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::Answer)?;
    Ok(usize::try_from(version).ok())
}

/// Fails unless the schema is the one that this program knows.
///
/// # Errors
/// The schema is missing or of another version, or PostgreSQL does not answer.
pub async fn check(database: &Database) -> Result<(), StoreError> {
    let connection = database.connect().await?;
    match version(&connection).await? {
        Some(version) if version == VERSIONS.len() => Ok(()),
        found => Err(StoreError::Schema(format!(
            "the schema dispatcher has version {}, this program needs {}: run `trigger-dispatcher migrate`",
            found.unwrap_or(0),
            VERSIONS.len()
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
            Err(StoreError::Postgres(error)) if error.code().is_some_and(|code| REFUSED.contains(code)) => {
                connection.batch("rollback").await?;
                silent.push(table.to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((notifying, silent))
}
