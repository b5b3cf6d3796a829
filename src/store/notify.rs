//! Triggers on the platform's tables that tell changes of the rules at once. Only made by `migrate --install-notify`. Does IO.
//!
//! They must never stand in the platform's way: they name no column, and need nothing of our schema. So the platform may drop or
//! alter any column, and may restore its own schema alone.

use super::StoreError;
use super::database::Connection;
use super::template::fill;

/// Where a change of the rules is told.
pub(super) const CHANNEL: &str = "dispatcher_rules_changed";

/// The tables that make the rules, and what the rules read of them. Updates of other columns (a last run, say) are frequent.
const WATCHED: [(&str, &str); 2] = [
    ("pipelines", "'id', 'is_active', 'trigger_mode', 'scanner_tickers', 'scanner_id', 'signal_subscriptions', 'user_id'"),
    ("scanners", "'id', 'config'"),
];

/// How soon changes of a table are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// At once.
    Told,
    /// At once, by the triggers of an older program: they keep the platform from altering columns that they name.
    ToldByColumns,
    /// At the next refresh.
    Untold,
    /// At the next refresh: it is a view or a foreign table, which have no such triggers.
    View,
    /// At the next refresh: we may not make a trigger.
    NoRight,
    /// At the next refresh: the table was locked for too long.
    Locked,
}

impl Notice {
    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::Told => "changes are seen at once",
            Self::ToldByColumns => {
                "changes are seen at once; the triggers of an older version keep you from altering some columns: run \
                 `trigger-dispatcher migrate --install-notify` to replace them"
            }
            Self::Untold => {
                "changes are seen at the next refresh (`trigger-dispatcher migrate --install-notify` adds triggers that tell them at once)"
            }
            Self::View => "changes are seen at the next refresh: it is a view or a foreign table, which cannot have the triggers",
            Self::NoRight => "changes are seen at the next refresh: no right to make a trigger; run this as the table's owner",
            Self::Locked => "changes are seen at the next refresh: the table is locked; run this again later",
        }
    }
}

/// How soon changes of each table are seen; tables that are not there are left out.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn notices(connection: &Connection) -> Result<Vec<(&'static str, Notice)>, StoreError> {
    let rows = connection.query(LOOK, &[&WATCHED.map(|(table, _)| table).as_slice()]).await?;
    let mut notices = Vec::new();
    for row in &rows {
        let read = || Ok((row.try_get::<_, String>(0)?, row.try_get::<_, bool>(1)?, row.try_get::<_, Option<bool>>(2)?));
        let (name, is_table, by_columns) = read().map_err(StoreError::Answer)?;
        let notice = match by_columns {
            _ if !is_table => Notice::View,
            Some(true) => Notice::ToldByColumns,
            Some(false) => Notice::Told,
            None => Notice::Untold,
        };
        notices.extend(WATCHED.iter().filter(|(table, _)| *table == name).map(|(table, _)| (*table, notice)));
    }
    Ok(notices)
}

/// Makes the triggers, and takes those of older programs away.
///
/// # Errors
/// PostgreSQL does not answer or refuses for another reason than a missing right or a lock.
pub async fn install(connection: &Connection) -> Result<Vec<(&'static str, Notice)>, StoreError> {
    let mut notices = notices(connection).await?;
    for (table, notice) in notices.iter_mut().filter(|(_, notice)| matches!(notice, Notice::Untold | Notice::ToldByColumns)) {
        let Some((_, names)) = WATCHED.iter().find(|(name, _)| name == table) else { continue };
        let sql = fill(include_str!("sql/notify.sql"), &[("table", table), ("names", names), ("channel", CHANNEL)])?;
        *notice = match connection.batch(&sql).await {
            Ok(()) => Notice::Told,
            Err(error) if error.is_a_missing_right() => Notice::NoRight,
            Err(error) if error.is_a_lock() => Notice::Locked,
            Err(error) => return Err(error),
        };
        if *notice != Notice::Told {
            connection.batch("rollback").await?;
        }
    }
    Ok(notices)
}

/// Which tables there are; and of those with our triggers whether one names columns, or needs our schema.
const LOOK: &str = "select t.name, c.relkind in ('r', 'p'),
        (select bool_or(cardinality(g.tgattr::int2[]) > 0 or p.pronamespace = to_regnamespace('dispatcher'))
         from pg_trigger g join pg_proc p on p.oid = g.tgfoid where g.tgrelid = c.oid and g.tgname like 'dispatcher\\_rules\\_%')
    from unnest($1::text[]) with ordinality as t (name, position)
    join pg_class c on c.oid = to_regclass(t.name)
    order by t.position";
