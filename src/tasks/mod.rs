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

use jiff::Timestamp;
use uuid::Uuid;

pub use context::{Texts, TriggerText, id_of_place, signal_id, trigger_id, trigger_text};

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
    /// When workers throw the tasks away: the end of their lease.
    pub expires: Timestamp,
    /// The tasks; on a queue that keeps order, the first is consumed first (on Redis up to 1,000 tasks: more go out in parts).
    pub tasks: Vec<Task>,
}

/// Where tasks go.
pub trait TaskQueue: Send {
    /// What went wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Publishes, and returns once the broker has all tasks. May be repeated after an error: what the broker
    /// then does with tasks that it had already is each implementation's promise.
    ///
    /// # Errors
    /// The broker does not answer or refuses. Whether it has the tasks is unknown.
    fn enqueue(&mut self, publication: &Publication) -> impl Future<Output = Result<(), Self::Error>> + Send;
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
}

impl TaskQueue for Queue {
    type Error = QueueError;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), QueueError> {
        match self {
            Self::Redis(queue) => Ok(queue.enqueue(publication).await?),
            Self::Amqp(queue) => Ok(queue.enqueue(publication).await?),
            Self::Memory(queue) => match queue.enqueue(publication).await {
                Ok(()) => Ok(()),
                Err(never) => match never {},
            },
        }
    }
}
