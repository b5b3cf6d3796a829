//! A topic of a run's own, and who fills it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::queue::new_histogram;
use crate::results::{complain, say};
use crate::services::Services;
use crate::signals::{BYTES, Signals, Spread};

/// What a topic is filled with before anybody reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub(crate) struct Preload {
    pub(crate) signals: u64,
    pub(crate) partitions: i32,
    /// lz4, zstd, gzip or none.
    pub(crate) compression: String,
    pub(crate) spread: Spread,
    pub(crate) seed: u64,
}

/// A topic that is deleted when the run is over.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) servers: String,
}

impl Topic {
    pub(crate) fn create(services: &Services, name: &str, partitions: i32) -> anyhow::Result<Self> {
        let topic = Self { name: name.to_owned(), partitions, servers: services.kafka.clone() };
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let results = block_on(topic.admin()?.create_topics([&new], &options()))?;
        for result in results {
            result.map_err(|(name, code)| anyhow::anyhow!("Kafka does not make the topic {name}: {code}"))?;
        }
        Ok(topic)
    }

    /// A topic that is full already.
    pub(crate) fn filled(services: &Services, name: &str, preload: &Preload) -> anyhow::Result<Self> {
        let topic = Self::create(services, name, preload.partitions)?;
        topic.fill(preload, 0)?;
        Ok(topic)
    }

    /// Fills a topic that holds so many already.
    pub(crate) fn fill(&self, preload: &Preload, first: u64) -> anyhow::Result<()> {
        say(&format!("filling a topic with {} signals of {BYTES} bytes, {}", preload.signals, preload.compression));
        let producer = self.producer(&preload.compression, Duration::from_millis(50))?;
        let mut signals = Signals::new(preload.seed + first, preload.spread);
        for number in first..first + preload.signals {
            producer.send(number, signals.next(0, number), None)?;
            if number % 65_536 == 0 {
                crate::stop::check()?;
            }
        }
        producer.finish(preload.signals)?;
        Ok(())
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().context("Kafka's admin client")
    }

    /// Who fills the topic; `linger` is how long a batch waits for company.
    pub(crate) fn producer(&self, compression: &str, linger: Duration) -> anyhow::Result<Producer> {
        let context = Deliveries::default();
        let state = Arc::clone(&context.state);
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            .set("compression.type", compression)
            .set("linger.ms", linger.as_millis().to_string())
            .set("queue.buffering.max.messages", "200000");
        let client = config.create_with_context(context).context("Kafka's producer")?;
        Ok(Producer { client, topic: self.name.clone(), partitions: self.partitions, state })
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let deleted = self.admin().and_then(|admin| Ok(block_on(admin.delete_topics(&[&self.name], &options()))?));
        if let Err(error) = deleted {
            complain(&format!("the topic {} stays behind: {error}", self.name));
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}

/// librdkafka's admin client answers in a thread of its own: waiting for it needs no runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let thread = std::thread::current();
    let waker = std::task::Waker::from(Arc::new(Unpark(thread)));
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Sends signals, round-robin over the partitions.
pub(crate) struct Producer {
    client: ThreadedProducer<Deliveries>,
    topic: String,
    partitions: i32,
    state: Arc<Mutex<Delivered>>,
}

/// What Kafka has acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) records: u64,
    /// From when a signal was due to Kafka's acknowledgement, in microseconds.
    pub(crate) latency: Histogram<u64>,
    failed: Option<String>,
}

impl Producer {
    /// Sends a signal; waits only where the local queue is full. The acknowledgement is timed where `due` is known.
    pub(crate) fn send(&self, number: u64, payload: &str, due: Option<Due>) -> anyhow::Result<()> {
        let partition = i32::try_from(number % u64::try_from(self.partitions)?)?;
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(due)).partition(partition).payload(payload);
        record.key = None::<&str>;
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    crate::stop::check()?;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).context("Kafka's producer"),
            }
        }
    }

    /// Waits until Kafka has all `expected` records.
    pub(crate) fn finish(self, expected: u64) -> anyhow::Result<Delivered> {
        self.client.flush(Duration::from_secs(120)).context("Kafka does not take all signals")?;
        let delivered = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(failure) = delivered.failed {
            anyhow::bail!("Kafka did not take a signal: {failure}");
        }
        anyhow::ensure!(delivered.records == expected, "Kafka has {} of {expected} signals", delivered.records);
        Ok(delivered)
    }
}

/// When a signal was due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// The start of the run.
    pub(crate) start: std::time::Instant,
    /// Since then.
    pub(crate) ns: u64,
}

impl Due {
    /// How long ago that is, in microseconds.
    pub(crate) fn elapsed_us(self, now: std::time::Instant) -> u64 {
        let ns = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        ns.saturating_sub(self.ns) / 1_000
    }
}

struct Deliveries {
    state: Arc<Mutex<Delivered>>,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(Delivered { records: 0, latency: new_histogram(), failed: None })) }
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Option<Due>>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Self::DeliveryOpaque) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => state.records += 1,
            Err((error, _)) => state.failed = Some(error.to_string()),
        }
        if let Some(due) = *due {
            state.latency.saturating_record(due.elapsed_us(crate::clock::now()).max(1));
        }
    }
}
