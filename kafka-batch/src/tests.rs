//! On librdkafka's mock cluster: the same wire protocol, no services.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::*;

const TOPIC: &str = "records";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a record says: partition, offset, time, key, payload and headers.
type Seen = (i32, i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Kafka {
    fn new(partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, partitions, 1).unwrap();
        let producer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "2").create().unwrap();
        Self { cluster, producer }
    }

    fn fill(&self, partition: i32, records: i64) {
        for number in 0..records {
            let payload = number.to_string();
            self.producer.send(BaseRecord::<(), str>::to(TOPIC).partition(partition).payload(&payload)).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    fn single(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "tests")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "5")
            .create()
            .unwrap()
    }

    fn batch(&self) -> BatchConsumer {
        BatchConsumer::new(self.single()).unwrap()
    }
}

fn list(partitions: &[(i32, i64)]) -> TopicPartitionList {
    partitions.iter().fold(TopicPartitionList::new(), |mut list, (partition, offset)| {
        list.add_partition_offset(TOPIC, *partition, Offset::Offset(*offset)).unwrap();
        list
    })
}

/// Takes until so many records have come: their partitions and offsets. None of them may come another way.
#[track_caller]
fn take(consumer: &mut BatchConsumer, records: usize) -> Vec<(i32, i64)> {
    let mut seen = Vec::new();
    for _ in 0..1_500 {
        consumer.take(Duration::from_millis(20), |record| {
            if record.error().is_none() {
                seen.push((record.partition(), record.offset()));
            }
        });
        if let Some(Ok(message)) = consumer.poll(Duration::ZERO) {
            panic!("the consumer's own queue got offset {} of partition {}", message.offset(), message.partition());
        }
        if seen.len() >= records {
            return seen;
        }
    }
    panic!("only {} of {records} came", seen.len());
}

/// The offsets of one partition.
fn of(partition: i32, seen: &[(i32, i64)]) -> Vec<i64> {
    seen.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect()
}

#[test]
fn a_record_is_the_same_as_from_the_safe_bindings() {
    let kafka = Kafka::new(2);
    let headers = |names: &[(&str, Option<&str>)]| {
        names.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }))
    };
    let send = |record: BaseRecord<'_, [u8], [u8]>| kafka.producer.send(record).map_err(|(error, _)| error).unwrap();
    let to = |partition| BaseRecord::<[u8], [u8]>::to(TOPIC).partition(partition);
    send(to(0).key(b"a key").payload(b"a payload").timestamp(1_234_567));
    send(to(1).key(b"").payload(b"\xFF\x00").headers(headers(&[("name", Some("value")), ("none", None), ("name", Some(""))])));
    send(to(1).payload(b""));
    send(to(0));
    kafka.producer.flush(PATIENCE).unwrap();

    let both = list(&[(0, 0), (1, 0)]);
    let single = kafka.single();
    single.assign(&both).unwrap();
    let mut expected: Vec<Seen> = Vec::new();
    while expected.len() < 4 {
        let Ok(message) = single.poll(PATIENCE).unwrap() else { continue };
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        let (key, payload) = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec));
        expected.push((message.partition(), message.offset(), message.timestamp().to_millis(), key, payload, headers));
    }

    let mut consumer = kafka.batch();
    consumer.assign(&both).unwrap();
    let mut seen: Vec<Seen> = Vec::new();
    while seen.len() < 4 {
        let taken = consumer.take(PATIENCE, |record| {
            if record.error().is_none() {
                let (key, payload) = (record.key().map(<[u8]>::to_vec), record.payload().map(<[u8]>::to_vec));
                seen.push((record.partition(), record.offset(), record.timestamp_ms(), key, payload, record.headers()));
            }
        });
        assert!(taken > 0, "only {seen:?} came");
    }
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
    assert_eq!((seen[0].2, seen[2].5.len()), (Some(1_234_567), 3), "the test's own records");
}

#[test]
fn each_partition_comes_in_order_and_no_call_gives_too_many() {
    let kafka = Kafka::new(2);
    kafka.fill(0, 2_500);
    kafka.fill(1, 2_500);
    let mut consumer = kafka.batch();
    consumer.assign(&list(&[(0, 0), (1, 500)])).unwrap();
    let (mut seen, mut most) = (Vec::new(), 0);
    while seen.len() < 4_500 {
        let mut lent = 0;
        let taken = consumer.take(PATIENCE, |record| {
            lent += 1;
            seen.extend(record.error().is_none().then(|| (record.partition(), record.offset())));
        });
        assert!(taken > 0, "only {} came", seen.len());
        assert_eq!(taken, lent);
        most = most.max(taken);
    }
    assert!(most <= MOST);
    assert_eq!((of(0, &seen), of(1, &seen)), ((0..2_500).collect(), (500..2_500).collect()));
}

