//! A topic of a test's own, on the real Kafka.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::cleanup::after_success;
use super::{service, unique, wait_for};

pub(crate) struct TestTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    producer: ThreadedProducer<DefaultProducerContext>,
}

/// A record of the dead-letter topic.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl DeadLetter {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        String::from_utf8(value.clone()?).ok()
    }
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", service("TEST_KAFKA"));
    config
}

fn admin() -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    (config().create().unwrap(), options)
}

async fn configure(topic: &str, property: &str, value: &str) {
    let (admin, options) = admin();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(property, value);
    for result in admin.alter_configs(&[change], &options).await.unwrap() {
        result.unwrap();
    }
}

impl Drop for TestTopic {
    fn drop(&mut self) {
        let names = [self.name.clone(), self.dead_letter_topic()];
        after_success(async move {
            let (admin, options) = admin();
            let names = names.each_ref().map(String::as_str);
            let deleted = admin.delete_topics(&names, &options).await.map_err(|error| error.to_string())?;
            // A test may have deleted one of them itself.
            let failed = deleted.into_iter().filter_map(Result::err).filter(|(_, code)| *code != UnknownTopicOrPartition);
            failed.map(|(name, code)| Err(format!("{name}: {code}"))).next().unwrap_or(Ok(()))
        });
    }
}

async fn delete(topic: &str) {
    let (admin, options) = admin();
    for result in admin.delete_topics(&[topic], &options).await.unwrap() {
        result.unwrap();
    }
    wait_for("the end of a topic", 30, || (!has(topic)).then_some(()));
}

fn has(topic: &str) -> bool {
    let consumer: BaseConsumer = config().create().unwrap();
    let all = consumer.fetch_metadata(None, Duration::from_secs(10)).unwrap();
    all.topics().iter().any(|found| found.name() == topic)
}

impl TestTopic {
    pub(crate) async fn create(partitions: i32) -> Self {
        let name = unique("signals");
        let (admin, options) = admin();
        let wide = [("max.message.bytes", "12000000")];
        let mut signals = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        signals.config.extend(wide);
        let dead = format!("{name}.dead-letter");
        let mut letters = NewTopic::new(&dead, 1, TopicReplication::Fixed(1));
        letters.config.extend(wide);
        for result in admin.create_topics([&signals, &letters], &options).await.unwrap() {
            result.unwrap();
        }
        let producer = config().set("linger.ms", "2").set("acks", "all").set("message.max.bytes", "12000000").create().unwrap();
        Self { name, partitions, producer }
    }

    /// Its dead-letter topic.
    pub(crate) fn dead_letter_topic(&self) -> String {
        format!("{}.dead-letter", self.name)
    }

    /// Deletes the topic and waits until Kafka has forgotten it. Its dead-letter topic stays.
    pub(crate) async fn delete(&self) {
        delete(&self.name).await;
    }

    /// Deletes the dead-letter topic and waits until Kafka has forgotten it.
    pub(crate) async fn delete_dead_letters(&self) {
        delete(&self.dead_letter_topic()).await;
    }

    /// Whether Kafka has the dead-letter topic. The question does not make it.
    pub(crate) fn has_dead_letters(&self) -> bool {
        has(&self.dead_letter_topic())
    }

