//! The topics of a run, and what can be read from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::Offset;

use crate::clock;
use crate::services::Services;

/// Partitions of the signal topic.
pub(crate) const PARTITIONS: i32 = 12;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Hands a record to a producer, and waits while its queue is full.
pub(crate) fn send<C: ProducerContext + 'static>(
    client: &ThreadedProducer<C>,
    mut record: BaseRecord<'_, [u8], [u8], C::DeliveryOpaque>,
) -> anyhow::Result<()> {
    loop {
        match client.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                clock::check()?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error).context("Kafka's producer"),
        }
    }
}

/// The topics and the group of a run.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    pub(crate) servers: String,
    pub(crate) signals: String,
    pub(crate) dead_letters: String,
    pub(crate) group: String,
}

/// A record as it stands in a topic.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, Vec<u8>>,
}

impl Topics {
    pub(crate) fn create(services: &Services, name: &str) -> anyhow::Result<Self> {
        let topics = Self {
            servers: services.kafka.clone(),
            signals: name.to_owned(),
            dead_letters: format!("{name}.dead-letter"),
            group: name.to_owned(),
        };
        let admin: AdminClient<DefaultClientContext> = topics.client().create()?;
        let new = [
            NewTopic::new(&topics.signals, PARTITIONS, TopicReplication::Fixed(1)),
            NewTopic::new(&topics.dead_letters, 3, TopicReplication::Fixed(1)),
        ];
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in block_on(admin.create_topics(&new, &options))? {
            result.map_err(|(name, code)| anyhow::anyhow!("Kafka does not make the topic {name}: {code}"))?;
        }
        Ok(topics)
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("log_level", "0");
        config
    }

    /// Frees the disk of a run that is over.
    pub(crate) fn delete(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in block_on(admin.delete_topics(&[&self.signals, &self.dead_letters], &options))? {
            result.map_err(|(name, code)| anyhow::anyhow!("Kafka does not delete the topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Reads without joining the group.
    pub(crate) fn reader(&self) -> anyhow::Result<BaseConsumer> {
        let mut config = self.client();
        config.set("group.id", &self.group).set("enable.auto.commit", "false").set("reconnect.backoff.max.ms", "1000");
        config.create().context("Kafka's consumer")
    }

    /// The offsets after the last records, by partition.
    pub(crate) fn ends(&self, reader: &BaseConsumer) -> anyhow::Result<Vec<i64>> {
        (0..PARTITIONS)
            .map(|partition| Ok(reader.fetch_watermarks(&self.signals, partition, TIMEOUT).context("Kafka's watermarks")?.1))
            .collect()
    }

    /// The group's committed offsets, by partition.
    pub(crate) fn committed(&self, reader: &BaseConsumer) -> anyhow::Result<Vec<Option<i64>>> {
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(&self.signals, partition);
        }
        let found = reader.committed_offsets(list, TIMEOUT).context("the group's offsets")?;
        let offset = |partition| match found.find_partition(&self.signals, partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        };
        Ok((0..PARTITIONS).map(offset).collect())
    }

    /// The next offset of each partition, as PostgreSQL has it.
    pub(crate) fn progress(&self, client: &mut postgres::Client) -> anyhow::Result<BTreeMap<i32, i64>> {
        let sql = "select partition, coalesce(next_offset, 0) from dispatcher.progress where topic = $1";
        let rows = client.query(sql, &[&self.signals]).context("the progress")?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Everything in a topic, in the order of each partition.
    pub(crate) fn read_all(&self, topic: &str, mut each: impl FnMut(Stored)) -> anyhow::Result<()> {
        let reader = self.reader()?;
        let metadata = reader.fetch_metadata(Some(topic), TIMEOUT).context("Kafka")?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        for partition in 0..i32::try_from(partitions)? {
            let (low, high) = reader.fetch_watermarks(topic, partition, TIMEOUT)?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(low))?;
            reader.assign(&list)?;
            let mut next = low;
            while next < high {
                let message = reader.poll(TIMEOUT).with_context(|| format!("no record of {topic}/{partition} at {next}"))??;
                next = message.offset() + 1;
                each(stored(&message));
            }
        }
        Ok(())
    }
}

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map_or_else(BTreeMap::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    Stored {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// librdkafka's admin client answers in a thread of its own: waiting for it needs no runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
