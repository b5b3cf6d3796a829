//! On librdkafka's mock of Kafka: what a real one can hardly be brought to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use secrecy::SecretString;

use super::KafkaSource;
use crate::config::{BatchConfig, Flush, KafkaConfig, OffsetReset};
use crate::intake::{Arrival, Source as _, Start};
use crate::telemetry::Metrics;

const TOPIC: &str = "signals";
const PATIENCE: Duration = Duration::from_secs(30);

fn source(cluster: &MockCluster<'static, DefaultProducerContext>) -> KafkaSource {
    let kafka = KafkaConfig {
        bootstrap_servers: cluster.bootstrap_servers(),
        signal_topic: TOPIC.to_owned(),
        consumer_group: "group".to_owned(),
        group_instance_id: None,
        auto_offset_reset: OffsetReset::Earliest,
        dead_letter_topic: "letters".to_owned(),
        // The mock never answers a waiting fetch early.
        properties: vec![("fetch.wait.max.ms".to_owned(), SecretString::from("5"))],
    };
    let batch = BatchConfig { size: 1, timeout: Duration::from_millis(1), flush: Flush::Eager, queries_per_second: None };
    KafkaSource::connect(&kafka, &batch, None, None, &Arc::new(Metrics::default())).unwrap()
}

/// Starts what is assigned and reads until records of these partitions have come; says of which partitions some have.
async fn records_of(source: &mut KafkaSource, partitions: &[i32]) -> BTreeSet<i32> {
    let mut read = BTreeSet::new();
    while !partitions.iter().all(|partition| read.contains(partition)) {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("a record in time") {
            Arrival::Assigned(partitions) => {
                let start = |partition| Start { partition, epoch: 1, ..Start::default() };
                source.start(&partitions.into_iter().map(start).collect::<Vec<_>>()).await.unwrap();
            }
            Arrival::Batch(batch) => read.extend(batch.offsets.partitions()),
            _ => {}
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_keeps_no_other_from_being_read_and_is_read_once_it_has_one() {
    let cluster = MockCluster::<DefaultProducerContext>::new(1).unwrap();
    cluster.create_topic(TOPIC, 3, 1).unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for partition in 0..3 {
        let payload = r#"{"tickers": [{"ticker": "A"}]}"#;
        producer.send(BaseRecord::<(), str>::to(TOPIC).partition(partition).payload(payload)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    cluster.partition_leader(TOPIC, 1, None).unwrap();
    let mut source = source(&cluster);
    assert_eq!(records_of(&mut source, &[0, 2]).await, BTreeSet::from([0, 2]), "partition 1 has no leader");
    cluster.partition_leader(TOPIC, 1, Some(1)).unwrap();
    records_of(&mut source, &[1]).await;
    source.close().await;
}
