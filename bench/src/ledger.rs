//! What a claim costs when the ledger has grown: the dispatcher's own statement beside ledgers of several sizes, cut into several
//! numbers of partitions. Their rows are made up, and only as wide as the look-up of a trigger needs; their indexes are in memory.

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::arms::shape;
use crate::cost::{Claims, Timed};
use crate::platform::Platform;
use crate::results::{median, round, say};
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name, run_and_show};

/// What a person may ask for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rows of the ledger, ascending; 100,000,000 need 20 GB of disk, and some minutes.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000_000, 10_000_000])]
    rows: Vec<u64>,
    /// Partitions that they lie in.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 9, 33])]
    partitions: Vec<u32>,
    /// Slots of a claim.
    #[arg(long, default_value_t = 200)]
    slots: usize,
    /// How often each is timed; the median counts.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One number of partitions, with a database of its own that grows.
struct Ledger {
    rows: Vec<u64>,
    partitions: u32,
    slots: usize,
    rounds: u32,
    seed: u64,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let Options { rows, partitions, slots, rounds, seed } = options;
    anyhow::ensure!(rows.is_sorted() && partitions.iter().all(|number| *number > 0), "--rows ascend, --partitions are 1 or more");
    let ledger = |partitions: &u32| -> Box<dyn Case> {
        Box::new(Ledger { rows: rows.clone(), partitions: *partitions, slots: *slots, rounds: *rounds, seed: *seed })
    };
    run_and_show(&partitions.iter().map(ledger).collect::<Vec<_>>(), 1, *seed, "")
}

/// As long as what the dispatcher tells a task.
fn kwargs() -> String {
    json!({"signal_context": {"reasoning": "x".repeat(400)}}).to_string()
}

impl Case for Ledger {
    fn arm(&self) -> &'static str {
        "ledger"
    }

    fn title(&self) -> String {
        format!("{} partitions", self.partitions)
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let mut platform = Platform::create(&bench.services, &name(), &shape(10_000, self.seed), &Subject::ours().migrate)?;
        self.partition(&mut platform)?;
        let mut filled = 0;
        for rows in &self.rows {
            self.fill(&mut platform, filled, *rows).with_context(|| format!("{rows} rows"))?;
            filled = *rows;
            let size = "select coalesce(sum(pg_indexes_size(format('dispatcher.%I', partition)::regclass)), 0)::float8
                from dispatcher.ledger_partitions() where ledger = 'triggers'";
            let index_bytes: f64 = platform.owner.query_one(size, &[])?.get(0);
            let mut claims = Claims::prepare(&mut platform, &name(), kwargs())?;
            // A plan is made every ten seconds, and serves all claims until then.
            let mut planned = Timed::default();
            claims.time(self.slots, &mut planned)?;
            let mut timed = Timed::default();
            for _ in 0..self.rounds {
                claims.time(self.slots, &mut timed)?;
            }
            let claim = median(&timed.with);
            tell(
                &format!("{rows} rows in {} partitions", self.partitions),
                json!({
                    "claim_ms": round(claim * 1e3, 2),
                    "us_a_slot": round(claim / self.slots as f64 * 1e6, 2),
                    "first_ms": round(median(&planned.with) * 1e3, 2),
                    "index_mb": round(index_bytes / 1e6, 0),
                    "rounds": self.rounds,
                }),
            )?;
            crate::stop::check()?;
        }
        Ok(())
    }
}

impl Ledger {
    /// Days that end with today, instead of the partition that the migration made. All but today's are only read, so no WAL
    /// is spent on filling them.
    fn partition(&self, platform: &mut Platform) -> anyhow::Result<()> {
        let sql = format!(
            "do $$ declare
                 name text; since timestamptz;
                 today timestamptz := date_trunc('day', now() at time zone 'UTC') at time zone 'UTC';
             begin
                 drop table dispatcher.triggers_first;
                 for number in 1..{partitions} loop
                     since := today + (number - {partitions}) * interval '1 day';
                     name := 'triggers_number_' || number;
                     perform dispatcher.make_partition('triggers', name);
                     if number < {partitions} then
                         execute format('alter table dispatcher.%I set unlogged', name);
                     end if;
                     execute format('alter table dispatcher.triggers attach partition dispatcher.%I for values from (%L) to (%L)',
                         name, since, since + case number when {partitions} then interval '2 days' else interval '1 day' end);
                 end loop;
             end $$",
            partitions = self.partitions
        );
        platform.owner.batch_execute(&sql).context("partitions")
    }

    /// Grows the ledger. Rows first and the index after them: one by one would take ten times as long.
    fn fill(&self, platform: &mut Platform, from: u64, to: u64) -> anyhow::Result<()> {
        if to == from {
            return Ok(());
        }
        say(&format!("    filling in {} rows", to - from));
        let partitions = u64::from(self.partitions);
        platform.owner.batch_execute("set maintenance_work_mem = '512MB'; set synchronous_commit = off")?;
        for number in 1..=partitions {
            crate::stop::check()?;
            let share = |rows: u64| rows * number / partitions - rows * (number - 1) / partitions;
            let rows = share(to) - share(from);
            platform.owner.batch_execute(&format!(
                "alter table dispatcher.triggers_number_{number} drop constraint triggers_number_{number}_pkey;
                 insert into dispatcher.triggers_number_{number}
                     (trigger_id, pipeline_id, ticker, signal_id, symbol, topic, partition, record_offset, kwargs, claimed_at, leased_until, publication_id)
                 select gen_random_uuid(), n.id, '', 'signal', 'A', 'cost', 0, 0, '{{}}', since, since, n.id
                 from (
                     select '00000000-0000-0000-0000-000000000000'::uuid as id,
                         date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - ({partitions} - {number}) * interval '1 day' as since
                 ) n
                 cross join generate_series(1, {rows});
                 alter table dispatcher.triggers_number_{number} add primary key (trigger_id)"
            ))?;
            // As autovacuum would: whether a row is there is then told by the index alone.
            platform.owner.batch_execute(&format!("vacuum analyze dispatcher.triggers_number_{number}"))?;
        }
        // Whoever looks up random ids all day has the indexes in memory; a disk's first reads of them are not what is asked here.
        for number in 1..=partitions {
            platform.owner.batch_execute(&format!(
                "set enable_seqscan = off; select count(trigger_id) from dispatcher.triggers_number_{number}; reset enable_seqscan"
            ))?;
        }
        platform.owner.batch_execute("checkpoint").context("a checkpoint, so that none falls into the measuring")
    }
}