#[test]
fn an_error_takes_the_place_of_a_record() {
    let kafka = Kafka::new(2);
    kafka.fill(0, 3);
    let mut consumer = kafka.batch();
    consumer.assign(&list(&[(0, 1), (1, 99)])).unwrap();
    let (mut records, mut end, mut outside) = (Vec::new(), None, None);
    while end.is_none() || outside.is_none() {
        let taken = consumer.take(PATIENCE, |record| match record.error() {
            None => records.push(record.offset()),
            Some(KafkaError::PartitionEOF(partition)) => end = Some(partition),
            error => outside = error.map(|error| (record.partition(), error.rdkafka_error_code(), record.headers())),
        });
        assert!(taken > 0, "only {end:?} and {outside:?} came");
    }
    assert_eq!((records, end), (vec![1, 2], Some(0)));
    assert_eq!(outside, Some((1, Some(RDKafkaErrorCode::AutoOffsetReset), Vec::new())));
}

#[test]
fn partitions_that_are_assigned_again_are_forwarded_again() {
    let kafka = Kafka::new(2);
    kafka.fill(0, 10);
    kafka.fill(1, 10);
    let mut consumer = kafka.batch();
    for turn in 0..5 {
        consumer.assign(&list(&[(0, turn), (1, 0)])).unwrap();
        let seen = take(&mut consumer, 20 - usize::try_from(turn).unwrap());
        assert_eq!((of(0, &seen), of(1, &seen)), ((turn..10).collect(), (0..10).collect()), "turn {turn}");
        match turn {
            0 => {}
            1 => consumer.assign(&TopicPartitionList::new()).unwrap(),
            // As a revocation does.
            _ => consumer.consumer().unassign().unwrap(),
        }
    }
}

#[test]
fn what_was_fetched_of_a_partition_that_was_taken_away_does_not_come() {
    let kafka = Kafka::new(2);
    kafka.fill(0, 3_000);
    kafka.fill(1, 3_000);
    let mut consumer = kafka.batch();
    consumer.assign(&list(&[(0, 0), (1, 0)])).unwrap();
    take(&mut consumer, 1);
    consumer.assign(&list(&[(1, 2_000)])).unwrap();
    let seen = take(&mut consumer, 1_000);
    assert_eq!(seen, (2_000..3_000).map(|offset| (1, offset)).collect::<Vec<_>>());
}

#[test]
fn a_paused_partition_goes_on_where_it_was() {
    let kafka = Kafka::new(1);
    kafka.fill(0, 3_000);
    let mut consumer = kafka.batch();
    let one = list(&[(0, 0)]);
    consumer.assign(&one).unwrap();
    let mut seen = take(&mut consumer, 1);
    consumer.consumer().pause(&one).unwrap();
    consumer.take(Duration::from_millis(50), |record| {
        assert!(record.error().is_some(), "offset {} came in the pause", record.offset());
    });
    consumer.consumer().resume(&one).unwrap();
    let rest = 3_000 - seen.len();
    seen.extend(take(&mut consumer, rest));
    assert_eq!(of(0, &seen), (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_panic_gives_the_other_records_back() {
    let kafka = Kafka::new(1);
    kafka.fill(0, 1_500);
    let mut consumer = kafka.batch();
    consumer.assign(&list(&[(0, 0)])).unwrap();
    let mut first = None;
    let taken = catch_unwind(AssertUnwindSafe(|| {
        consumer.take(PATIENCE, |record| {
            assert!(first.is_none(), "the second one");
            first = Some(record.offset());
        })
    }));
    assert!(taken.is_err() || taken.unwrap() == 1);
    // The consumer goes on, and ends: librdkafka waits in vain for a record that is not given back.
    take(&mut consumer, 1);
}

#[test]
fn a_consumer_may_end_with_records_in_its_queue() {
    let kafka = Kafka::new(2);
    kafka.fill(0, 2_000);
    kafka.fill(1, 2_000);
    let mut consumer = kafka.batch();
    consumer.assign(&list(&[(0, 0), (1, 0)])).unwrap();
    take(&mut consumer, 1);
    drop(consumer);
    // And without any.
    drop(kafka.batch());
}

/// The mock names a controller that is not among its brokers: librdkafka waits for it until time is up, but any broker can tell.
#[test]
fn a_topic_id_is_told_by_any_broker_also_where_no_controller_answers() {
    let kafka = Kafka::new(1);
    let mut consumer = kafka.batch();
    assert_eq!(consumer.answer(Duration::ZERO), TopicId::Unknown, "nothing was asked");
    consumer.ask(TOPIC, None, Duration::from_secs(1));
    assert_eq!(consumer.answer(PATIENCE), TopicId::Unknown, "the controller never answers");
    let broker = answering_broker(&consumer.consumer().fetch_metadata(Some(TOPIC), PATIENCE).unwrap());
    assert!(broker.is_some());
    consumer.ask(TOPIC, broker, PATIENCE);
    let TopicId::Is(id) = consumer.answer(PATIENCE) else { panic!("the broker does not tell") };
    assert_eq!(topic_id(consumer.consumer().client(), TOPIC, PATIENCE), Some(id));
    consumer.ask("no-such-topic", broker, PATIENCE);
    assert_ne!(consumer.answer(PATIENCE), TopicId::NotYet);
    // The answer comes to nobody.
    consumer.ask(TOPIC, broker, PATIENCE);
    consumer.ask(TOPIC, None, PATIENCE);
    drop(consumer);
}
