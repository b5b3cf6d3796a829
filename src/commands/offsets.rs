//! `trigger-dispatcher offsets`: where each partition is, and where it goes on when Kafka no longer has that place.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use anyhow::{Context as _, bail};
use rdkafka::consumer::BaseConsumer;

use super::{partitions, watermarks};
use crate::config::Config;
use crate::intake::kafka::client_config;
use crate::store::Database;

/// Where each partition is, and where it goes on.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Offsets {
    /// Show for each partition what is decided and what Kafka has.
    List,
    /// Say where a stopped partition goes on. What lies between is never decided: the command says how much that is.
    Set {
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// `earliest`, `latest` or an offset.
        #[arg(long)]
        to: To,
    },
}

/// A place in a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To {
    Earliest,
    Latest,
    Offset(i64),
}

impl std::str::FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => text
                .parse()
                .ok()
                .filter(|offset| *offset >= 0)
                .map(Self::Offset)
                .ok_or("expected earliest, latest or an offset".to_owned()),
        }
    }
}

pub(crate) async fn run(config: &Config, command: &Offsets) -> anyhow::Result<()> {
    let topic = config.kafka.signal_topic.as_str();
    let consumer: BaseConsumer = client_config(&config.kafka).create().context("Kafka's configuration")?;
    let connection = Database::new(&config.postgres).connect().await?;
    let group = &config.kafka.consumer_group;
    match command {
        Offsets::List => {
            let partitions = partitions(&consumer, topic)?;
            let rows = connection
                .query(
                    "select partition, next_offset, epoch from dispatcher.progress where consumer_group = $1 and topic = $2",
                    &[group, &topic],
                )
                .await?;
            println!("{:>9} {:>12} {:>12} {:>12} {:>10}  state", "partition", "decided to", "kafka from", "kafka to", "lag");
            for partition in partitions {
                let (low, high) = watermarks(&consumer, topic, partition)?;
                let row = rows.iter().find(|row| row.try_get::<_, i32>(0).is_ok_and(|known| known == partition));
                let next: Option<i64> = row.map(|row| row.try_get(1)).transpose()?.flatten();
                let state = match next {
                    None => "nothing decided yet",
                    Some(next) if next < low => "STOPPED: retention ran over it",
                    Some(next) if next > high => "STOPPED: the topic was made anew",
                    Some(_) => "ok",
                };
                let decided = next.map_or("-".to_owned(), |next| next.to_string());
                println!("{partition:>9} {decided:>12} {low:>12} {high:>12} {:>10}  {state}", high - next.unwrap_or(low));
            }
        }
        Offsets::Set { partition, to } => {
            let (low, high) = watermarks(&consumer, topic, *partition)?;
            let offset = match to {
                To::Earliest => low,
                To::Latest => high,
                To::Offset(offset) if (low..=high).contains(offset) => *offset,
                To::Offset(offset) => bail!("Kafka has {low} to {high} of {topic}/{partition}, not {offset}"),
            };
            // A new epoch: whoever reads the partition now is fenced, and asks again.
            let rows = connection
                .query(
                    "with before as (select next_offset from dispatcher.progress where consumer_group = $1 and topic = $2 and partition = $3 for update)
                     update dispatcher.progress p set next_offset = $4, epoch = p.epoch + 1, parts = '{}', parts_until = null, updated_at = now() from before
                     where consumer_group = $1 and topic = $2 and partition = $3 returning before.next_offset",
                    &[group, &topic, partition, &offset],
                )
                .await?;
            let Some(row) = rows.first() else {
                bail!("nothing of {topic}/{partition} was ever decided by the group {group}: there is nothing to set")
            };
            match row.try_get::<_, Option<i64>>(0)? {
                Some(before) if offset > before => {
                    println!("{topic}/{partition}: {before} → {offset}; {} offsets are never decided", offset - before);
                }
                Some(before) => println!("{topic}/{partition}: {before} → {offset}"),
                None => println!("{topic}/{partition}: → {offset}"),
            }
            println!("An instance that has stopped the partition goes on within 30 s.");
        }
    }
    Ok(())
}
