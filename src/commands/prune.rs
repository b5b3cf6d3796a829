//! `trigger-dispatcher prune`: forgets what the ledger has kept for long enough, and makes the partitions that are needed next.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use std::time::Duration;

use anyhow::bail;

use crate::config::{Days, LedgerConfig, Problems, StoreConfig};
use crate::store::upkeep::{self, BY_ROW, Old, Outcome, Prepared};
use crate::store::{Connection, Database, StoreError};

/// How often a partition is tried that running claims hold.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Forget what is older than the retention.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// How long the ledger is kept, e.g. 30d [default: `LEDGER_RETENTION_DAYS`].
    #[arg(long, value_name = "DAYS", value_parser = days)]
    older_than: Option<Days>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
}

fn days(text: &str) -> Result<Days, String> {
    let number = text.strip_suffix('d').unwrap_or(text).parse().ok();
    number.and_then(Days::new).ok_or("expected a number of days, e.g. 30d".to_owned())
}

pub(crate) async fn run(config: &StoreConfig, command: &Prune) -> anyhow::Result<()> {
    let Some(retention) = command.older_than.or(config.ledger.retention) else {
        bail!(Problems::one("LEDGER_RETENTION_DAYS", "is not set, and there is no --older-than: the ledger is kept for ever"));
    };
    if let Some(problem) = retention.too_few_for(&config.trigger) {
        bail!(Problems::one("--older-than", &problem));
    }
    let connection = Database::new(&config.postgres).connect().await?;
    if command.dry_run { show(&connection, retention).await } else { prune(&connection, config, retention).await }
}

async fn show(connection: &Connection, retention: Days) -> anyhow::Result<()> {
    for old in upkeep::old_partitions(connection, retention).await? {
        let in_flight = upkeep::is_in_flight(connection, &old.partition).await?;
        println!(
            "{}: {}",
            describe(&old),
            if in_flight { "would be kept, something in it is in flight" } else { "would be dropped" }
        );
    }
    for (table, what) in BY_ROW {
        println!("{table}: {} {what} would be deleted", upkeep::count_old(connection, table, retention).await?);
    }
    Ok(())
}

async fn prune(connection: &Connection, config: &StoreConfig, retention: Days) -> anyhow::Result<()> {
    prepare(connection, config.ledger).await?;
    for old in upkeep::old_partitions(connection, retention).await? {
        // Who is before us may only be making a partition: whoever asks for a prune wants it done.
        let is_another = |outcome: &Outcome| matches!(outcome, Outcome::Another);
        match patiently(async || upkeep::drop_partition(connection, &old.partition, retention).await, is_another).await? {
            Outcome::Dropped => println!("{}: dropped", describe(&old)),
            Outcome::InFlight => println!("{}: kept, something in it is in flight", describe(&old)),
            Outcome::Gone => println!("{}: another instance has dropped it", old.partition),
            Outcome::Another => println!("{}: left to another instance, which prunes just now", old.partition),
        }
    }
    for (table, what) in BY_ROW {
        println!("{table}: {} {what} deleted", upkeep::delete_old(connection, table, retention).await?);
    }
    Ok(())
}

/// Makes the partitions that are needed soon, and says which.
pub(crate) async fn prepare(connection: &Connection, ledger: LedgerConfig) -> anyhow::Result<()> {
    for Prepared { partition, from_default } in patiently(async || upkeep::prepare(connection, ledger).await, |_| false).await? {
        println!("{partition}: made{}", if from_default { " of the default partition, which claims had to use" } else { "" });
    }
    Ok(())
}

fn describe(old: &Old) -> String {
    let megabytes = old.bytes / 1_000_000;
    format!("{} (until {}, about {} rows, {megabytes} MB)", old.partition, old.until.strftime("%F"), old.rows_about)
}

/// Again while running claims hold what is needed, or the answer is a no for now: nobody waits for us longer than for one of
/// these attempts.
async fn patiently<T>(
    mut work: impl AsyncFnMut() -> Result<T, StoreError>,
    is_no_for_now: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    for _ in 1..ATTEMPTS {
        match work().await {
            Err(error) if error.is_a_lock() => {}
            Ok(answer) if is_no_for_now(&answer) => {}
            other => return Ok(other?),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(work().await?)
}
