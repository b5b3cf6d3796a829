//! Which rows of our schema are ours. Several deployments may share one database: they share the slots, and nothing else. Does IO.

use tokio_postgres::Row;

use super::StoreError;
use super::database::Connection;
use crate::config::Config;
use crate::trigger_ids::IdSpace;

/// What names a deployment: who decides, and where its tasks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentKey {
    /// The consumer group.
    pub group: String,
    /// The signal topic.
    pub topic: String,
    /// The broker and the queue, without credentials.
    pub target: String,
    /// What the trigger ids are made in, if the operator says so; else in the topic.
    pub id_space: Option<String>,
}

impl DeploymentKey {
    /// The deployment of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            group: config.kafka.consumer_group.clone(),
            topic: config.kafka.signal_topic.clone(),
            target: config.celery.target(),
            id_space: config.trigger.id_space.clone(),
        }
    }
}

/// A registered deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its number in the rows that it owns.
    pub id: i32,
    /// The signal topic.
    pub topic: String,
    /// What its trigger ids are made in.
    pub ids: IdSpace,
    /// Whether triggers of the versions that knew no deployments are looked up by their former ids too.
    pub looks_back: bool,
    /// Whether rows of the topic that name no deployment are its own: instances of such a version wrote them.
    pub adopts: bool,
}

/// The deployment's row, made if there is none. Any number of instances may do it at once.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn register(connection: &Connection, key: &DeploymentKey) -> Result<Deployment, StoreError> {
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&key.group, &key.topic, &key.target];
    if let Some(row) = connection.query(include_str!("sql/deployment.sql"), &values).await?.first() {
        return deployment(row, key);
    }
    connection.query(include_str!("sql/register.sql"), &values).await?;
    match connection.query(include_str!("sql/deployment.sql"), &values).await?.first() {
        Some(row) => deployment(row, key),
        None => Err(StoreError::Schema("dispatcher.deployments lost the row of this deployment: start again".to_owned())),
    }
}

fn deployment(row: &Row, key: &DeploymentKey) -> Result<Deployment, StoreError> {
    let read = || {
        let former_ids: bool = row.try_get(1)?;
        Ok(Deployment {
            id: row.try_get(0)?,
            topic: key.topic.clone(),
            ids: match &key.id_space {
                Some(name) => IdSpace::named(name),
                None if former_ids => IdSpace::FORMER,
                None => IdSpace::of(&key.topic),
            },
            looks_back: row.try_get(2)?,
            adopts: row.try_get(3)?,
        })
    };
    read().map_err(StoreError::Answer)
}

/// What a deployment still owes its broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The deployment's number.
    pub id: i32,
    /// What names it.
    pub key: DeploymentKey,
    /// Outbox entries that the broker is not known to have.
    pub waiting: i64,
    /// Age of the oldest of them, in seconds.
    pub oldest_seconds: Option<i64>,
    /// Slots whose lease runs.
    pub in_flight: i64,
}

/// What each deployment still owes its broker.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn owed(connection: &Connection) -> Result<Vec<Owed>, StoreError> {
    let rows = connection.query(include_str!("sql/owed.sql"), &[]).await?;
    let read = |row: &Row| {
        Ok(Owed {
            id: row.try_get(0)?,
            key: DeploymentKey { group: row.try_get(1)?, topic: row.try_get(2)?, target: row.try_get(3)?, id_space: None },
            waiting: row.try_get(4)?,
            oldest_seconds: row.try_get(5)?,
            in_flight: row.try_get(6)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(StoreError::Answer)
}

/// Hands what deployment `from` still owes its broker over to `to`; 0 is for entries of the topic that name no deployment. Returns how many
/// entries and tasks.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn hand_over(connection: &Connection, from: i32, to: &Deployment) -> Result<(i64, i64), StoreError> {
    let rows = connection.query(include_str!("sql/hand_over.sql"), &[&from, &to.id, &to.topic]).await?;
    let row = rows.first().ok_or_else(|| StoreError::Schema("the hand-over gave no row".to_owned()))?;
    Ok((row.try_get(0).map_err(StoreError::Answer)?, row.try_get(1).map_err(StoreError::Answer)?))
}
