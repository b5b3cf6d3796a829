//! The claim, filled in as the dispatcher does it for the tables of a run, against a plain query that only asks which
//! pipelines are idle.

use anyhow::Context as _;
use postgres::types::ToSql;
use postgres::{Client, Statement};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::{Timed, seconds};
use crate::platform::Platform;
use crate::signals::{below, random};

/// What would do without any promise: nothing is remembered, nobody is kept from claiming the same.
const PLAIN: &str =
    "select pipeline_id from executions where pipeline_id = any ($1::uuid[]) and lower(status) <> all ($2::text[])";
const ACTIVE: [&str; 4] = ["pending", "queued", "running", "started"];
const OVER: [&str; 4] = ["completed", "failed", "cancelled", "expired"];
/// Parameters of the claim; another number of them means that this file must learn what is new.
const PARAMETERS: usize = 33;

pub(crate) struct Claims {
    client: Client,
    /// Of our own row of progress.
    group: String,
    claim: Statement,
    plain: Statement,
    pipelines: Vec<Uuid>,
    kwargs: String,
    random: ChaCha8Rng,
    next_offset: i64,
}

/// The statement for the sample platform's tables: both indexes, ids that are uuids, a symbol and a date of creation.
/// Text of the program only: a placeholder that is new makes the statement fail.
fn claim_sql() -> String {
    include_str!("../../../src/store/sql/claim.sql")
        .replace("{busy}", include_str!("../../../src/store/sql/busy_by_status.sql"))
        .replace(
            "{over}",
            concat!(
                "(",
                "($33::bool and ",
                include_str!("../../../src/store/sql/over_by_time.sql"),
                ") or ",
                include_str!("../../../src/store/sql/over_by_id.sql"),
                ")"
            ),
        )
        .replace("{id_is_trigger}", "e.id = s.trigger_id")
        .replace("{pipeline_id}", "c.pipeline_id")
        .replace("{slot_pipeline_id}", "s.pipeline_id")
        // Whether a status may be null hangs on the column: the sample's is not null.
        .replace("{or_no_status}", "")
        .replace("{symbol}", r"nullif(upper(btrim(e.symbol::text, E' \t\n\r')), '')")
        .replace("{made_since}", "e.created_at > s.claimed_at")
}

impl Claims {
    /// Prepares both statements for a platform, with what each task is told.
    pub(crate) fn prepare(platform: &mut Platform, name: &str, kwargs: String) -> anyhow::Result<Self> {
        let mut client = platform.another()?;
        // As the dispatcher's own session for claims has it (src/store/postgres.rs).
        client.batch_execute(concat!("set jit = off; ", include_str!("../../../src/store/sql/plans.sql")))?;
        let claim = client.prepare(&claim_sql()).context("the dispatcher's claim")?;
        let parameters = claim.params().len();
        anyhow::ensure!(
            parameters == PARAMETERS,
            "the claim has {parameters} parameters, bench/src/cost/claim.rs knows {PARAMETERS}"
        );
        let plain = client.prepare(PLAIN)?;
        client.execute(
            "insert into dispatcher.progress (consumer_group, topic, partition, epoch, next_offset) values ($1, 'cost', 0, 1, 0)",
            &[&name],
        )?;
        let pipelines = client.query("select id from pipelines order by id", &[])?.iter().map(|row| row.get(0)).collect();
        Ok(Self { client, group: name.to_owned(), claim, plain, pipelines, kwargs, random: random(1, 3), next_offset: 0 })
    }

    /// Times one claim of so many slots, and the plain query for the same pipelines before it.
    pub(crate) fn time(&mut self, size: usize, timed: &mut Timed) -> anyhow::Result<()> {
        // All slots are free again; what runs already keeps its share of the pipelines busy.
        self.client.batch_execute("delete from dispatcher.slots")?;
        self.client.batch_execute("vacuum dispatcher.slots")?;
        let first = below(&mut self.random, u32::try_from(self.pipelines.len() - size)?) as usize;
        let pipelines = self.pipelines[first..first + size].to_vec();
        let (without, _) = seconds(|| Ok(self.client.query(&self.plain, &[&pipelines, &OVER.to_vec()])?))?;
        let before = self.wal()?;
        let (with, won) = self.claim(&pipelines)?;
        let wal = self.wal()? - before;
        // About 30 % of them are busy: a claim that wins next to nothing would be cheap.
        anyhow::ensure!(won > size / 4, "{won} of {size} slots were won");
        timed.with.push(with);
        timed.without.push(without);
        timed.wal_bytes.push(wal);
        timed.won.push(won as f64);
        Ok(())
    }

    fn claim(&mut self, pipelines: &[Uuid]) -> anyhow::Result<(f64, usize)> {
        let size = pipelines.len();
        let signals = i64::try_from(size)?;
        let (first, next) = (self.next_offset, self.next_offset + signals);
        self.next_offset = next;
        let ids: Vec<Uuid> = (0..size).map(|_| Uuid::new_v4()).collect();
        let signal_ids: Vec<String> = (first..next).map(|number| format!("{number:015}-{number:08}")).collect();
        let (tickers, symbols, kwargs) = (vec![""; size], vec!["T0001"; size], vec![self.kwargs.as_str(); size]);
        let (partitions, offsets, shared) = (vec![0_i32; size], (first..next).collect::<Vec<i64>>(), vec![false; size]);
        let none = vec![0_i64];
        let unwritten: Vec<Uuid> = Vec::new();
        let (active, over) = (ACTIVE.to_vec(), OVER.to_vec());
        let values: [&(dyn ToSql + Sync); PARAMETERS] = [
            &self.group,
            &"cost",
            &vec![0_i32],
            &vec![1_i64],
            &vec![first],
            &vec![next],
            &vec![signals],
            &none,
            &none,
            &none,
            &none,
            &none,
            &ids,
            &pipelines,
            &tickers,
            &signal_ids,
            &symbols,
            &kwargs,
            &partitions,
            &offsets,
            &shared,
            &Uuid::new_v4(),
            &900_f64,
            &unwritten,
            &active,
            &over,
            &false,
            &none,
            &none,
            &1_i32,
            &vec![0_i64; size],
            &Vec::<Uuid>::new(),
            &true,
        ];
        let (seconds, row) = seconds(|| Ok(self.client.query_one(&self.claim, &values)?))?;
        let word: String = row.get(0);
        anyhow::ensure!(word == "claimed", "the claim says {word}");
        let won: Vec<i64> = row.get(2);
        Ok((seconds, won.len()))
    }

    fn wal(&mut self) -> anyhow::Result<f64> {
        Ok(self.client.query_one("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8", &[])?.get(0))
    }
}
