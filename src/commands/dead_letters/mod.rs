//! `trigger-dispatcher dead-letters`: what was bad, and a second chance for it.
#![expect(clippy::print_stdout, reason = "the command's answer")]

mod replay;

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use self::replay::Replay;
use super::{KAFKA_TIMEOUT, partitions, watermarks};
use crate::config::ReplayConfig;
use crate::intake::Reason;
use crate::intake::kafka::client_config;

/// Characters of a payload that the list shows.
const SHOWN: usize = 120;
/// Our own headers all start so; a replayed record does not carry them.
const OURS: &str = "dead-letter-";

/// What was bad, and a second chance for it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeadLetters {
    /// Print the dead letters, one JSON object a line.
    List(Filter),
    /// Send dead letters to the signal topic again, with their key, bytes, headers, time and identity: what was sent again before,
    /// or decided before, starts nothing twice.
    Replay(Filter),
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only this reason.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Reason::ALL.map(Reason::as_str)))]
    reason: Option<String>,
    /// Only this one: partition:offset in the dead-letter topic, as `list` shows them.
    #[arg(long)]
    at: Option<At>,
    /// At most so many.
    #[arg(long)]
    limit: Option<usize>,
}

/// A place in the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    partition: i32,
    offset: i64,
}

impl std::str::FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place =
            |(partition, offset): (&str, &str)| Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? });
        text.split_once(':').and_then(place).ok_or("expected partition:offset".to_owned())
    }
}

pub(crate) async fn run(config: &ReplayConfig, command: &DeadLetters) -> anyhow::Result<()> {
    let (filter, replay) = match command {
        DeadLetters::List(filter) => (filter, false),
        DeadLetters::Replay(filter) => (filter, true),
    };
    let topic = &config.kafka.dead_letter_topic;
    let mut settings = client_config(&config.kafka);
    // A group is needed to read, not joined: partitions are assigned by hand and nothing is committed.
    settings
        .set("group.id", "trigger-dispatcher-dead-letters")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false");
    let consumer: BaseConsumer = settings.create().context("Kafka's configuration")?;
    let mut replay = replay.then(|| Replay::new(config)).transpose()?;
    let mut found = 0_usize;
    let partitions = partitions(&consumer, topic)?;
    for partition in partitions {
        // The end as it is now: a replay that fails again must not be read in the same run.
        let (low, high) = watermarks(&consumer, topic, partition)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(low))?;
        consumer.assign(&list)?;
        let mut next = low;
        while next < high && filter.limit.is_none_or(|limit| found < limit) {
            let Some(message) = consumer.poll(KAFKA_TIMEOUT) else {
                bail!("Kafka: no record of {topic}/{partition} within {KAFKA_TIMEOUT:?}")
            };
            let message = message.context("Kafka")?;
            next = message.offset() + 1;
            if !filter.takes(&message) {
                continue;
            }
            found += 1;
            println!("{}", describe(&message));
            if let Some(replay) = &mut replay {
                replay.send_again(&message).await?;
            }
        }
    }
    replay.map_or(Ok(()), |replay| replay.sum_up())
}

impl Filter {
    fn takes(&self, message: &BorrowedMessage<'_>) -> bool {
        let reason = header(message, "dead-letter-reason");
        self.reason.as_ref().is_none_or(|wanted| reason.as_ref() == Some(wanted))
            && self.at.is_none_or(|at| at == At { partition: message.partition(), offset: message.offset() })
    }
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let value = message.headers()?.iter().find(|header| header.key == name)?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn describe(message: &BorrowedMessage<'_>) -> String {
    let payload = message.payload().unwrap_or_default();
    let shown: String = String::from_utf8_lossy(payload).chars().take(SHOWN).collect();
    let source = |name: &str| header(message, &format!("{OURS}{name}"));
    json!({
        "at": format!("{}:{}", message.partition(), message.offset()),
        "reason": source("reason"),
        "topic": source("topic"),
        "partition": source("partition"),
        "offset": source("offset"),
        "truncated_from": source("truncated-from"),
        "bytes": payload.len(),
        "payload": shown,
    })
    .to_string()
}
