//! What the services hold when a run is over.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};

use anyhow::Context as _;
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Row};
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

/// A dead letter. Its bytes may be many, and are only compared.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) headers: BTreeMap<String, Vec<u8>>,
    pub(super) digest: Option<u64>,
}

/// What tells the bytes of a record from others.
pub(super) fn digest(payload: Option<&[u8]>) -> Option<u64> {
    payload.map(|payload| {
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        hasher.finish()
    })
}

/// What the services hold.
#[derive(Debug, Default)]
pub(super) struct World {
    /// (partition, offset) to the record's number.
    pub(super) records: BTreeMap<(i32, i64), u64>,
    pub(super) dead_letters: Vec<DeadLetter>,
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
        witnesses.topics.read_all(&witnesses.topics.dead_letters, |stored| {
            let Stored { partition, offset, headers, payload, .. } = stored;
            world.dead_letters.push(DeadLetter { partition, offset, headers, digest: digest(payload.as_deref()) });
        })?;
        world.load_database(witnesses).context("the evidence in PostgreSQL")?;
        Ok(world)
    }

    fn load_database(&mut self, witnesses: &Witnesses) -> anyhow::Result<()> {
        let mut client = witnesses.platform.connect_in_time()?;
        // A long run has millions of rows.
        client.batch_execute("set statement_timeout = '10min'; set work_mem = '64MB'")?;
        let columns = DISPOSITIONS.join(", ");
        each(&mut client, &format!("select partition, consumed, {columns} from dispatcher.progress"), |row| {
            let counts = self.progress.entry(row.try_get(0)?).or_default();
            counts.insert("consumed", row.try_get(1)?);
            for (column, name) in DISPOSITIONS.iter().enumerate() {
                counts.insert(name, row.try_get(column + 2)?);
            }
            Ok(())
        })?;
        each(
            &mut client,
            "select partition, epoch, next_offset, (extract(epoch from decided_at) * 1000000)::bigint, (extract(epoch from at) * 1000000)::bigint
             from chaos.progress order by number",
            |row| {
                let moved = Move { epoch: row.try_get(1)?, next_offset: row.try_get(2)?, decided: row.try_get(3)?, written: row.try_get(4)? };
                self.moves.entry(row.try_get(0)?).or_default().push(moved);
                Ok(())
            },
        )?;
        let mut written: HashMap<Uuid, i64> = HashMap::new();
        each(
            &mut client,
            "select trigger_id, attempt, (extract(epoch from at) * 1000000)::bigint from chaos.attempts order by at",
            |row| {
                let attempt = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                written.entry(attempt.0).or_insert(attempt.2);
                self.attempts.push(attempt);
                Ok(())
            },
        )?;
        each(
            &mut client,
            "select trigger_id, pipeline_id, ticker, signal_id, partition, record_offset, (extract(epoch from claimed_at) * 1000000)::bigint,
                 (extract(epoch from leased_until) * 1000000)::bigint, attempt, failed_at is not null
             from dispatcher.triggers order by claimed_at",
            |row| {
                let id = row.try_get(0)?;
                self.triggers.push(Trigger {
                    id,
                    pipeline: row.try_get(1)?,
                    ticker: row.try_get(2)?,
                    signal_id: row.try_get(3)?,
                    partition: row.try_get(4)?,
                    offset: row.try_get(5)?,
                    claimed: row.try_get(6)?,
                    leased_until: row.try_get(7)?,
                    attempt: row.try_get(8)?,
                    failed: row.try_get(9)?,
                    written: *written.get(&id).with_context(|| format!("the history does not know {id}"))?,
                });
                Ok(())
            },
        )?;
        each(
            &mut client,
            "select id, status, (extract(epoch from at) * 1000000)::bigint from chaos.executions order by at",
            |row| {
                let at = row.try_get(2)?;
                let run = self.runs.entry(row.try_get(0)?).or_insert((at, None));
                if row.try_get::<_, &str>(1)? == "COMPLETED" {
                    run.1.get_or_insert(at);
                }
                Ok(())
            },
        )
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

/// Row by row, so that a long run's history need not fit in memory twice.
fn each(client: &mut Client, sql: &str, mut take: impl FnMut(&Row) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut rows = client.query_raw(sql, std::iter::empty::<i32>())?;
    while let Some(row) = rows.next()? {
        take(&row)?;
    }
    Ok(())
}
