//! THE loop: one batch after the other, through every stage, in the one order that loses nothing.
//!
//! A bad record is written to the dead-letter topic before its offset can move. Offsets move in the store together
//! with the claims; the broker gets the tasks next; Kafka hears of it last. A crash between any two steps leaves
//! either nothing decided, or a publication that the sweeper takes up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chaos::{self, Bug};
use crate::config::{CeleryConfig, Scope};
use crate::intake::{Arrival, Batch, Source};
use crate::retry::{Backoff, Stopped, until_done};
use crate::rules::{Matches, Skip, WHOLE};
use crate::store::refresh::SharedRules;
use crate::store::{ClaimRequest, Claimed, Claims, Verdict, Wanted};
use crate::tasks::{Publication, Task, TaskQueue, Texts};
use crate::telemetry::{Events, Metrics};

/// How long confirmations wait for a claim to ride on before they are written by themselves.
const CONFIRM_AFTER: Duration = Duration::from_millis(250);

/// What a task is made from.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The topic, for ids of signals that state none.
    pub topic: String,
    /// What a slot is.
    pub scope: Scope,
    /// How a task looks.
    pub celery: CeleryConfig,
}

/// The loop's parts.
#[derive(Debug)]
pub struct Dispatcher<S, C, Q> {
    /// Where signals come from.
    pub source: S,
    /// Who may act.
    pub claims: C,
    /// Where tasks go.
    pub queue: Q,
    /// What signals mean.
    pub rules: SharedRules,
    /// What a task is made from.
    pub terms: Terms,
    /// Log lines of the flow.
    pub events: Events,
    /// Numbers of the flow.
    pub metrics: Arc<Metrics>,
    /// Ends the loop after the batch under way.
    pub stop: CancellationToken,
}

/// The source has records and does not give them; only a new process helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the intake is stalled: Kafka has records and none comes")]
pub struct Stalled;

/// A decided batch on its way out.
struct Decided {
    publication_id: Uuid,
    batch: Batch,
    matches: Matches,
    wanted: Vec<Wanted>,
    claimed: Claimed,
}

