//! Outbox entries that were claimed but never confirmed.

use uuid::Uuid;

use super::LeaseTerms;
use crate::chaos::{self, Bug};
use crate::clock;
use crate::store::catalog;
use crate::store::database::Connection;
use crate::store::postgres::timestamp;
use crate::store::{Renewal, StoreError, TakenUp};
use crate::tasks::redis::GUARD_MARGIN;
use crate::tasks::{Publication, Task, publish_by};

/// Entries that nobody has confirmed for a while ([`LeaseTerms::patience`]), with their leases renewed. One with nothing in it has lapsed: its
/// slots have passed on to newer triggers.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn take_up(connection: &Connection, terms: &LeaseTerms) -> Result<Vec<TakenUp>, StoreError> {
    let taken = |asked| match asked {
        Asked::Taken(taken) => Some(taken),
        Asked::Left => None,
    };
    Ok(ask(connection, terms, None).await?.into_iter().filter_map(taken).collect())
}

/// Gives up triggers of an entry whose signal is too old by now. Their slots are free at once if the broker has not got them
/// (`is_absent`), else when their lease ends. The entry is over if it `is_last`.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn give_up(
    connection: &Connection,
    entry: Uuid,
    stale: &[Uuid],
    is_absent: bool,
    is_last: bool,
) -> Result<(), StoreError> {
    connection.query(include_str!("../sql/give_up.sql"), &[&stale, &entry, &is_absent, &is_last]).await?;
    Ok(())
}

/// What the statement says of an entry.
enum Asked {
    Taken(TakenUp),
    /// The loop leaves it to the sweepers.
    Left,
}

/// What is to be published of one entry now, with its leases renewed.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub(crate) async fn renew(connection: &Connection, terms: &LeaseTerms, entry: Uuid) -> Result<Renewal, StoreError> {
    match ask(connection, terms, Some(entry)).await?.pop() {
        Some(Asked::Taken(taken)) => return Ok(Renewal::Taken(taken)),
        Some(Asked::Left) => return Ok(Renewal::Over),
        None => {}
    }
    // One that was handed over to another deployment is that one's to publish.
    let sql = "select from dispatcher.publications
        where publication_id = $1 and enqueued_at is null and lapsed_at is null and coalesce(deployment_id = $2, true)";
    let waits = !connection.query(sql, &[&entry, &terms.deployment.id]).await?.is_empty();
    Ok(if waits { Renewal::Held } else { Renewal::Over })
}

/// An entry that was taken for lapsed was there: its tasks have results.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub(super) async fn was_there(connection: &Connection, entry: Uuid) -> Result<(), StoreError> {
    let sql = "update dispatcher.publications set enqueued_at = coalesce(enqueued_at, now()), lapsed_at = null where publication_id = $1";
    connection.query(sql, &[&entry]).await?;
    Ok(())
}

async fn ask(connection: &Connection, terms: &LeaseTerms, entry: Option<Uuid>) -> Result<Vec<Asked>, StoreError> {
    let reading = terms.evidence.reading("$9::bool");
    let sql = catalog::fill_in(connection, include_str!("../sql/take_up.sql"), reading).await?;
    let deployment = (!chaos::bug(Bug::SweepOfOthers)).then_some(terms.deployment.id);
    let asked_at = clock::timer();
    let rows = connection
        .query(
            &sql,
            &[
                &terms.patience.as_secs_f64(),
                &terms.lease.as_secs_f64(),
                &deployment,
                &terms.deployment.adopts,
                &terms.deployment.topic,
                &terms.max_age.map(|age| age.as_secs_f64()),
                &entry.map(|entry| vec![entry]),
                &(terms.lease + GUARD_MARGIN).as_secs_f64(),
                &terms.evidence.trusts_time(),
            ],
        )
        .await?;
    let mut found: Vec<TakenUp> = Vec::new();
    for row in &rows {
        let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
        let what: Option<&str> = row.try_get(1).map_err(StoreError::Answer)?;
        if what == Some("left") {
            return Ok(vec![Asked::Left]);
        }
        if found.last().is_none_or(|last| last.publication.id != id) {
            let expires = terms.expires(timestamp(row, 4)?);
            let publication = Publication { id, expires, publish_by: publish_by(asked_at, terms.lease), tasks: Vec::new() };
            let is_started = row.try_get(5).map_err(StoreError::Answer)?;
            let is_old = row.try_get(7).map_err(StoreError::Answer)?;
            found.push(TakenUp { publication, stale: Vec::new(), gone: Vec::new(), is_started, is_old });
        }
        if let (Some(what), Some(last)) = (what, found.last_mut()) {
            let trigger_id = row.try_get(2).map_err(StoreError::Answer)?;
            match what {
                "stale" => last.stale.push(trigger_id),
                "gone" => last.gone.push(trigger_id),
                _ => last.publication.tasks.push(Task { trigger_id, kwargs: row.try_get(3).map_err(StoreError::Answer)? }),
            }
        }
    }
    Ok(found.into_iter().map(Asked::Taken).collect())
}
