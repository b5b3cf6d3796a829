//! Finds out whether a connection pooler gives each transaction another server session. Does IO.
//!
//! Such a pooler loses our prepared statements, and gives our session settings to its other clients. So this is asked before
//! anything is set, and without a prepared statement.

use super::StoreError;
use super::database::Connection;

/// Other clients of the pool may come in between, so that one look sees nothing.
const ROUNDS: u32 = 8;

/// Whether two sessions that are open at the same time share their server sessions.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub(super) async fn shares_sessions(one: &Connection, other: &Connection) -> Result<bool, StoreError> {
    for _ in 0..ROUNDS {
        let before = one.server_session().await?;
        // Until its transaction ends, the other one holds a server session, most likely the one that is free again.
        other.batch("begin").await?;
        let held = other.server_session().await?;
        // Where there is no second server session, to ask would be to wait for ever.
        let is_shared = held == before || one.server_session().await? != before;
        other.batch("rollback").await?;
        if is_shared {
            return Ok(true);
        }
    }
    Ok(false)
}
