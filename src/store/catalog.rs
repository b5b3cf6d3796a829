//! How the platform's tables look: they may have other types, more columns, or lack the optional ones.

use std::collections::HashMap;

use super::StoreError;
use super::database::Connection;

/// The columns of one table, by name, with their types.
#[derive(Debug, Default)]
pub(super) struct Columns(HashMap<String, String>);

impl Columns {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether there is no such table on the search path, or none that we may see.
    pub(super) fn is_missing(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn type_of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The table's columns, all of which `required` must be among.
    pub(super) fn require(self, table: &str, required: &[&str]) -> Result<Self, StoreError> {
        if self.is_missing() {
            return Err(StoreError::Platform(format!("there is no table {table}")));
        }
        let missing: Vec<_> = required.iter().filter(|name| !self.has(name)).copied().collect();
        if missing.is_empty() {
            Ok(self)
        } else {
            Err(StoreError::Platform(format!("the table {table} has no column {}", missing.join(", "))))
        }
    }
}

/// Reads the columns of some tables in one statement.
pub(super) async fn columns<const N: usize>(connection: &Connection, tables: [&str; N]) -> Result<[Columns; N], StoreError> {
    let rows = connection
        .query(
            "select t.name, a.attname::text, format_type(a.atttypid, null)
             from unnest($1::text[]) as t (name)
             join pg_attribute a on a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped",
            &[&tables.as_slice()],
        )
        .await?;
    let mut found = tables.map(|_| Columns::default());
    for row in rows {
        let table: String = row.try_get(0).map_err(StoreError::Answer)?;
        if let Some(position) = tables.iter().position(|name| *name == table) {
            let column: String = row.try_get(1).map_err(StoreError::Answer)?;
            found[position].0.insert(column, row.try_get(2).map_err(StoreError::Answer)?);
        }
    }
    Ok(found)
}

/// One of our statements, filled in for the platform's executions table.
pub(super) async fn fill_in(connection: &Connection, sql: &str) -> Result<String, StoreError> {
    let [executions] = columns(connection, ["executions"]).await?;
    let executions = executions.require("executions", &["id", "pipeline_id", "status"])?;
    let id = |of: &str| match executions.type_of("pipeline_id") {
        Some("uuid") | None => format!("{of}.pipeline_id"),
        Some(other) => format!("{of}.pipeline_id::text::{other}"),
    };
    let id_is_trigger = match executions.type_of("id") {
        Some("uuid") => "e.id = s.trigger_id",
        _ => "e.id::text = s.trigger_id::text",
    };
    let symbol = if executions.has("symbol") { "e.symbol::text" } else { "null::text" };
    let created_at = if executions.has("created_at") { "e.created_at" } else { "null::timestamptz" };
    let busy = if indexed_by(connection, "status").await? {
        include_str!("sql/busy_by_status.sql")
    } else {
        include_str!("sql/busy_by_pipeline.sql")
    };
    Ok(sql
        .replace("{busy}", busy)
        .replace("{over}", &over(indexed_by(connection, "created_at").await?))
        .replace("{over_by_id}", include_str!("sql/over_by_id.sql"))
        .replace("{over_by_time}", include_str!("sql/over_by_time.sql"))
        .replace("{ours}", include_str!("sql/ours.sql"))
        .replace("{id_is_trigger}", id_is_trigger)
        .replace("{pipeline_id}", &id("c"))
        .replace("{slot_pipeline_id}", &id("s"))
        .replace("{symbol}", symbol)
        .replace("{created_at}", created_at))
}

/// Whether the trigger that holds a slot is over, given that no execution of the slot is active. What finds it in fewer pages is asked first:
/// slots come in the order of their pipelines and so meet an index by pipeline page by page, while ids are random. Scalar subqueries, because
/// PostgreSQL would turn `exists ... or exists ...` into a scan of all executions.
fn over(by_time: bool) -> String {
    let (id, time) = (include_str!("sql/over_by_id.sql"), include_str!("sql/over_by_time.sql"));
    let (first, second) = if by_time { (time, id) } else { (id, time) };
    format!("({first} or {second})")
}

/// Whether the executions of one pipeline can be found in the order of a column.
async fn indexed_by(connection: &Connection, column: &str) -> Result<bool, StoreError> {
    let rows = connection
        .query(
            "select from pg_index i
             join pg_attribute p on p.attrelid = i.indrelid and p.attnum = i.indkey[0] and p.attname = 'pipeline_id'
             join pg_attribute c on c.attrelid = i.indrelid and c.attnum = i.indkey[1] and c.attname = $1
             where i.indrelid = to_regclass('executions') and i.indisvalid and i.indpred is null",
            &[&column],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Indexes that the claim wants on the platform's executions table and does not find: (column, the statement that makes it).
pub(super) async fn missing_indexes(connection: &Connection) -> Result<Vec<(&'static str, String)>, StoreError> {
    let mut missing = Vec::new();
    for column in ["status", "created_at"] {
        if !indexed_by(connection, column).await? {
            missing.push((column, format!("create index concurrently on executions (pipeline_id, {column})")));
        }
    }
    Ok(missing)
}
