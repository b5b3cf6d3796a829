//! How a worker takes messages: from Redis by popping them, from RabbitMQ by consuming and acknowledging at once, as Celery
//! does without late acknowledgements.

use std::time::Duration;

use lapin::Consumer;

use crate::amqp::Session;
use crate::broker::Broker;
use crate::options::Arm;

/// Messages taken at once.
const TAKEN: u16 = 200;

/// A message as the broker gave it.
#[derive(Debug)]
pub(super) enum Message {
    Redis(Vec<u8>),
    Rabbitmq(Box<lapin::message::Delivery>),
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redis(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Rabbitmq(message) => write!(f, "{:?} {}", message.properties, String::from_utf8_lossy(&message.data)),
        }
    }
}

/// A worker's side of the broker; connects again by itself.
pub(super) struct Queue {
    broker: Broker,
    name: String,
    redis: Option<redis::Connection>,
    // The consumer first: it belongs to the session.
    rabbitmq: Option<(Consumer, Session)>,
}

impl Queue {
    pub(super) fn new(broker: Broker, name: String) -> Self {
        Self { broker, name, redis: None, rabbitmq: None }
    }

    /// What waits, or comes within the time. After an error on Redis it is unknown whether messages were taken: then they are
    /// lost with us. RabbitMQ gives again what was not acknowledged.
    pub(super) fn take(&mut self, patience: Duration) -> Vec<Message> {
        let mut taken = Vec::new();
        let result = match self.broker.arm {
            Arm::Redis => self.pop(patience, &mut taken).map_err(anyhow::Error::from),
            Arm::Rabbitmq => self.consume(patience, &mut taken),
        };
        if result.is_err() {
            // The broker is down, as planned; if it stays down, the run does not settle and says so.
            (self.redis, self.rabbitmq) = (None, None);
            std::thread::sleep(Duration::from_millis(50));
        }
        taken
    }

    fn pop(&mut self, patience: Duration, taken: &mut Vec<Message>) -> redis::RedisResult<()> {
        let connection = match self.redis.take() {
            Some(connection) => connection,
            None => {
                let client = redis::Client::open(self.broker.url.as_str())?;
                let connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
                connection.set_read_timeout(Some(Duration::from_secs(2)))?;
                connection
            }
        };
        let connection = self.redis.insert(connection);
        let mut command = redis::cmd("BLMPOP");
        command.arg(patience.as_secs_f64()).arg(1).arg(&self.name).arg("RIGHT").arg("COUNT").arg(TAKEN);
        let found: Option<(String, Vec<Vec<u8>>)> = command.query(connection)?;
        taken.extend(found.into_iter().flat_map(|(_, messages)| messages).map(Message::Redis));
        Ok(())
    }

    fn consume(&mut self, patience: Duration, taken: &mut Vec<Message>) -> anyhow::Result<()> {
        let open = match self.rabbitmq.take() {
            Some(open) => open,
            None => {
                let session = Session::open(self.broker.url.as_str())?;
                (session.consume(&self.name, TAKEN)?, session)
            }
        };
        let (consumer, session) = self.rabbitmq.insert(open);
        let mut wait = patience;
        while taken.len() < usize::from(TAKEN)
            && let Some(delivery) = session.next(consumer, wait)?
        {
            taken.push(Message::Rabbitmq(Box::new(delivery)));
            wait = Duration::ZERO;
        }
        if let Some(Message::Rabbitmq(last)) = taken.last() {
            session.acknowledge(last)?;
        }
        Ok(())
    }
}
