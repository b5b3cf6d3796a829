//! Tasks into RabbitMQ. Does IO.
//!
//! Promise: at least one message per task. Every publish is confirmed and mandatory, so that a message that reached no
//! queue is an error, not a silence. A repeated attempt sends only what was not confirmed; where a confirm was lost it
//! doubles the message, and the worker guard lets one start.

mod link;

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use serde_json::Value;
use uuid::Uuid;

use self::link::Link;
use super::celery::Encoder;
use super::{Publication, Task, TaskQueue, TooLate};
use crate::clock;
use crate::config::{AmqpAddress, CeleryConfig};

/// How long one chunk with its confirms may take. lapin itself waits for ever.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting may take: AMQP says hello in some six turns, and a slow server is not a dead one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Messages that wait for their confirms together.
const CHUNK: usize = 256;

/// What went wrong with RabbitMQ.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// RabbitMQ does not answer or refuses.
    #[error("rabbitmq at {address}: {source}")]
    Amqp {
        /// Where, without credentials.
        address: String,
        /// What the client says.
        source: lapin::Error,
    },
    /// No answer in time.
    #[error("rabbitmq at {0}: no answer within {1:?}")]
    TimedOut(String, Duration),
    /// No queue takes the message: no worker has declared it yet, or it was deleted.
    #[error("rabbitmq has no queue {0}; start a worker, or declare the queue as the workers do")]
    NoQueue(String),
    /// RabbitMQ refused a message.
    #[error("rabbitmq refused a message for the queue {0}; it may be full")]
    Refused(String),
    /// `publish_by` has passed.
    #[error("rabbitmq: {0}")]
    TooLate(super::TooLate),
    /// An alarm of RabbitMQ's: it reads nothing from publishers.
    #[error("rabbitmq at {0} takes no messages for the time being: it is short of memory or disk")]
    Blocked(String),
}

/// How far the publication has come that is being tried.
#[derive(Default)]
struct UnderWay {
    publication: Uuid,
    /// Tasks that RabbitMQ has.
    confirmed: HashSet<Uuid>,
    /// Tasks that were sent on the connection as it is, and whose confirms have not come yet.
    waiting: Vec<(Uuid, PublisherConfirm)>,
}

/// A Celery queue in RabbitMQ.
pub struct AmqpQueue {
    address: AmqpAddress,
    encoder: Encoder,
    queue: String,
    priority: u8,
    link: Option<Link>,
    under_way: UnderWay,
}

