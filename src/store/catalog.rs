//! How the platform's tables look: they may have other types, more columns, or lack the optional ones.

use std::collections::HashMap;
use std::time::Duration;

use super::StoreError;
use super::database::Connection;
use super::template::fill;

/// The columns of one table, by name.
#[derive(Debug, Default)]
pub(super) struct Columns(HashMap<String, Column>);

#[derive(Debug)]
struct Column {
    type_name: String,
    /// Whether it is declared `not null`.
    is_required: bool,
}

impl Columns {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether there is no such table on the search path, or none that we may see.
    pub(super) fn is_missing(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn type_of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|column| column.type_name.as_str())
    }

    fn may_be_null(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|column| !column.is_required)
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
            // Of a domain the type that it is made of.
            "select t.name, a.attname::text, format_type(coalesce(nullif(y.typbasetype, 0), y.oid), null), a.attnotnull
             from unnest($1::text[]) as t (name)
             join pg_attribute a on a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped
             join pg_type y on y.oid = a.atttypid",
            &[&tables.as_slice()],
        )
        .await?;
    let mut found = tables.map(|_| Columns::default());
    for row in rows {
        let table: String = row.try_get(0).map_err(StoreError::Answer)?;
        if let Some(position) = tables.iter().position(|name| *name == table) {
            let name: String = row.try_get(1).map_err(StoreError::Answer)?;
            let column = || Ok(Column { type_name: row.try_get(2)?, is_required: row.try_get(3)? });
            found[position].0.insert(name, column().map_err(StoreError::Answer)?);
        }
    }
    Ok(found)
}

/// How a statement reads the platform's executions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// The zone of a `created_at` that has none (`EXECUTIONS_TIME_ZONE`).
    pub(super) time_zone: &'a str,
    /// The statement's parameter that says whether an execution made after a claim ends it, such as `$2::bool`.
    pub(super) trusts_time: &'a str,
    /// How old an active execution may be that keeps its pipeline busy (`EXECUTION_MAX_AGE_SECONDS`).
    pub(super) max_age: Option<Duration>,
}

/// One of our statements, filled in for the platform's executions table, once a session: a table that is altered ends the session
/// by its first error, and the next one looks anew.
pub(super) async fn fill_in(connection: &Connection, sql: &str, reading: Reading<'_>) -> Result<String, StoreError> {
    let key = format!("{} {} {:?} {sql}", reading.time_zone, reading.trusts_time, reading.max_age);
    if let Some(kept) = connection.kept(&key) {
        return Ok(kept);
    }
    let filled = fill_in_anew(connection, sql, reading).await?;
    connection.keep(key, filled.clone());
    Ok(filled)
}

async fn fill_in_anew(connection: &Connection, sql: &str, reading: Reading<'_>) -> Result<String, StoreError> {
    let [executions] = columns(connection, ["executions"]).await?;
    let executions = executions.require("executions", &["id", "pipeline_id", "status"])?;
    let by_status = indexed_by(connection, "status").await?;
    let by_time = indexed_by(connection, "created_at").await?;
    fill_in_for(&executions, by_status, by_time, sql, reading)
}

fn fill_in_for(
    executions: &Columns,
    by_status: bool,
    by_time: bool,
    sql: &str,
    reading: Reading<'_>,
) -> Result<String, StoreError> {
    let id = |of: &str| match executions.type_of("pipeline_id") {
        Some("uuid") | None => format!("{of}.pipeline_id"),
        Some(other) => format!("{of}.pipeline_id::text::{}", of_any_length(other)),
    };
    let id_is_trigger = match executions.type_of("id") {
        Some("uuid") => "e.id = s.trigger_id",
        // A number is never a trigger's id, and no index would find the text of one.
        Some("smallint" | "integer" | "bigint" | "numeric") => "false",
        // In the column's own type, so that its index serves.
        Some("text" | "character varying") => "e.id = s.trigger_id::text",
        Some("character") => "e.id = s.trigger_id::text::bpchar",
        _ => "e.id::text = s.trigger_id::text",
    };
    let symbol = if executions.has("symbol") {
        // Blank is as good as null: the execution is of the whole pipeline.
        r"nullif(upper(btrim(e.symbol::text, E' \t\n\r')), '')"
    } else {
        "null::text"
    };
    let is_local = executions.type_of("created_at") == Some(LOCAL) && !is_utc(reading.time_zone);
    let made_since = match (executions.has("created_at"), is_local) {
        (false, _) => "false",
        (true, true) => include_str!("sql/made_since_local.sql"),
        // Our sessions are in UTC, so a time without a zone is read as UTC.
        (true, false) => "e.created_at > s.claimed_at",
    };
    let made_at = if is_local { "(e.created_at at time zone {zone})" } else { "e.created_at" };
    let recent = match reading.max_age {
        None => "true".to_owned(),
        Some(_) if !executions.has("created_at") => {
            return Err(StoreError::Platform(
                "EXECUTION_MAX_AGE_SECONDS is set, and the table executions has no column created_at that tells how old a row is"
                    .to_owned(),
            ));
        }
        // A row without a time may be of any age.
        Some(age) => format!("coalesce({made_at} > now() - make_interval(secs => {}), true)", age.as_secs_f64()),
    };
    let (any_row_counts, slot_row) = match reading.max_age {
        None => ("c.ticker = ''", "coalesce({symbol}, c.ticker) = c.ticker"),
        Some(_) => ("false", "(c.ticker = '' or coalesce({symbol}, c.ticker) = c.ticker) and {recent}"),
    };
    fill(
        sql,
        &[
            ("made_at", made_at),
            ("recent", &recent),
            ("any_row_counts", any_row_counts),
            ("slot_row", slot_row),
            ("busy", if by_status { include_str!("sql/busy_by_status.sql") } else { include_str!("sql/busy_by_pipeline.sql") }),
            ("or_no_status", if executions.may_be_null("status") { include_str!("sql/busy_no_status.sql") } else { "" }),
            ("over", if by_time { OVER_BY_TIME_FIRST } else { OVER_BY_ID_FIRST }),
            ("ours", include_str!("sql/ours.sql")),
            ("by_id", include_str!("sql/over_by_id.sql")),
            ("by_time", include_str!("sql/over_by_time.sql")),
            ("trusts_time", reading.trusts_time),
            ("id_is_trigger", id_is_trigger),
            ("pipeline_id", &id("c")),
            ("slot_pipeline_id", &id("s")),
            ("symbol", symbol),
            ("made_since", made_since),
            ("zone", &format!("'{}'", reading.time_zone.replace('\'', "''"))),
        ],
    )
}