    /// Makes the topic again after [`TestTopic::delete`].
    pub(crate) async fn make_anew(&self) {
        let (admin, options) = admin();
        let signals = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(1));
        for result in admin.create_topics([&signals], &options).await.unwrap() {
            result.unwrap();
        }
    }

    /// Deletes the records of a partition before `offset`, as retention does.
    pub(crate) async fn delete_records_before(&self, partition: i32, offset: i64) {
        let (admin, options) = admin();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        let deleted = admin.delete_records(&list, &options).await.unwrap();
        deleted.elements_for_topic(&self.name)[0].error().unwrap();
    }

    /// Sets a property of the dead-letter topic.
    pub(crate) async fn configure_dead_letters(&self, property: &str, value: &str) {
        configure(&self.dead_letter_topic(), property, value).await;
    }

    /// Sets a property of the topic.
    pub(crate) async fn configure(&self, property: &str, value: &str) {
        configure(&self.name, property, value).await;
    }

    /// Queues a record for the dead-letter topic.
    pub(crate) fn send_dead_letter(&self, payload: &[u8], headers: &[(&str, &str)]) {
        let name = self.dead_letter_topic();
        let headers =
            headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        self.queue(BaseRecord::to(&name).partition(0).key(b"key".as_slice()).payload(payload).headers(headers));
    }

    /// Queues a record; [`TestTopic::flush`] waits for it.
    pub(crate) fn send(&self, partition: i32, payload: &[u8]) {
        self.queue(BaseRecord::to(&self.name).partition(partition).payload(payload));
    }

    /// Queues a record that is as old as `time_ms`, in milliseconds since 1970, says.
    pub(crate) fn send_at(&self, partition: i32, time_ms: i64, payload: &[u8]) {
        self.queue(BaseRecord::to(&self.name).partition(partition).payload(payload).timestamp(time_ms));
    }

    /// Queues a record with everything that it may have, or lack.
    pub(crate) fn send_record(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(String, Option<Vec<u8>>)],
    ) {
        let mut record = BaseRecord::to(&self.name).partition(partition);
        (record.key, record.payload) = (key, payload);
        let added =
            headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: value.as_deref() }));
        self.queue(record.headers(added));
    }

    /// Sends signals to partition 0 in a transaction, whose end leaves a marker behind them: an offset without a record.
    pub(crate) fn send_in_transaction(&self, signals: &[Value], is_committed: bool) {
        let timeout = Duration::from_secs(30);
        let producer: ThreadedProducer<DefaultProducerContext> =
            config().set("transactional.id", unique("producer")).create().unwrap();
        producer.init_transactions(timeout).unwrap();
        producer.begin_transaction().unwrap();
        for signal in signals {
            let payload = signal.to_string();
            producer.send(BaseRecord::<[u8], _>::to(&self.name).partition(0).payload(&payload)).unwrap();
        }
        producer.flush(timeout).unwrap();
        if is_committed { producer.commit_transaction(timeout) } else { producer.abort_transaction(timeout) }.unwrap();
    }

    fn queue(&self, mut record: BaseRecord<'_, [u8], [u8]>) {
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                // The local queue is full: let it drain.
                Err((_, back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
            }
        }
    }

    pub(crate) fn send_json(&self, partition: i32, signal: &Value) {
        self.send(partition, signal.to_string().as_bytes());
    }

    /// Waits until Kafka has everything.
    pub(crate) fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// Commits offsets for the group, as a service that had them before does.
    pub(crate) fn commit(&self, group: &str, offsets: &[(i32, i64)]) {
        let consumer: BaseConsumer = config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.name, *partition, Offset::Offset(*offset)).unwrap();
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// The group's committed offset of each partition; `None` where it has none.
    pub(crate) fn committed(&self, group: &str) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name, 0, self.partitions - 1);
        let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
        let offset = |partition| committed.find_partition(&self.name, partition).map(|element| element.offset());
        (0..self.partitions)
            .map(|partition| if let Some(Offset::Offset(offset)) = offset(partition) { Some(offset) } else { None })
            .collect()
    }

    /// Everything in the dead-letter topic.
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        let name = self.dead_letter_topic();
        let consumer: BaseConsumer = config().set("group.id", unique("reader")).create().unwrap();
        let (low, high) = consumer.fetch_watermarks(&name, 0, Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut letters = Vec::new();
        while (letters.len() as i64) < high - low {
            let message = consumer.poll(Duration::from_secs(10)).expect("a dead letter that the watermarks promise").unwrap();
            let headers = message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
            });
            letters.push(DeadLetter {
                payload: message.payload().map(<[u8]>::to_vec),
                key: message.key().map(<[u8]>::to_vec),
                headers,
            });
        }
        letters
    }
}
