//! Tasks into RabbitMQ. Does IO.
//!
//! Promise: at least one message per task. Every publish is confirmed and mandatory, so that a message that reached no
//! queue is an error, not a silence. An attempt that is repeated after a lost confirm doubles messages; the worker
//! guard lets one start.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;

use super::celery::Encoder;
use super::{Publication, Task, TaskQueue};
use crate::config::{AmqpAddress, CeleryConfig};

/// How long connecting, or one chunk with its confirms, may take. lapin itself waits for ever.
const TIMEOUT: Duration = Duration::from_secs(10);
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
    #[error("rabbitmq at {0}: no answer within {TIMEOUT:?}")]
    TimedOut(String),
    /// No queue takes the message: no worker has declared it yet, or it was deleted.
    #[error("rabbitmq has no queue {0}; start a worker, or declare the queue as the workers do")]
    NoQueue(String),
    /// RabbitMQ refused a message.
    #[error("rabbitmq refused a message for the queue {0}")]
    Refused(String),
}

/// A Celery queue in RabbitMQ.
pub struct AmqpQueue {
    address: AmqpAddress,
    encoder: Encoder,
    queue: String,
    priority: u8,
    connection: Option<(Connection, Channel)>,
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
            connection: None,
        }
    }

    fn failed(&self, source: lapin::Error) -> Error {
        Error::Amqp { address: self.address.redacted.clone(), source }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, Error> {
        let result = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| Error::TimedOut(self.address.redacted.clone()))?;
        result.map_err(|source| self.failed(source))
    }

    async fn connect(&self) -> Result<(Connection, Channel), Error> {
        self.within(async {
            let properties = ConnectionProperties::default().with_connection_name("trigger-dispatcher".into());
            let connection = Connection::connect(self.address.expose(), properties).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok((connection, channel))
        })
        .await
    }

    /// Publishes tasks and waits for all their confirms.
    async fn publish(&self, channel: &Channel, tasks: &[Task], publication: &Publication) -> Result<(), Error> {
        let confirms = self
            .within(async {
                let mut waiting = Vec::with_capacity(tasks.len());
                for task in tasks {
                    let body = Encoder::body(task);
                    let properties = self.properties(task, publication);
                    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                    let queue = ShortString::from(self.queue.as_str());
                    waiting.push(channel.basic_publish("".into(), queue, options, body.as_bytes(), properties).await?);
                }
                join_all(waiting).await.into_iter().collect::<Result<Vec<_>, _>>()
            })
            .await?;
        for confirm in confirms {
            match confirm {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => return Err(Error::NoQueue(self.queue.clone())),
                Confirmation::Nack(None) | Confirmation::NotRequested => return Err(Error::Refused(self.queue.clone())),
            }
        }
        Ok(())
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
        // Whatever goes wrong, the next attempt starts with a new connection: confirms belong to the old one.
        let (connection, channel) = match self.connection.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        for chunk in publication.tasks.chunks(CHUNK) {
            self.publish(&channel, chunk, publication).await?;
        }
        self.connection = Some((connection, channel));
        Ok(())
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