impl std::fmt::Debug for AmqpQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpQueue").field("address", &self.address.redacted).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl AmqpQueue {
    /// Prepares the queue; RabbitMQ need not be reachable yet.
    pub fn new(address: &AmqpAddress, config: &CeleryConfig) -> Self {
        Self {
            address: address.clone(),
            encoder: Encoder::new(config),
            queue: config.task_queue.clone(),
            priority: config.priority,
            link: None,
            under_way: UnderWay::default(),
        }
    }

    fn failed(&self, source: lapin::Error) -> Error {
        Error::Amqp { address: self.address.redacted.clone(), source }
    }

    fn timed_out(&self, time: Duration) -> Error {
        Error::TimedOut(self.address.redacted.clone(), time)
    }

    async fn within<T>(&self, time: Duration, work: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, Error> {
        let result = tokio::time::timeout(time, work).await.map_err(|_| self.timed_out(time))?;
        result.map_err(|source| self.failed(source))
    }

    /// Publishes what is not confirmed yet, and waits for all confirms.
    async fn publish(&mut self, channel: &Channel, publication: &Publication) -> Result<(), Error> {
        // Of an attempt that RabbitMQ had blocked.
        self.settle().await?;
        let left: Vec<_> = publication.tasks.iter().filter(|task| !self.under_way.confirmed.contains(&task.trigger_id)).collect();
        for chunk in left.chunks(CHUNK) {
            self.under_way.waiting = self.within(TIMEOUT, self.send(channel, chunk, publication)).await?;
            self.settle().await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        channel: &Channel,
        tasks: &[&Task],
        publication: &Publication,
    ) -> Result<Vec<(Uuid, PublisherConfirm)>, lapin::Error> {
        let mut sent = Vec::with_capacity(tasks.len());
        for task in tasks {
            let body = Encoder::body(task);
            let properties = self.properties(task, publication);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let queue = ShortString::from(self.queue.as_str());
            let confirm = channel.basic_publish("".into(), queue, options, body.as_bytes(), properties).await?;
            sent.push((task.trigger_id, confirm));
        }
        Ok(sent)
    }

    /// Waits for the confirms of what was sent, and remembers each, also where others fail.
    async fn settle(&mut self) -> Result<(), Error> {
        let mut deadline = pin!(tokio::time::sleep(TIMEOUT));
        let mut result = Ok(());
        for (task, mut confirm) in std::mem::take(&mut self.under_way.waiting) {
            let answer = tokio::select! {
                biased;
                answer = &mut confirm => answer,
                () = &mut deadline => {
                    self.under_way.waiting.push((task, confirm));
                    result = result.and(Err(self.timed_out(TIMEOUT)));
                    continue;
                }
            };
            let answer = match answer.map_err(|source| self.failed(source)) {
                Ok(Confirmation::Ack(None)) => {
                    self.under_way.confirmed.insert(task);
                    Ok(())
                }
                Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Err(Error::NoQueue(self.queue.clone())),
                Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => Err(Error::Refused(self.queue.clone())),
                Err(error) => Err(error),
            };
            result = result.and(answer);
        }
        result
    }

    fn properties(&self, task: &Task, publication: &Publication) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in self.encoder.headers(task, publication.expires) {
            headers.insert(name.into(), amqp_value(value));
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(self.priority)
            .with_correlation_id(task.trigger_id.to_string().into())
            .with_message_id(task.trigger_id.to_string().into())
    }
}

impl TaskQueue for AmqpQueue {
    type Error = Error;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), Error> {
        if publication.tasks.is_empty() {
            return Ok(());
        }
        if self.under_way.publication != publication.id {
            self.under_way = UnderWay { publication: publication.id, ..UnderWay::default() };
        }
        let link = match self.link.take() {
            Some(link) => link,
            None => self.within(CONNECT_TIMEOUT, Link::connect(&self.address)).await?,
        };
        let is_blocked = || link.connection.status().connected() && link.connection.status().blocked();
        if clock::timer() > publication.publish_by {
            self.link = Some(link);
            return Err(Error::TooLate(TooLate));
        }
        let result = if is_blocked() { None } else { Some(self.publish(&link.channel, publication).await) };
        match result {
            Some(Ok(())) => {
                self.link = Some(link);
                self.under_way = UnderWay::default();
                Ok(())
            }
            Some(Err(error)) if !is_blocked() => {
                // The next attempt starts with a new link: outstanding confirms belong to this one.
                self.under_way.waiting.clear();
                Err(error)
            }
            Some(Err(_)) | None => {
                // This link is kept: the next one would be blocked too. What was sent on it waits for its confirms still.
                self.link = Some(link);
                Err(Error::Blocked(self.address.redacted.clone()))
            }
        }
    }
}

fn amqp_value(value: Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => AMQPValue::LongLongInt(integer),
            (None, Some(real)) => AMQPValue::Double(real),
            (None, None) => AMQPValue::Void,
        },
        Value::String(text) => AMQPValue::LongString(text.into()),
        Value::Array(list) => AMQPValue::FieldArray(list.into_iter().map(amqp_value).collect::<Vec<_>>().into()),
        Value::Object(map) => {
            let mut table = FieldTable::default();
            for (name, value) in map {
                table.insert(name.into(), amqp_value(value));
            }
            AMQPValue::FieldTable(table)
        }
    }
}
