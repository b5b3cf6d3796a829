//! A Celery queue in RabbitMQ.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use super::service;

pub(crate) struct AmqpTestQueue {
    name: String,
    channel: Channel,
    _connection: Connection,
}

impl AmqpTestQueue {
    /// Declares the queue as a Celery worker does.
    pub(crate) async fn declare(name: &str) -> Self {
        let url = service("TEST_AMQP_URL").replacen("//", "\u{0}", 1).replace("//", "/%2f").replace('\u{0}', "//");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
        Self { name: name.to_owned(), channel, _connection: connection }
    }

    /// Messages that wait.
    pub(crate) async fn len(&self) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(self.name.as_str().into(), options, FieldTable::default()).await.unwrap().message_count()
    }
}
