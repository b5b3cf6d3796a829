//! What the services hold when a run is over.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use uuid::Uuid;

use crate::kafka::Stored;
use crate::run::Witnesses;

/// A row of the ledger.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub(super) id: Uuid,
    pub(super) pipeline: Uuid,
    pub(super) ticker: String,
    pub(super) signal_id: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Microseconds since 1970, by the database's clock; so are all times here.
    pub(super) claimed: i64,
    /// When its row was written. What the claim looked at, it looked at between the two.
    pub(super) written: i64,
    pub(super) leased_until: i64,
    pub(super) attempt: i32,
    pub(super) failed: bool,
}

/// A move of a partition's progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) epoch: i64,
    pub(super) next_offset: Option<i64>,
    /// When its transaction began, and when it was written.
    pub(super) decided: i64,
    pub(super) written: i64,
}

/// What the services hold.
#[derive(Debug, Default)]
pub(super) struct World {
    /// (partition, offset) to the record's number.
    pub(super) records: BTreeMap<(i32, i64), u64>,
    pub(super) dead_letters: Vec<Stored>,
    /// Partition to consumed and the dispositions.
    pub(super) progress: BTreeMap<i32, BTreeMap<&'static str, i64>>,
    pub(super) moves: HashMap<i32, Vec<Move>>,
    /// In the order of claims.
    pub(super) triggers: Vec<Trigger>,
    /// Trigger to when its execution began and ended.
    pub(super) runs: HashMap<Uuid, (i64, Option<i64>)>,
    /// Trigger, attempt, when.
    pub(super) attempts: Vec<(Uuid, i32, i64)>,
}

/// What may become of a record.
pub(super) const DISPOSITIONS: [&str; 7] = ["triggered", "busy", "redelivered", "merged", "unmatched", "stale", "invalid"];

impl World {
    pub(super) fn load(witnesses: &Witnesses) -> anyhow::Result<Self> {
        let mut world = Self::default();
        let mut unreadable = 0;
        witnesses.topics.read_all(&witnesses.topics.signals, |stored| {
            match std::str::from_utf8(&stored.key).ok().and_then(|key| key.parse().ok()) {
                Some(number) => drop(world.records.insert((stored.partition, stored.offset), number)),
                None => unreadable += 1,
            }
        })?;
        anyhow::ensure!(unreadable == 0, "{unreadable} records of the topic are not ours");
        witnesses.topics.read_all(&witnesses.topics.dead_letters, |stored| world.dead_letters.push(stored))?;
        world.load_database(witnesses).context("the evidence in PostgreSQL")?;
        Ok(world)
    }

    fn load_database(&mut self, witnesses: &Witnesses) -> anyhow::Result<()> {
        let mut client = witnesses.platform.connect_in_time()?;
        let columns = DISPOSITIONS.join(", ");
        for row in client.query(&format!("select partition, consumed, {columns} from dispatcher.progress"), &[])? {
            let counts = self.progress.entry(row.try_get(0)?).or_default();
            counts.insert("consumed", row.try_get(1)?);
            for (column, name) in DISPOSITIONS.iter().enumerate() {
                counts.insert(name, row.try_get(column + 2)?);
            }
        }
        for row in client.query(
            "select partition, epoch, next_offset, (extract(epoch from decided_at) * 1000000)::bigint, (extract(epoch from at) * 1000000)::bigint
             from chaos.progress order by number",
            &[],
        )? {
            let moved = Move { epoch: row.try_get(1)?, next_offset: row.try_get(2)?, decided: row.try_get(3)?, written: row.try_get(4)? };
            self.moves.entry(row.try_get(0)?).or_default().push(moved);
        }
        for row in client.query(
            "select trigger_id, pipeline_id, ticker, signal_id, partition, record_offset, (extract(epoch from claimed_at) * 1000000)::bigint,
                 (extract(epoch from leased_until) * 1000000)::bigint, t.attempt, failed_at is not null,
                 (extract(epoch from (select min(at) from chaos.attempts a where a.trigger_id = t.trigger_id)) * 1000000)::bigint
             from dispatcher.triggers t order by claimed_at",
            &[],
        )? {
            self.triggers.push(Trigger {
                id: row.try_get(0)?,
                pipeline: row.try_get(1)?,
                ticker: row.try_get(2)?,
                signal_id: row.try_get(3)?,
                partition: row.try_get(4)?,
                offset: row.try_get(5)?,
                claimed: row.try_get(6)?,
                leased_until: row.try_get(7)?,
                attempt: row.try_get(8)?,
                failed: row.try_get(9)?,
                written: row.try_get(10)?,
            });
        }
        for row in client
            .query("select id, status, (extract(epoch from at) * 1000000)::bigint from chaos.executions order by at", &[])?
        {
            let at = row.try_get(2)?;
            let run = self.runs.entry(row.try_get(0)?).or_insert((at, None));
            if row.try_get::<_, &str>(1)? == "COMPLETED" {
                run.1.get_or_insert(at);
            }
        }
        for row in client.query(
            "select trigger_id, attempt, (extract(epoch from at) * 1000000)::bigint from chaos.attempts order by at",
            &[],
        )? {
            self.attempts.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
        Ok(())
    }

    /// The triggers of each pipeline, in the order of claims.
    pub(super) fn by_pipeline(&self) -> HashMap<Uuid, Vec<&Trigger>> {
        let mut found: HashMap<Uuid, Vec<&Trigger>> = HashMap::new();
        for trigger in &self.triggers {
            found.entry(trigger.pipeline).or_default().push(trigger);
        }
        found
    }
}
