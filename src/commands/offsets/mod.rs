//! `trigger-dispatcher offsets`: where each partition is, and where it goes on. docs/offsets.md has the rules.
#![expect(clippy::print_stdout, reason = "the command's answer")]

mod owners;
mod plan;
mod set;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use self::plan::{Found, Known};
use super::{KAFKA_TIMEOUT, partitions, watermarks};
use crate::config::TopicConfig;
use crate::intake::Identity;
use crate::intake::kafka::{client_config, committed_offset};
use crate::store::{Connection, Database};

/// Where each partition is, and where it goes on.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Offsets {
    /// Show for each partition what is decided and what Kafka has.
    List,
    /// Say where a partition goes on that no instance reads. Forwards, what lies between is not decided. Backwards, only what was
    /// skipped before is decided; what was decided stays as it is. The command says how much that is, and asks.
    Set {
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// `earliest`, `latest`, `committed` (what Kafka has for the group) or an offset.
        #[arg(long)]
        to: To,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// A place in a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To {
    Earliest,
    Latest,
    Committed,
    Offset(i64),
}

impl std::str::FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            "committed" => Ok(Self::Committed),
            _ => text
                .parse()
                .ok()
                .filter(|offset| *offset >= 0)
                .map(Self::Offset)
                .ok_or("expected earliest, latest, committed or an offset".to_owned()),
        }
    }
}

/// The topic as Kafka and the store have it.
struct Topic<'a> {
    consumer: BaseConsumer,
    connection: Connection,
    group: &'a str,
    name: &'a str,
    identity: Identity,
}

pub(crate) async fn run(config: &TopicConfig, command: &Offsets) -> anyhow::Result<()> {
    let (group, name) = (config.kafka.consumer_group.as_str(), config.kafka.signal_topic.as_str());
    let mut settings = client_config(&config.kafka);
    // The group's offsets are read; it is not joined, and nothing is committed.
    settings.set("group.id", group).set("enable.auto.commit", "false").set("check.crcs", "true");
    let consumer: BaseConsumer = settings.create().context("Kafka's configuration")?;
    let connection = Database::new(&config.postgres).connect().await?;
    let all = partitions(&consumer, name)?;
    let identity = Identity {
        cluster_id: consumer.client().fetch_cluster_id(KAFKA_TIMEOUT),
        topic_id: kafka_batch::topic_id(consumer.client(), name, KAFKA_TIMEOUT),
    };
    let topic = Topic { consumer, connection, group, name, identity };
    match command {
        Offsets::List => topic.list(&all).await,
        Offsets::Set { partition, to, yes } => topic.set(*partition, *to, *yes).await,
    }
}

impl Topic<'_> {
    async fn list(&self, partitions: &[i32]) -> anyhow::Result<()> {
        println!(
            "{:>9} {:>12} {:>12} {:>12} {:>12} {:>10}  state",
            "partition", "decided to", "committed", "kafka from", "kafka to", "lag"
        );
        for partition in partitions {
            let (known, found) = (self.known(*partition).await?.unwrap_or_default(), self.found(*partition)?);
            let next = known.next_offset;
            let shown = |offset: Option<i64>| offset.map_or("-".to_owned(), |offset| offset.to_string());
            println!(
                "{partition:>9} {:>12} {:>12} {:>12} {:>12} {:>10}  {}",
                shown(next),
                shown(found.committed),
                found.low,
                found.high,
                found.high - next.unwrap_or(found.low),
                state(&known, &found)
            );
        }
        Ok(())
    }

    /// What the store knows of a partition; `None` when it was never opened.
    async fn known(&self, partition: i32) -> anyhow::Result<Option<Known>> {
        let rows = self
            .connection
            .query(
                "select next_offset, decided_to, cluster_id, topic_id, committed_seen,
                     array(select lower(r) from unnest(skipped) r) as skipped_from, array(select upper(r) from unnest(skipped) r) as skipped_to
                 from dispatcher.progress where consumer_group = $1 and topic = $2 and partition = $3",
                &[&self.group, &self.name, &partition],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (from, to): (Vec<i64>, Vec<i64>) = (row.try_get("skipped_from")?, row.try_get("skipped_to")?);
        Ok(Some(Known {
            next_offset: row.try_get("next_offset")?,
            decided_to: row.try_get("decided_to")?,
            skipped: from.into_iter().zip(to).map(|(from, to)| from..to).collect(),
            identity: Identity { cluster_id: row.try_get("cluster_id")?, topic_id: row.try_get("topic_id")? },
            committed_seen: row.try_get("committed_seen")?,
        }))
    }

    /// What Kafka has of a partition.
    fn found(&self, partition: i32) -> anyhow::Result<Found> {
        let (low, high) = watermarks(&self.consumer, self.name, partition)?;
        let mut list = TopicPartitionList::new();
        list.add_partition(self.name, partition);
        let place = || format!("Kafka: offset of the group {} for {}/{partition}", self.group, self.name);
        let committed = self.consumer.committed_offsets(list, KAFKA_TIMEOUT).with_context(place)?;
        let committed = committed_offset(&committed, self.name, partition).with_context(place)?;
        Ok(Found { identity: self.identity.clone(), low, high, committed })
    }
}

/// What a partition does, or will do when an instance opens it.
fn state(known: &Known, found: &Found) -> String {
    if let Some(why) = known.stopped(found) {
        return format!("STOPPED: {why}");
    }
    match (known.next_offset, known.ahead(found)) {
        (None, _) => "nothing decided yet".to_owned(),
        (Some(_), Some(ahead)) => format!("KAFKA AHEAD: another member of the group has decided up to {ahead}"),
        (Some(_), None) => "ok".to_owned(),
    }
}
