//! 4: what leaves. Claims become Celery messages, and messages reach the broker.
//!
//! Owns the shape of a task and its publication. Must never decide who is triggered, and never push bytes that our own
//! encoder has not made: a malformed message kills Celery's workers.

pub mod amqp;
pub mod celery;
mod context;
pub mod memory;
pub mod redis;

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock;

pub use crate::trigger_ids::{IdSpace, trigger_id};
pub use context::{List, Pieces, Texts, TriggerText, id_of_place, signal_id, trigger_text};

/// A task to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The trigger's, task's and execution's id.
    pub trigger_id: Uuid,
    /// The keyword arguments, as a JSON object.
    pub kwargs: String,
}

/// Tasks that are published together, once.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// What makes a repeated attempt recognisable.
    pub id: Uuid,
    /// When workers throw the tasks away: the end of their lease, less the margin.
    pub expires: Timestamp,
    /// Until when the tasks may be published. Later somebody may have renewed the lease, and what is published must carry the
    /// lease that is in force.
    pub publish_by: Instant,
    /// The tasks; on a queue that keeps order, the first is consumed first (on Redis up to 1,000 tasks: more go out in parts).
    pub tasks: Vec<Task>,
}

/// How long tasks may be published after their lease was asked for, at most. Then the publisher asks for a new one, and so holds off
/// the sweepers, which are more patient ([`PATIENCE`]).
pub const PUBLISH_WITHIN: Duration = Duration::from_secs(5);

/// How long no sweeper takes up an outbox entry that somebody publishes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Until when tasks may be published whose lease was asked for at `asked_at`, and granted just now. A store that is slow leaves a moment
/// for one attempt, as long as nobody else takes the entry up; else nothing would ever be published.
pub fn publish_by(asked_at: Instant, lease: Duration) -> Instant {
    let usual = asked_at + (lease / 4).min(PUBLISH_WITHIN);
    let last = asked_at + (lease / 2).min(PATIENCE);
    usual.max((clock::timer() + Duration::from_secs(1)).min(last))
}

/// When tasks with this lease expire: before it ends, for a task that starts late must have told of it by then.
pub fn expires(leased_until: Timestamp, margin: Duration) -> Timestamp {
    // Both are within the years that a timestamp can hold.
    leased_until.saturating_sub(margin).unwrap_or(leased_until)
}

/// Where tasks go.
pub trait TaskQueue: Send {
    /// What went wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Publishes, and returns once the broker has all tasks. May be repeated after an error: what the broker
    /// then does with tasks that it had already is each implementation's promise.
    ///
    /// # Errors
    /// The broker does not answer or refuses, or `publish_by` has passed. Whether it has the tasks is unknown.
    fn enqueue(&mut self, publication: &Publication) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Whether the broker has got a publication, once its `publish_by` has passed; `None` where the broker cannot tell.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    fn has(&mut self, _publication: Uuid) -> impl Future<Output = Result<Option<bool>, Self::Error>> + Send {
        std::future::ready(Ok(None))
    }

    /// The store knows that the broker has this publication: nobody will publish it again.
    fn settled(&mut self, _publication: Uuid) {}
}

/// The queue that the configuration names.
#[derive(Debug)]
pub enum Queue {
    /// Redis.
    Redis(Box<redis::RedisQueue>),
    /// RabbitMQ.
    Amqp(Box<amqp::AmqpQueue>),
    /// In memory.
    Memory(memory::MemoryQueue),
}

impl Queue {
    /// Connects where that tells something before the first task: whether Redis may throw tasks away.
    ///
    /// # Errors
    /// The broker does not answer or refuses. It need not: the first publication connects anew.
    pub async fn prepare(&mut self) -> Result<(), QueueError> {
        match self {
            Self::Redis(queue) => Ok(queue.connect().await?),
            Self::Amqp(_) | Self::Memory(_) => Ok(()),
        }
    }
}

/// What went wrong with the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// RabbitMQ.
    #[error(transparent)]
    Amqp(#[from] amqp::Error),
    /// The queue in memory.
    #[error(transparent)]
    Memory(#[from] TooLate),
}

impl QueueError {
    /// Whether another publication may succeed at this moment.
    pub fn is_about_the_publication(&self) -> bool {
        match self {
            Self::Redis(error) => matches!(error, redis::Error::TooLate { .. }),
            Self::Amqp(error) => matches!(error, amqp::Error::TooLate(_) | amqp::Error::Refused(_)),
            Self::Memory(TooLate) => true,
        }
    }
}

/// The publication's `publish_by` has passed, and the broker has taken nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease of the tasks may no longer be in force; it is renewed before the next attempt")]
pub struct TooLate;

impl TaskQueue for Queue {
    type Error = QueueError;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), QueueError> {
        match self {
            Self::Redis(queue) => Ok(queue.enqueue(publication).await?),
            Self::Amqp(queue) => Ok(queue.enqueue(publication).await?),
            Self::Memory(queue) => Ok(queue.enqueue(publication).await?),
        }
    }

    async fn has(&mut self, publication: Uuid) -> Result<Option<bool>, QueueError> {
        match self {
            Self::Redis(queue) => Ok(queue.has(publication).await?),
            Self::Amqp(queue) => Ok(queue.has(publication).await?),
            Self::Memory(queue) => Ok(queue.has(publication).await?),
        }
    }

    fn settled(&mut self, publication: Uuid) {
        match self {
            Self::Redis(queue) => queue.settled(publication),
            Self::Amqp(queue) => queue.settled(publication),
            Self::Memory(queue) => queue.settled(publication),
        }
    }
}
