//! Reading the rules from the platform's tables. Does IO.

use tokio_postgres::Row;

use super::StoreError;
use super::catalog::columns;
use super::database::Connection;
use crate::rules::{Rule, RuleRow, Rules, UnknownKeys};

/// The rules at one moment, and the rows that make none.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) rules: Rules,
    /// Pipeline and reason.
    pub(super) skipped: Vec<(uuid::Uuid, String)>,
    pub(super) unknown_keys: UnknownKeys,
}

/// Reads every active signal pipeline.
pub(super) async fn load(connection: &Connection, is_unhurried: bool) -> Result<Loaded, StoreError> {
    let [pipelines, scanners] = columns(connection, ["pipelines", "scanners"]).await?;
    let pipelines = pipelines.require("pipelines", &["id", "is_active", "trigger_mode"])?;
    let column = |name: &str| if pipelines.has(name) { format!("p.{name}::text") } else { "null::text".to_owned() };
    let has_scanners = pipelines.has("scanner_id") && scanners.has("id") && scanners.has("config");
    // A pipeline whose scanner row is gone watches nothing rather than what it watched before it had a scanner.
    let (tickers, join) = if has_scanners {
        (
            format!("case when p.scanner_id is null then {} else (s.config -> 'tickers')::text end", column("scanner_tickers")),
            "left join scanners s on s.id = p.scanner_id",
        )
    } else {
        (column("scanner_tickers"), "")
    };
    let sql = format!(
        "select p.id, {}, {tickers}, {} from pipelines p {join} where p.is_active and lower(p.trigger_mode::text) = 'signal'",
        column("user_id"),
        column("signal_subscriptions"),
    );
    let mut loaded = Loaded::default();
    let take = |row: &Row| {
        let row = RuleRow {
            pipeline_id: row.try_get(0).map_err(StoreError::Answer)?,
            user_id: row.try_get(1).map_err(StoreError::Answer)?,
            tickers: row.try_get(2).map_err(StoreError::Answer)?,
            subscriptions: row.try_get(3).map_err(StoreError::Answer)?,
        };
        match Rule::read(&row, &mut loaded.unknown_keys) {
            Ok(rule) => loaded.rules.add(rule),
            Err(reason) => loaded.skipped.push((row.pipeline_id, reason)),
        }
        Ok(())
    };
    connection.each(&sql, is_unhurried, take).await?;
    Ok(loaded)
}
