//! What the services hold of one deployment when a run is over.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};

use anyhow::Context as _;
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Row};
use uuid::Uuid;

use crate::kafka::{Stored, Topics};
use crate::platform::Platform;

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

/// What the services hold of one deployment.
#[derive(Debug, Default)]
pub(super) struct World {
    /// The topic of its signals.
    pub(super) topic: String,
    /// (partition, offset) to the record's number.
    pub(super) records: BTreeMap<(i32, i64), u64>,
    pub(super) dead_letters: Vec<DeadLetter>,
    /// Partition to consumed and the dispositions.
    pub(super) progress: BTreeMap<i32, BTreeMap<&'static str, i64>>,
    pub(super) moves: HashMap<i32, Vec<Move>>,
    /// In the order of claims.
    pub(super) triggers: Vec<Trigger>,
    /// Trigger, attempt, when.
    pub(super) attempts: Vec<(Uuid, i32, i64)>,
}

/// What may become of a record.
pub(super) const DISPOSITIONS: [&str; 7] = ["triggered", "busy", "redelivered", "merged", "unmatched", "stale", "invalid"];

impl World {
    pub(super) fn load(platform: &Platform, topics: &Topics) -> anyhow::Result<Self> {
        let mut world = Self { topic: topics.signals.clone(), ..Self::default() };
        let mut unreadable = 0;
        topics.read_all(&topics.signals, |stored| {
            match std::str::from_utf8(&stored.key).ok().and_then(|key| key.parse().ok()) {
                Some(number) => drop(world.records.insert((stored.partition, stored.offset), number)),
                None => unreadable += 1,
            }
        })?;
        anyhow::ensure!(unreadable == 0, "{unreadable} records of the topic are not ours");
        topics.read_all(&topics.dead_letters, |stored| {
            let Stored { partition, offset, headers, payload, .. } = stored;
            world.dead_letters.push(DeadLetter { partition, offset, headers, digest: digest(payload.as_deref()) });
        })?;
        world.load_database(platform).context("the evidence in PostgreSQL")?;
        Ok(world)
    }

    fn load_database(&mut self, platform: &Platform) -> anyhow::Result<()> {
        let mut client = platform.connect_in_time()?;
        // A long run has millions of rows.
        client.batch_execute("set statement_timeout = '10min'; set work_mem = '64MB'")?;
        let columns = DISPOSITIONS.join(", ");
        let topic = self.topic.clone();
        let topic = [topic.as_str()];
        each(
            &mut client,
            &format!("select partition, consumed, {columns} from dispatcher.progress where topic = $1"),
            &topic,
            |row| {
                let counts = self.progress.entry(row.try_get(0)?).or_default();
                counts.insert("consumed", row.try_get(1)?);
                for (column, name) in DISPOSITIONS.iter().enumerate() {
                    counts.insert(name, row.try_get(column + 2)?);
                }
                Ok(())
            },
        )?;
        each(
            &mut client,
            "select partition, epoch, next_offset, (extract(epoch from decided_at) * 1000000)::bigint, (extract(epoch from at) * 1000000)::bigint
             from chaos.progress where topic = $1 order by number",
            &topic,
            |row| {
                let moved = Move { epoch: row.try_get(1)?, next_offset: row.try_get(2)?, decided: row.try_get(3)?, written: row.try_get(4)? };
                self.moves.entry(row.try_get(0)?).or_default().push(moved);
                Ok(())
            },
        )?;
        let mut written: HashMap<Uuid, i64> = HashMap::new();
        each(
            &mut client,
            "select trigger_id, a.attempt, (extract(epoch from at) * 1000000)::bigint
             from chaos.attempts a join dispatcher.triggers using (trigger_id) where topic = $1 order by at",
            &topic,
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
             from dispatcher.triggers where topic = $1 order by claimed_at",
            &topic,
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
        )
    }
}

/// Row by row, so that a long run's history need not fit in memory twice.
pub(super) fn each(
    client: &mut Client,
    sql: &str,
    values: &[&str],
    mut take: impl FnMut(&Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut rows = client.query_raw(sql, values.iter().copied())?;
    while let Some(row) = rows.next()? {
        take(&row)?;
    }
    Ok(())
}
