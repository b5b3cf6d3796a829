//! The ceiling: a bare consumer that only counts, in a process of its own, on the same topic and with the settings of the
//! dispatcher's consumer, but for more room to read ahead. What the dispatcher adds to this is its price.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kafka_batch::BatchConsumer;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::clock::now;
use crate::kafka::Topic;
use crate::process::usage;
use crate::results::round;
use crate::subject::pinned;

/// How long Kafka may take to send anything at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Call {
    /// One by one: what the safe bindings offer.
    Poll,
    /// Many at once: librdkafka's batch call.
    Batch,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    servers: String,
    topic: String,
    partitions: i32,
    records: u64,
    call: Call,
}

/// Counts a topic's records in a process of its own.
pub(crate) fn measure(topic: &Topic, records: u64, call: Call, cores: Option<&str>) -> anyhow::Result<Value> {
    let mut command = pinned(&std::env::current_exe()?, cores);
    let call = if call == Call::Poll { "poll" } else { "batch" };
    command.args(["count", &topic.servers, &topic.name, &topic.partitions.to_string(), &records.to_string(), call]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "the bare consumer failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the answer of the bare consumer")
}

/// The counting process.
#[expect(clippy::print_stdout, reason = "the answer to the process that asked")]
pub(crate) fn count(options: &Options) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.servers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "65536")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..options.partitions {
        list.add_partition_offset(&options.topic, partition, Offset::Beginning)?;
    }
    let mut source = match options.call {
        Call::Poll => {
            consumer.assign(&list)?;
            Source::Poll(consumer)
        }
        Call::Batch => {
            let mut consumer = BatchConsumer::new(consumer)?;
            consumer.assign(&list)?;
            Source::Batch(consumer)
        }
    };
    let (first, mut bytes) = source.next()?;
    let (began, before) = (now(), usage(std::process::id())?);
    let mut records = first;
    while records < options.records {
        let (more, size) = source.next()?;
        records += more;
        bytes += size;
    }
    let seconds = (now() - began).as_secs_f64();
    let after = usage(std::process::id())?;
    let counted = (records - first) as f64;
    println!(
        "{}",
        json!({
            "signals_per_s": round(counted / seconds, 0),
            "cpu_s": round(after.cpu - before.cpu, 2),
            "cpu_us_per_signal": round((after.cpu - before.cpu) / counted * 1e6, 3),
            "peak_resident_mb": round(after.peak, 1),
            "bytes": bytes,
        })
    );
    Ok(())
}

enum Source {
    Poll(BaseConsumer),
    Batch(BatchConsumer),
}

impl Source {
    /// How many records came next, and their size.
    fn next(&mut self) -> anyhow::Result<(u64, u64)> {
        match self {
            Self::Poll(consumer) => {
                let message = consumer.poll(PATIENCE).context("Kafka sends nothing")??;
                Ok((1, message.payload().map_or(0, <[u8]>::len) as u64))
            }
            Self::Batch(consumer) => {
                let (mut records, mut bytes, mut failed) = (0, 0, None);
                consumer.take(PATIENCE, |record| {
                    records += 1;
                    bytes += record.payload().map_or(0, <[u8]>::len) as u64;
                    failed = failed.take().or_else(|| record.error());
                });
                failed.map_or(Ok(()), Err)?;
                anyhow::ensure!(records > 0, "Kafka sends nothing");
                Ok((records, bytes))
            }
        }
    }
}
