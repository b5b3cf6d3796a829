//! RabbitMQ without async: a connection with a small runtime of its own, and a time limit on everything.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use tokio::runtime::Runtime;

/// lapin itself waits for ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with one channel.
pub(crate) struct Session {
    // Before the runtime, which they need for their end.
    channel: Channel,
    connection: Connection,
    runtime: Runtime,
}

impl Session {
    pub(crate) fn open(url: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("a runtime for RabbitMQ")?;
        let (connection, channel) = within(&runtime, async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        })?;
        Ok(Self { channel, connection, runtime })
    }

    /// Makes sure of a queue as Celery declares it; gives the messages that wait in it.
    pub(crate) fn declare(&self, queue: &str) -> anyhow::Result<u32> {
        let declared = self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), FieldTable::default());
        Ok(within(&self.runtime, declared)?.message_count())
    }

    /// Messages come from now on, at most so many that are not acknowledged.
    pub(crate) fn consume(&self, queue: &str, prefetch: u16) -> anyhow::Result<Consumer> {
        within(&self.runtime, async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            self.channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
        })
    }

    /// The next message, if one comes in time.
    pub(crate) fn next(&self, consumer: &mut Consumer, patience: Duration) -> anyhow::Result<Option<Delivery>> {
        match self.runtime.block_on(async { tokio::time::timeout(patience, consumer.next()).await }) {
            Err(_) => Ok(None),
            Ok(Some(delivery)) => Ok(Some(delivery?)),
            Ok(None) => anyhow::bail!("RabbitMQ has ended the consumer"),
        }
    }

    /// Acknowledges a message and all before it.
    pub(crate) fn acknowledge(&self, last: &Delivery) -> anyhow::Result<()> {
        within(&self.runtime, async { last.ack(BasicAckOptions { multiple: true }).await }).map(|_| ())
    }

    pub(crate) fn close(self) -> anyhow::Result<()> {
        within(&self.runtime, self.connection.close(200, "done".into()))
    }
}

fn within<T>(runtime: &Runtime, work: impl Future<Output = Result<T, lapin::Error>>) -> anyhow::Result<T> {
    let done = runtime.block_on(async { tokio::time::timeout(TIMEOUT, work).await });
    done.context("RabbitMQ does not answer")?.context("RabbitMQ")
}