impl<S: Source, C: Claims, Q: TaskQueue> Dispatcher<S, C, Q> {
    /// Runs until told to stop, then leaves the source in order.
    ///
    /// # Errors
    /// The source is stuck; it is not closed, for that may hang.
    pub async fn run(mut self) -> Result<(), Stalled> {
        loop {
            let arrival = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                arrival = self.source.next() => arrival,
                () = tokio::time::sleep(CONFIRM_AFTER), if self.claims.has_unwritten() => {
                    if self.flush().await.is_err() { break }
                    continue;
                }
            };
            let done = match arrival {
                Arrival::Assigned(partitions) => self.start(&partitions).await,
                Arrival::Batch(batch) => self.pass(batch).await,
                Arrival::Stalled => return Err(Stalled),
                Arrival::Ended => break,
            };
            if done == Err(Stopped) {
                break;
            }
        }
        // A publication that stays unconfirmed is taken up by a sweeper, and its guard makes that harmless.
        if self.flush().await.is_err() {
            tracing::warn!(event = "confirmations_unwritten");
        }
        self.source.close().await;
        Ok(())
    }

    async fn start(&mut self, partitions: &[i32]) -> Result<(), Stopped> {
        chaos::point("before_open");
        let Self { claims, source, stop, .. } = self;
        let starts = until_done(&mut Backoff::new("open_failed"), stop, async || claims.open(partitions).await).await?;
        chaos::point("after_open");
        until_done(&mut Backoff::new("start_failed"), stop, async || source.start(&starts).await).await
    }

    /// Takes one batch through all stages.
    async fn pass(&mut self, batch: Batch) -> Result<(), Stopped> {
        chaos::point("after_fetch");
        self.events.received(&batch);
        chaos::point("before_dead_letter");
        self.dead_letter(&batch).await?;
        chaos::point("after_dead_letter");
        chaos::point("before_claim");
        let Some(decided) = self.claim(batch).await? else { return Ok(()) };
        chaos::point("after_claim");
        if chaos::bug(Bug::CommitBeforePublish) {
            self.commit(&decided).await;
        }
        self.enqueue(&decided).await?;
        chaos::point("before_commit");
        self.commit(&decided).await;
        chaos::point("after_commit");
        self.tell(&decided);
        Ok(())
    }

    async fn dead_letter(&mut self, batch: &Batch) -> Result<(), Stopped> {
        if batch.rejected().is_empty() {
            return Ok(());
        }
        let Self { source, stop, .. } = self;
        until_done(&mut Backoff::new("dead_letter_failed"), stop, async || source.dead_letter(batch.rejected()).await).await
    }

    /// Lets the store decide the batch; `None` when nothing of it is ours any more.
    async fn claim(&mut self, mut batch: Batch) -> Result<Option<Decided>, Stopped> {
        let rules = self.rules.load_full();
        let mut skips = HashSet::new();
        let publication_id = Uuid::new_v4();
        let mut backoff = Backoff::new("claim_failed");
        loop {
            let matches = rules.match_batch(&batch, self.terms.scope, &skips);
            let wanted = self.wanted(&batch, &matches);
            let spans = batch
                .offsets
                .spans()
                .iter()
                .map(|span| (*span, matches.counts.get(&span.partition).copied().unwrap_or_default()));
            let request = ClaimRequest { publication_id, spans: spans.collect(), wanted };
            let Self { claims, stop, .. } = self;
            match until_done(&mut backoff, stop, async || claims.claim(&request).await).await? {
                Verdict::Claimed(claimed) => {
                    let wanted = request.wanted;
                    return Ok(Some(Decided { publication_id, batch, matches, wanted, claimed }));
                }
                // Another signal of the batch may lead where the ledger knows the first.
                Verdict::Known(positions) => skips.extend(positions.into_iter().map(|position| {
                    let candidate = &matches.candidates[position];
                    Skip { pipeline: candidate.pipeline, ticker: candidate.ticker, signal: candidate.signal }
                })),
                Verdict::Fenced(partitions) => {
                    tracing::warn!(event = "batch_fenced", ?partitions);
                    self.metrics.fenced();
                    let Self { source, stop, .. } = self;
                    until_done(&mut Backoff::new("reopen_failed"), stop, async || source.reopen().await).await?;
                    batch.remove(&partitions);
                    skips.clear();
                    if batch.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn wanted(&self, batch: &Batch, matches: &Matches) -> Vec<Wanted> {
        let mut texts = Texts::new(&self.terms.celery, &self.terms.topic, batch, &matches.rules);
        let wanted = |candidate: &crate::rules::Candidate| {
            let signal = &batch.signals()[candidate.signal as usize];
            let ticker = if candidate.ticker == WHOLE { "" } else { batch.text(batch.mention(candidate.mentions[0]).ticker) };
            Wanted {
                text: texts.text(candidate, ticker),
                pipeline_id: matches.rules.pipeline_id(candidate.pipeline),
                ticker: ticker.to_owned(),
                partition: signal.partition,
                offset: signal.offset,
                shared: candidate.shared,
            }
        };
        matches.candidates.iter().map(wanted).collect()
    }

    async fn enqueue(&mut self, decided: &Decided) -> Result<(), Stopped> {
        if decided.claimed.won.is_empty() {
            return Ok(());
        }
        let task = |position: &usize| {
            let text = &decided.wanted[*position].text;
            Task { trigger_id: text.trigger_id, kwargs: text.kwargs.clone() }
        };
        let tasks = decided.claimed.won.iter().map(task).collect();
        let publication = Publication { id: decided.publication_id, expires: decided.claimed.leased_until, tasks };
        if chaos::bug(Bug::MarkBeforePublish) {
            self.claims.confirm(decided.publication_id);
            self.flush().await?;
        }
        chaos::point("before_publish");
        let Self { queue, stop, .. } = self;
        let swallow = chaos::bug(Bug::PublishErrorSwallowed);
        let publish = async || match queue.enqueue(&publication).await {
            Err(_) if swallow => Ok(()),
            result => result,
        };
        until_done(&mut Backoff::new("enqueue_failed"), stop, publish).await?;
        chaos::point("after_publish");
        self.claims.confirm(decided.publication_id);
        Ok(())
    }

    /// Last, always. A failure costs nothing: the store knows, and the next commit covers it.
    async fn commit(&mut self, decided: &Decided) {
        if let Err(error) = self.source.commit(&decided.batch.offsets).await {
            tracing::warn!(event = "kafka_commit_failed", %error);
        }
    }

    fn tell(&mut self, decided: &Decided) {
        let Decided { batch, matches, wanted, claimed, .. } = decided;
        self.events.matched(batch, matches);
        self.events.enqueued(matches, wanted, claimed);
        let leads = claimed.won.iter().map(|won| batch.signals()[matches.candidates[*won].signal as usize].record_time_ms);
        self.metrics.decided(batch, matches, claimed, leads);
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        chaos::point("before_confirm");
        let Self { claims, stop, .. } = self;
        until_done(&mut Backoff::new("confirm_failed"), stop, async || claims.flush().await).await?;
        chaos::point("after_confirm");
        Ok(())
    }
}
