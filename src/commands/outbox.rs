//! `trigger-dispatcher outbox`: what each deployment still owes its broker, and handing that over after a change of broker or queue.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use anyhow::bail;

use crate::config::Config;
use crate::store::Database;
use crate::store::deployment::{DeploymentKey, Owed, hand_over, owed, register};

/// What each deployment still owes its broker.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Outbox {
    /// Show every deployment of this database: its group, topic and target, and the outbox entries that wait to be published.
    List,
    /// Hand the waiting entries of another deployment over to the one that the configuration names. Stop the instances of the other one
    /// first: whether its broker has got an entry already is not known to ours.
    Move {
        /// The other deployment's number, as `list` shows it; 0 for entries that instances of an older version wrote.
        #[arg(long)]
        from: i32,
        /// The other deployment's instances are stopped.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(config: &Config, command: &Outbox) -> anyhow::Result<()> {
    let connection = Database::new(&config.postgres).connect().await?;
    let key = DeploymentKey::new(config);
    let is_ours = |of: &DeploymentKey| (&of.group, &of.topic, &of.target) == (&key.group, &key.topic, &key.target);
    let all = owed(&connection).await?;
    match command {
        Outbox::List => {
            println!("{:>4} {:>8} {:>10} {:>10}  group · topic · target", "id", "waiting", "oldest", "in flight");
            for Owed { id, key: of, waiting, oldest_seconds, in_flight } in &all {
                let oldest = oldest_seconds.map_or("-".to_owned(), |seconds| format!("{seconds} s"));
                let ours = if is_ours(of) { "  (this configuration)" } else { "" };
                let DeploymentKey { group, topic, target, .. } = of;
                println!("{id:>4} {waiting:>8} {oldest:>10} {in_flight:>10}  {group} · {topic} · {target}{ours}");
            }
        }
        Outbox::Move { from, yes } => {
            let ours = register(&connection, &key).await?;
            if *from == ours.id {
                bail!("{from} is the deployment of this configuration: its own instances publish what it owes");
            }
            if all.iter().all(|owed| owed.id != *from) {
                bail!("there is no deployment {from}: `trigger-dispatcher outbox list` shows all");
            }
            if !yes {
                bail!("stop the instances of deployment {from} first, or tasks may reach both brokers; then say --yes");
            }
            let (entries, tasks) = hand_over(&connection, *from, &ours).await?;
            println!("{entries} entries ({tasks} tasks) of deployment {from} are now owed to {}", key.target);
            println!("An instance with this configuration publishes them within some 15 s.");
        }
    }
    Ok(())
}
