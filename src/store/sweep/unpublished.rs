//! Publications that were claimed but never confirmed.

use std::time::Duration;

use uuid::Uuid;

use crate::store::StoreError;
use crate::store::database::Connection;
use crate::store::postgres::timestamp;
use crate::tasks::{Publication, Task};

/// Publications that nobody has confirmed for `patience`, with their leases renewed. One without tasks has lapsed: its
/// slots have passed on to newer triggers.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn take_up(connection: &Connection, patience: Duration, lease: Duration) -> Result<Vec<Publication>, StoreError> {
    let rows = connection.query(include_str!("../sql/sweep.sql"), &[&patience.as_secs_f64(), &lease.as_secs_f64()]).await?;
    let mut found: Vec<Publication> = Vec::new();
    for row in &rows {
        let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
        if found.last().is_none_or(|last| last.id != id) {
            found.push(Publication { id, expires: timestamp(row, 4)?, tasks: Vec::new() });
        }
        let trigger_id: Option<Uuid> = row.try_get(1).map_err(StoreError::Answer)?;
        if let (Some(trigger_id), Some(last)) = (trigger_id, found.last_mut()) {
            let kwargs = row.try_get(3).map_err(StoreError::Answer)?;
            last.tasks.push(Task { trigger_id, kwargs });
        }
    }
    Ok(found)
}
