//! Who sends, and the ledger of what Kafka has acknowledged.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::clock;
use crate::evidence::Evidence;
use crate::kafka::{self, PARTITIONS, Topics};
use crate::signals::{Kind, Signals};

/// Where each acknowledged record stands: (partition, offset) to its number.
pub(crate) type Ledger = HashMap<(i32, i64), u64>;

const STALE_MS: i64 = 2 * 86_400_000;

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    failed: Vec<String>,
}

struct Deliveries(Arc<Mutex<State>>);

impl ClientContext for Deliveries {
    // What went wrong shows in the ledger.
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}
    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Self::DeliveryOpaque) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                state.ledger.insert((message.partition(), message.offset()), *number);
            }
            Err((error, _)) => state.failed.push(format!("record {number}: {error}")),
        }
    }
}

/// Sends in a thread of its own.
pub(crate) struct Producer {
    state: Arc<Mutex<State>>,
    hurry: Arc<AtomicBool>,
    enough: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<u64>>,
    topic: String,
}

/// How much is sent, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Signals at least.
    pub(crate) signals: u64,
    pub(crate) per_second: u64,
    /// Signals that are sent at once, before anybody reads.
    pub(crate) before: u64,
    /// How long nothing is sent.
    pub(crate) delay: Duration,
}

impl Producer {
    pub(crate) fn start(topics: &Topics, signals: Signals, load: Load) -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &topics.servers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            .set("reconnect.backoff.max.ms", "1000")
            .set("message.max.bytes", "4000000")
            .set("message.timeout.ms", "240000");
        let client = config.create_with_context(Deliveries(Arc::clone(&state))).context("Kafka's producer")?;
        let (hurry, enough) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let sending = Sending {
            client,
            topic: topics.signals.clone(),
            signals,
            load,
            hurry: Arc::clone(&hurry),
            enough: Arc::clone(&enough),
        };
        let thread = std::thread::Builder::new().name("producer".into()).spawn(move || sending.run())?;
        Ok(Self { state, hurry, enough, thread, topic: topics.signals.clone() })
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ledger.len() as u64
    }

    /// No fault is to come any more: send what is left, then stop. Gives the ledger once Kafka has everything.
    pub(crate) fn finish(self, evidence: &Evidence) -> anyhow::Result<Ledger> {
        self.enough.store(true, Ordering::Release);
        self.hurry.store(true, Ordering::Release);
        let sent = self.thread.join().map_err(|_| anyhow::anyhow!("the producer broke off"))??;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(state.failed.is_empty(), "Kafka did not take signals: {}", state.failed[0]);
        anyhow::ensure!(state.ledger.len() as u64 == sent, "Kafka acknowledged {} of {sent} signals", state.ledger.len());
        let mut file = std::io::BufWriter::new(evidence.file(&format!("ledger-{}.csv", self.topic))?);
        let mut lines: Vec<_> = state.ledger.iter().collect();
        lines.sort_unstable();
        for ((partition, offset), number) in lines {
            writeln!(file, "{partition},{offset},{number}")?;
        }
        file.flush()?;
        Ok(state.ledger.clone())
    }
}

struct Sending {
    client: ThreadedProducer<Deliveries>,
    topic: String,
    signals: Signals,
    load: Load,
    hurry: Arc<AtomicBool>,
    enough: Arc<AtomicBool>,
}

impl Sending {
    fn run(self) -> anyhow::Result<u64> {
        clock::pause(self.load.delay)?;
        let start = clock::now();
        let mut sent = 0;
        loop {
            clock::check()?;
            let due = if self.hurry.load(Ordering::Acquire) {
                self.load.signals
            } else {
                let rate = self.load.per_second as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds times a rate are small")]
                let due = (start.elapsed().as_secs_f64() * rate) as u64;
                due + self.load.before
            };
            while sent < due {
                self.send(sent)?;
                sent += 1;
            }
            if sent >= self.load.signals && self.enough.load(Ordering::Acquire) {
                self.client.flush(Duration::from_secs(240)).context("Kafka does not take all signals")?;
                return Ok(sent);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn send(&self, number: u64) -> anyhow::Result<()> {
        let payload = self.signals.payload(number);
        let key = number.to_string();
        let stale = self.signals.kind(number) == Kind::Stale;
        let time = clock::unix_ms() - if stale { STALE_MS } else { 0 };
        // A repeated signal may come by another partition than its first.
        let partition = i32::try_from(number * 7 % u64::try_from(PARTITIONS)?)?;
        let mut record = BaseRecord::<[u8], [u8], Box<u64>>::with_opaque_to(&self.topic, Box::new(number))
            .partition(partition)
            .key(key.as_bytes())
            .timestamp(time);
        record.payload = payload.as_deref();
        kafka::send(&self.client, record)
    }
}
