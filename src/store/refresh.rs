//! Keeps the rules in memory fresh: at start, every interval, and soon after a NOTIFY. Does IO.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::database::Connection;
use super::rules::{Loaded, load};
use super::{Database, StoreError, notify};
use crate::clock;
use crate::retry::Backoff;
use crate::rules::RuleSet;
use crate::supervise;
use crate::telemetry::Metrics;

/// How long a burst of changes may go on before the next refresh: a NOTIFY after a quiet second is followed at once.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// Unknown keys of subscriptions that are named in the life of a process.
const MAX_NAMED_KEYS: usize = 1_000;

/// The rules that everyone reads.
pub type SharedRules = Arc<ArcSwap<RuleSet>>;

/// Keeps the rules fresh.
#[derive(Debug)]
pub struct Refresher {
    database: Database,
    rules: SharedRules,
    interval: Duration,
    metrics: Arc<Metrics>,
    session: Option<(Connection, UnboundedReceiver<()>)>,
    named: HashSet<Uuid>,
    named_keys: HashSet<String>,
    loaded_at: Option<Instant>,
}

impl Refresher {
    /// Prepares the refresh; nothing is read yet.
    pub fn new(database: Database, interval: Duration, metrics: Arc<Metrics>) -> Self {
        let rules = SharedRules::default();
        let (named, named_keys) = (HashSet::new(), HashSet::new());
        Self { database, rules, interval, metrics, session: None, named, named_keys, loaded_at: None }
    }

    /// The rules, always the newest that could be read.
    pub fn rules(&self) -> SharedRules {
        Arc::clone(&self.rules)
    }

    /// Reads the rules once.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses; the old rules stay.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        let (connection, mut notices) = match self.session.take().filter(|(connection, _)| !connection.is_closed()) {
            Some(session) => session,
            None => {
                let (sender, notices) = unbounded_channel();
                let connection = self.database.connect_and_listen(Some(sender)).await?;
                // First listen, then read: what changes in between is told.
                connection.batch(&format!("listen {}", notify::CHANNEL)).await?;
                (connection, notices)
            }
        };
        // What was told before we read is in what we read.
        while notices.try_recv().is_ok() {}
        let started = clock::now();
        // The first time everything waits for the rules; later nobody does, and signals come first.
        let loaded = load(&connection, self.loaded_at.is_some()).await?;
        self.session = Some((connection, notices));
        self.take(loaded, started).await;
        Ok(())
    }

    async fn take(&mut self, loaded: Loaded, started: Instant) {
        for (pipeline_id, reason) in &loaded.skipped {
            if self.named.insert(*pipeline_id) {
                tracing::warn!(event = "pipeline_skipped", %pipeline_id, reason);
            }
        }
        for (key, pipeline_id) in &loaded.unknown_keys {
            // Users choose these keys, so there is a limit to what is remembered.
            if self.named_keys.len() < MAX_NAMED_KEYS && self.named_keys.insert(key.clone()) {
                tracing::warn!(event = "subscription_key_unknown", key, %pipeline_id, treated_as = "absent");
            }
        }
        let skipped = loaded.skipped.len();
        let rules = supervise::aside(|| loaded.rules.index()).await;
        let (pipelines, tickers) = (rules.len(), rules.tickers());
        let changed = self.rules.load().len() != pipelines || self.loaded_at.is_none();
        self.rules.store(Arc::new(rules));
        self.loaded_at = Some(clock::now());
        self.metrics.rules_loaded(pipelines, skipped);
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if changed {
            tracing::info!(event = "rules_refreshed", pipelines, tickers, skipped, milliseconds);
        } else {
            tracing::debug!(event = "rules_refreshed", pipelines, tickers, skipped, milliseconds);
        }
    }

    /// Refreshes until told to stop. What was read already is good for an interval.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new("rules_refresh_failed");
        self.quiet(&stop).await;
        while !stop.is_cancelled() {
            let Some(refreshed) = stop.run_until_cancelled(self.refresh()).await else { break };
            let pause = match refreshed {
                Ok(()) => {
                    backoff.recovered();
                    self.quiet(&stop).await;
                    Duration::ZERO
                }
                Err(error) => {
                    self.metrics.rules_failed();
                    let age = self.loaded_at.map(|at| at.elapsed().as_secs());
                    backoff.failed(&format_args!(
                        "{error}; the rules in use are {} old",
                        age.map_or("not read yet, so".to_owned(), |age| format!("{age} s"))
                    ))
                }
            };
            // Stopped or waited: either way the loop looks again.
            drop(tokio::time::timeout(pause, stop.cancelled()).await);
        }
        Ok(())
    }

    /// Waits for the interval, or for a change.
    async fn quiet(&mut self, stop: &CancellationToken) {
        let refreshed = clock::now();
        let Some((_, notices)) = &mut self.session else { return };
        let told = tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(self.interval) => false,
            notice = notices.recv() => notice.is_some(),
        };
        if told {
            let wait = DEBOUNCE.saturating_sub(refreshed.elapsed());
            drop(tokio::time::timeout(wait, stop.cancelled()).await);
        }
    }
}
