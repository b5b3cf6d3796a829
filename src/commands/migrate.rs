//! `trigger-dispatcher migrate`: makes or updates our schema, or prepares it for an older program.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use super::prune;
use crate::config::StoreConfig;
use crate::store::migrate::{KNOWN, allow, migrate};
use crate::store::{Database, notify};

/// Make or update the schema, or prepare it for an older program.
#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// Instead: let programs that know this version of the schema start again, in place of this program (docs/migrating.md). Only
    /// forgets that later versions were made; their tables and columns stay, and the next `migrate` takes them over.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u16).range(1..))]
    allow_version: Option<u16>,
    /// Also add triggers to the platform's tables `pipelines` and `scanners` that tell changes of the rules at once (NOTIFY), as their
    /// owner. Without them changes are seen every `CACHE_REFRESH_INTERVAL_SECONDS`.
    #[arg(long, conflicts_with = "allow_version")]
    install_notify: bool,
}

pub(crate) async fn run(config: &StoreConfig, command: &Migrate) -> anyhow::Result<()> {
    let database = Database::new(&config.postgres);
    match command.allow_version {
        Some(version) => go_back(&database, version.into()).await,
        None => go_forward(config, &database, command.install_notify).await,
    }
}

async fn go_forward(config: &StoreConfig, database: &Database, install_notify: bool) -> anyhow::Result<()> {
    let migrated = migrate(database).await?;
    if migrated.to > KNOWN {
        println!(
            "schema dispatcher: version {}, newer than this program's {KNOWN}, which can work with it: nothing was changed",
            migrated.to
        );
        return Ok(());
    }
    if migrated.from == migrated.to {
        println!("schema dispatcher: version {}, as before", migrated.to);
    } else {
        println!("schema dispatcher: version {} (was {})", migrated.to, migrated.from);
    }
    let connection = database.connect().await?;
    let notices = if install_notify { notify::install(&connection).await? } else { notify::notices(&connection).await? };
    for (table, notice) in notices {
        println!("{table}: {}", notice.text());
    }
    prune::prepare(&connection, config.ledger).await
}

async fn go_back(database: &Database, version: usize) -> anyhow::Result<()> {
    let removed = allow(database, version).await?;
    if removed.is_empty() {
        println!("schema dispatcher: no version is later than {version}: nothing was changed");
        return Ok(());
    }
    let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
    println!(
        "schema dispatcher: version {version} again, without {}; programs that know {version} can start",
        removed.join(", ")
    );
    println!("This program's `run` and `migrate` bring it forward again: start older programs only, or set AUTO_MIGRATE=false.");
    Ok(())
}