/// A type's name without a length: `character` alone would be one character.
fn of_any_length(type_name: &str) -> &str {
    if type_name == "character" { "bpchar" } else { type_name }
}

/// The type of a time without a zone, as `format_type` names it.
pub(super) const LOCAL: &str = "timestamp without time zone";

/// Whether a zone needs no conversion.
pub(super) fn is_utc(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("UTC") || zone.eq_ignore_ascii_case("Etc/UTC")
}

/// Whether the trigger that holds a slot is over, given that no execution of the slot is active. Time is asked only where the
/// workers' executions do not have our ids: else a run by somebody else would free a slot whose task still waits. The faster of
/// the two is asked first: slots come in the order of their pipelines and so meet an index by pipeline page by page, while ids are
/// random. Scalar subqueries, because PostgreSQL would turn `exists ... or exists ...` into a scan of all executions.
const OVER_BY_TIME_FIRST: &str = "(({trusts_time} and {by_time}) or {by_id})";
const OVER_BY_ID_FIRST: &str = "({by_id} or ({trusts_time} and {by_time}))";

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

/// The statements that make the indexes which the claim wants on the platform's executions table and does not find.
pub(super) async fn missing_indexes(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut missing = Vec::new();
    for column in ["status", "created_at"] {
        if !indexed_by(connection, column).await? {
            missing.push(format!("create index concurrently on executions (pipeline_id, {column})"));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executions(columns: &[(&str, &str, bool)]) -> Columns {
        let column = |&(name, type_name, is_required): &(&str, &str, bool)| {
            (name.to_owned(), Column { type_name: type_name.to_owned(), is_required })
        };
        Columns(columns.iter().map(column).collect())
    }

    #[test]
    fn every_statement_of_ours_is_filled_for_every_platform() {
        let statements = [
            include_str!("sql/claim.sql"),
            include_str!("sql/unstarted.sql"),
            include_str!("sql/evidence.sql"),
            include_str!("sql/orphans.sql"),
        ];
        let least = [("id", "bigint", true), ("pipeline_id", "text", true), ("status", "text", false)];
        let most = [
            ("id", "uuid", true),
            ("pipeline_id", "uuid", true),
            ("status", "text", true),
            ("symbol", "text", false),
            ("created_at", LOCAL, true),
        ];
        for columns in [least.as_slice(), most.as_slice()] {
            let columns = executions(columns);
            for (sql, time_zone) in statements.iter().flat_map(|sql| [(sql, "UTC"), (sql, "Asia/Tokyo")]) {
                for (by_status, by_time) in [(true, true), (true, false), (false, true), (false, false)] {
                    let reading = Reading { time_zone, trusts_time: "$33::bool", max_age: None };
                    fill_in_for(&columns, by_status, by_time, sql, reading).unwrap();
                }
            }
        }
    }

    #[test]
    fn ids_are_compared_in_the_columns_own_type() {
        let reads = |type_name, sql| {
            let columns = executions(&[("id", type_name, true), ("pipeline_id", type_name, true)]);
            fill_in_for(&columns, true, true, sql, Reading { time_zone: "UTC", trusts_time: "true", max_age: None }).unwrap()
        };
        for (type_name, id, pipeline_id) in [
            ("uuid", "e.id = s.trigger_id", "c.pipeline_id"),
            ("text", "e.id = s.trigger_id::text", "c.pipeline_id::text::text"),
            ("character varying", "e.id = s.trigger_id::text", "c.pipeline_id::text::character varying"),
            ("character", "e.id = s.trigger_id::text::bpchar", "c.pipeline_id::text::bpchar"),
        ] {
            assert_eq!(
                (reads(type_name, "{id_is_trigger}"), reads(type_name, "{pipeline_id}")),
                (id.to_owned(), pipeline_id.to_owned())
            );
        }
        assert_eq!(reads("bigint", "{id_is_trigger}"), "false");
    }

    #[test]
    fn a_zone_is_converted_only_where_the_column_has_none() {
        let reads = |type_name, time_zone| {
            let columns = executions(&[("id", "uuid", true), ("pipeline_id", "uuid", true), ("created_at", type_name, true)]);
            fill_in_for(&columns, true, true, "{made_since}", Reading { time_zone, trusts_time: "true", max_age: None }).unwrap()
        };
        assert!(reads(LOCAL, "Asia/Tokyo").contains("e.created_at at time zone 'Asia/Tokyo'"));
        for (type_name, zone) in [(LOCAL, "utc"), ("timestamp with time zone", "Asia/Tokyo")] {
            assert_eq!(reads(type_name, zone), "e.created_at > s.claimed_at");
        }
    }
}
