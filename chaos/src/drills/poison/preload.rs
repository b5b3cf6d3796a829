//! Fills a topic as fast as Kafka takes it, before anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use super::flow::Flow;
use crate::kafka::{self, Topics};

#[derive(Debug, Default)]
struct State {
    acknowledged: AtomicU64,
    failed: Mutex<Option<String>>,
}

struct Deliveries(Arc<State>);

impl ClientContext for Deliveries {
    // What went wrong shows in the counts.
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}
    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        match result {
            Ok(_) => drop(self.0.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => {
                self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
            }
        }
    }
}

/// Returns once Kafka has everything.
pub(super) fn preload(topics: &Topics, flow: Flow) -> anyhow::Result<()> {
    let state = Arc::new(State::default());
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &topics.servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("queue.buffering.max.kbytes", "131072")
        .set("message.max.bytes", "4000000")
        .set("message.timeout.ms", "240000");
    let client: ThreadedProducer<Deliveries> =
        config.create_with_context(Deliveries(Arc::clone(&state))).context("Kafka's producer")?;
    for number in 0..flow.count {
        send(&client, &topics.signals, flow, number)?;
    }
    client.flush(Duration::from_secs(240)).context("Kafka does not take all records")?;
    let failed = state.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    anyhow::ensure!(failed.is_none(), "Kafka did not take records: {}", failed.unwrap_or_default());
    let acknowledged = state.acknowledged.load(Ordering::Relaxed);
    anyhow::ensure!(acknowledged == flow.count, "Kafka acknowledged {acknowledged} of {} records", flow.count);
    Ok(())
}

fn send(client: &ThreadedProducer<Deliveries>, topic: &str, flow: Flow, number: u64) -> anyhow::Result<()> {
    let payload = flow.payload(number);
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(Flow::partition(number));
    record.payload = payload.as_deref();
    kafka::send(client, record)
}
