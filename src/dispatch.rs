//! THE loop: one batch after the other, through every stage, in the one order that loses nothing.
//!
//! A bad record is written to the dead-letter topic before its offset can move. Offsets move in the store together
//! with the claims; the broker gets the tasks next; Kafka hears of it last. A crash between any two steps leaves
//! either nothing decided, or an outbox entry that the sweeper takes up. A broker that does not answer costs an entry its lease:
//! the store renews it before the next attempt, or gives up what is too old by then. While the broker gets the tasks of one batch the store
//! decides the next. A batch of very many slots goes through claim and broker part by part, and batches of other partitions
//! pass by in between.

mod backlog;
mod outbox;
mod pass;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::backlog::Backlog;
use self::outbox::{Entry, Left, Outbox};
use self::pass::{Begun, Pass};
use crate::chaos::{self, Bug};
use crate::clock;
use crate::config::{CeleryConfig, Scope};
use crate::intake::{Arrival, Batch, Position, Rejected, Source};
use crate::retry::{Backoff, Stopped, until_done};
use crate::store::refresh::SharedRules;
use crate::store::{ClaimRequest, Claimed, Claims, Renewal, Verdict, Wanted};
use crate::tasks::{IdSpace, Publication, Task, TaskQueue, publish_by};
use crate::telemetry::{Events, Metrics};

/// How long confirmations wait for a claim to ride on before they are written by themselves.
const CONFIRM_AFTER: Duration = Duration::from_millis(250);
/// Tasks that leave before the next batch is asked for, in production; more leave beside it. So many are soon in the broker, and sooner if the store does not take the
/// processors from it at that moment; and the later the next batch is asked for, the more it holds. (Not a limit of time: a timer that
/// ends before all others wakes a thread up each time that it is set.)
pub const WAITED_FOR: usize = 100;
/// Slots that one statement decides at most, in production: so many take it some 100 ms, and other partitions wait no longer.
pub const MOST_SLOTS: usize = 4_000;

/// What a task is made from.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The topic, for ids of signals that state none.
    pub topic: String,
    /// What the trigger ids are made in.
    pub ids: IdSpace,
    /// What a slot is.
    pub scope: Scope,
    /// How long a claim holds.
    pub lease: Duration,
    /// How long before the end of its lease a task expires.
    pub margin: Duration,
    /// How a task looks.
    pub celery: CeleryConfig,
    /// Slots that one statement decides at most, see [`MOST_SLOTS`].
    pub most_slots: usize,
    /// Tasks that leave before the next batch is asked for, see [`WAITED_FOR`].
    pub waited_for: usize,
}

/// A wait for each step that may fail. They live as long as the loop: what fails on every batch still has a line a minute.
#[derive(Debug)]
pub struct Waits {
    open: Backoff,
    start: Backoff,
    dead_letter: Backoff,
    claim: Backoff,
    renew: Backoff,
    reopen: Backoff,
    confirm: Backoff,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            open: Backoff::new("open_failed"),
            start: Backoff::new("start_failed"),
            dead_letter: Backoff::new("dead_letter_failed"),
            claim: Backoff::new("claim_failed"),
            renew: Backoff::new("renew_failed"),
            reopen: Backoff::new("reopen_failed"),
            confirm: Backoff::new("confirm_failed"),
        }
    }
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
    /// How long each step waits when it fails.
    pub waits: Waits,
    /// Ends the loop after the batch under way.
    pub stop: CancellationToken,
}

/// The source has records and does not give them; only a new process helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the intake is stalled: Kafka has records and none comes")]
pub struct Stalled;

impl<S: Source, C: Claims, Q: TaskQueue + 'static> Dispatcher<S, C, Q> {
    /// Runs until told to stop, then leaves the source in order.
    ///
    /// # Errors
    /// The source is stuck; it is not closed, for that may hang.
    pub async fn run(self) -> Result<(), Stalled> {
        let Self { source, claims, queue, rules, terms, events, metrics, waits, stop } = self;
        let mut outbox = Outbox::new(queue, stop.clone(), Arc::clone(&metrics));
        let (backlog, begun) = (Backlog::default(), Begun::new());
        let mut deciding = Deciding { source, claims, rules, terms, events, metrics, waits, stop, backlog, begun };
        let ended = deciding.run(&mut outbox).await;
        // What was claimed leaves before we do, if the broker takes it now.
        deciding.stop.cancel();
        // An entry that is outdated by now, like one that stays unconfirmed, is left to a sweeper.
        if let Some(Ok(Left::Published(settled))) = outbox.left().await {
            deciding.settle(settled).await;
        }
        // A publication that stays unconfirmed is taken up by a sweeper, and its guard makes that harmless.
        if deciding.flush().await.is_err() {
            tracing::warn!(event = "confirmations_unwritten");
        }
        if ended.is_ok() {
            deciding.source.close().await;
        }
        ended
    }
}

/// All that decides. What leaves is beside it, for both go on at the same time.
struct Deciding<S, C> {
    source: S,
    claims: C,
    rules: SharedRules,
    terms: Terms,
    events: Events,
    metrics: Arc<Metrics>,
    waits: Waits,
    stop: CancellationToken,
    backlog: Backlog<Pass>,
    begun: Begun,
}

/// A claim whose tasks the broker has, or soon will.
struct Settled {
    request: ClaimRequest,
    claimed: Claimed,
    /// The batch, if this decided it to its end.
    ended: Option<Box<Pass>>,
    /// The triggers that were left to publish when their lease was renewed; `None` if all that were won.
    published: Option<Vec<Uuid>>,
}

/// A decided request, and when it was asked for.
struct Decided {
    request: ClaimRequest,
    claimed: Claimed,
    asked_at: tokio::time::Instant,
}

/// Why the lease of an outbox entry could not be renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError<E> {
    #[error(transparent)]
    Store(#[from] E),
    #[error("a sweeper has the outbox entry under way")]
    Held,
}

/// What the loop waits for.
enum Event {
    Arrival(Arrival),
    Left(Result<Left<Settled>, Stopped>),
}

impl<S: Source, C: Claims> Deciding<S, C> {
    async fn run<Q: TaskQueue + 'static>(&mut self, outbox: &mut Outbox<Q, Settled>) -> Result<(), Stalled> {
        while !self.stop.is_cancelled() {
            let event = self.event(outbox).await;
            outbox.settled(self.claims.written());
            let is_new = matches!(event, Some(Event::Arrival(_)));
            let done = match event {
                Some(Event::Arrival(Arrival::Assigned(partitions))) => {
                    // Whatever is under way was read before, and is read again.
                    self.backlog.clear();
                    self.start(&partitions).await
                }
                Some(Event::Arrival(Arrival::Positioned(positions))) => self.position(&positions).await,
                Some(Event::Arrival(Arrival::Batch(batch))) => self.receive(batch).await,
                Some(Event::Arrival(Arrival::Stalled)) => return Err(Stalled),
                Some(Event::Arrival(Arrival::Ended)) => break,
                Some(Event::Left(left)) => self.follow(left, outbox).await,
                None => Ok(()),
            };
            // The source answers while we work, but only if it was asked: before the first of many parts too.
            if is_new && done.is_ok() && self.backlog.peek().is_some_and(|pass| pass.is_wide(&self.terms)) {
                continue;
            }
            if done == Err(Stopped) || self.go_on(outbox).await == Err(Stopped) {
                break;
            }
        }
        Ok(())
    }

    /// What the source has: waited for only if there is nothing else to do, and not for ever.
    async fn event<Q: TaskQueue + 'static>(&mut self, outbox: &mut Outbox<Q, Settled>) -> Option<Event> {
        if !self.backlog.is_empty() {
            return if self.backlog.has_room() { self.source.next().now_or_never().map(Event::Arrival) } else { None };
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            Some(left) = outbox.left() => Some(Event::Left(left)),
            arrival = self.source.next() => Some(Event::Arrival(arrival)),
            () = tokio::time::sleep(CONFIRM_AFTER), if self.claims.has_unwritten() => {
                // Only a stop ends this without success, and the loop sees it.
                self.flush().await.ok();
                None
            }
        }
    }

    async fn start(&mut self, partitions: &[i32]) -> Result<(), Stopped> {
        chaos::point("before_open");
        let Self { claims, waits, stop, .. } = self;
        let starts = until_done(&mut waits.open, stop, async || claims.open(partitions).await).await?;
        self.find_begun(partitions).await?;
        chaos::point("after_open");
        let Self { source, waits, stop, .. } = self;
        until_done(&mut waits.start, stop, async || source.start(&starts).await).await
    }

    /// Has it stored where partitions are read from, before the first of their records is decided.
    async fn position(&mut self, positions: &[Position]) -> Result<(), Stopped> {
        let Self { claims, waits, stop, .. } = self;
        let ours = until_done(&mut waits.open, stop, async || claims.position(positions).await).await?;
        for position in positions.iter().filter(|position| ours.contains(&position.partition)) {
            self.events.positioned(position);
        }
        if ours.len() < positions.len() {
            // A newer epoch is in force, maybe our own: an opening whose answer was lost came late. Without this nobody would store where a
            // quiet partition goes on.
            let Self { source, waits, stop, .. } = self;
            until_done(&mut waits.reopen, stop, async || source.reopen().await).await?;
        }
        Ok(())
    }

    /// Asks which records lead triggers though no offset has passed them.
    async fn find_begun(&mut self, partitions: &[i32]) -> Result<(), Stopped> {
        let Self { claims, waits, stop, .. } = self;
        let records = until_done(&mut waits.open, stop, async || claims.begun(partitions).await).await?;
        self.begun.retain(|(partition, _)| !partitions.contains(partition));
        self.begun.extend(records);
        Ok(())
    }

    /// Takes a batch in.
    async fn receive(&mut self, batch: Batch) -> Result<(), Stopped> {
        chaos::point("after_fetch");
        self.events.received(&batch);
        chaos::point("before_dead_letter");
        self.dead_letter(batch.rejected()).await?;
        chaos::point("after_dead_letter");
        self.backlog.push(batch, |batch| Pass::new(batch, &self.rules.load_full(), &self.terms, &self.begun));
        Ok(())
    }

    async fn dead_letter(&mut self, rejected: &[Rejected]) -> Result<(), Stopped> {
        if rejected.is_empty() {
            return Ok(());
        }
        let Self { source, waits, stop, .. } = self;
        until_done(&mut waits.dead_letter, stop, async || source.dead_letter(rejected).await).await
    }

    /// Takes one batch further: has it decided, whole or one part of it, while the tasks of the one before leave. Then its own may.
    async fn go_on<Q: TaskQueue + 'static>(&mut self, outbox: &mut Outbox<Q, Settled>) -> Result<(), Stopped> {
        let Some(mut pass) = self.backlog.next() else { return Ok(()) };
        chaos::point("before_claim");
        let (left, decided) = join(outbox.left(), self.claim(&mut pass)).await;
        if let Some(left) = left {
            self.follow(left, outbox).await?;
            self.leave(outbox).await?;
        }
        if let Some(decided) = decided? {
            chaos::point("after_claim");
            let (goes_on, is_small) = (decided.request.goes_on, decided.claimed.won.len() <= self.terms.waited_for);
            self.send(pass, decided, outbox).await?;
            if is_small {
                self.leave(outbox).await?;
            }
            if goes_on {
                return Ok(());
            }
        } else {
            self.source.give_back(pass.batch);
        }
        self.backlog.begin(|batch| Pass::new(batch, &self.rules.load_full(), &self.terms, &self.begun));
        Ok(())
    }

    /// Waits until the broker has what is under way, however often that takes a new lease.
    async fn leave<Q: TaskQueue + 'static>(&mut self, outbox: &mut Outbox<Q, Settled>) -> Result<(), Stopped> {
        while let Some(left) = outbox.left().await {
            self.follow(left, outbox).await?;
        }
        Ok(())
    }

    /// What follows an attempt to publish.
    async fn follow<Q: TaskQueue + 'static>(
        &mut self,
        left: Result<Left<Settled>, Stopped>,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        match left? {
            Left::Published(settled) => self.settle(settled).await,
            Left::Outdated(entry) => self.renew(entry, outbox).await?,
        }
        Ok(())
    }

    /// Lets the store renew the leases of an entry, and sends on its way what is left of it.
    async fn renew<Q: TaskQueue + 'static>(
        &mut self,
        entry: Entry<Settled>,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        let Self { claims, waits, stop, .. } = self;
        let id = entry.publication.id;
        let renew = async || match claims.renew(id).await? {
            Renewal::Held => Err(RenewError::Held),
            Renewal::Taken(taken) => Ok(Some(taken)),
            Renewal::Over => Ok(None),
        };
        let Some(taken) = until_done(&mut waits.renew, stop, renew).await? else {
            // Published by a sweeper, or left to one.
            self.settle(Settled { published: Some(Vec::new()), ..entry.then }).await;
            return Ok(());
        };
        let publication = taken.publication;
        let published = publication.tasks.iter().map(|task| task.trigger_id).collect();
        outbox.begin(Entry { publication, then: Settled { published: Some(published), ..entry.then }, ..entry });
        Ok(())
    }

    /// Lets the store decide the batch or its next part; `None` when nothing of it is ours any more.
    async fn claim(&mut self, pass: &mut Pass) -> Result<Option<Decided>, Stopped> {
        loop {
            // An id of its own for whatever is asked: what an earlier request with other texts has won stays that one's.
            let request = pass.request(Uuid::new_v4(), &self.terms);
            let Self { claims, waits, stop, .. } = self;
            let mut asked_at = clock::timer();
            let claim = async || {
                asked_at = clock::timer();
                claims.claim(&request).await
            };
            match until_done(&mut waits.claim, stop, claim).await? {
                Verdict::Claimed(claimed) => {
                    pass.decided(&request, &claimed, &mut self.begun);
                    return Ok(Some(Decided { request, claimed, asked_at }));
                }
                // Another signal of the batch may lead where the ledger knows the first.
                Verdict::Known(positions) => pass.skip(&positions, &self.terms),
                Verdict::Refused(positions) => {
                    let refused = pass.refuse(&positions, &self.terms, &self.begun);
                    self.events.rejected(&refused);
                    self.dead_letter(&refused).await?;
                }
                Verdict::Fenced(partitions) => {
                    tracing::warn!(event = "batch_fenced", ?partitions);
                    self.metrics.fenced();
                    let Self { source, waits, stop, .. } = self;
                    until_done(&mut waits.reopen, stop, async || source.reopen().await).await?;
                    pass.batch.remove(&partitions);
                    if pass.batch.is_empty() {
                        return Ok(None);
                    }
                    // The request may have been applied before the partition went, and the reply was lost.
                    let ours: Vec<i32> = pass.batch.offsets.partitions().collect();
                    self.find_begun(&ours).await?;
                    pass.restart(&self.terms, &self.begun);
                }
            }
        }
    }

    /// Sends the tasks of a claim on their way. A part that goes on goes back to what is under way.
    async fn send<Q: TaskQueue + 'static>(
        &mut self,
        pass: Pass,
        decided: Decided,
        outbox: &mut Outbox<Q, Settled>,
    ) -> Result<(), Stopped> {
        let Decided { request, claimed, asked_at } = decided;
        if pass.sums.parts == 1 {
            self.events.matched(&pass.batch, &pass.matches);
        }
        let won = || claimed.won.iter().map(|position| &request.wanted[*position]);
        let task = |wanted: &Wanted| Task { trigger_id: wanted.text.trigger_id, kwargs: wanted.text.kwargs.clone() };
        let Terms { lease, margin, .. } = self.terms;
        let publication = Publication {
            id: request.publication_id,
            expires: claimed.leased_until.saturating_sub(margin).unwrap_or(claimed.leased_until),
            // Of a claim whose reply was lost the lease is older than this attempt: it has to be renewed.
            publish_by: if claimed.is_repeated { asked_at } else { publish_by(asked_at, lease) },
            tasks: won().map(task).collect(),
        };
        let record_times = won().map(|wanted| (wanted.text.trigger_id, wanted.record_time_ms)).collect();
        if !request.goes_on && chaos::bug(Bug::CommitBeforePublish) {
            self.commit(&pass.batch).await;
        }
        if !claimed.won.is_empty() && chaos::bug(Bug::MarkBeforePublish) {
            self.claims.confirm(request.publication_id);
            self.flush().await?;
        }
        let ended = if request.goes_on {
            self.backlog.put_back(pass);
            None
        } else {
            Some(Box::new(pass))
        };
        outbox.begin(Entry { publication, record_times, then: Settled { request, claimed, ended, published: None } });
        Ok(())
    }

    /// What follows when the broker has the tasks of a claim.
    async fn settle(&mut self, settled: Settled) {
        let Settled { request, mut claimed, ended, published } = settled;
        if let Some(published) = published {
            claimed.won.retain(|position| published.contains(&request.wanted[*position].text.trigger_id));
        }
        if !claimed.won.is_empty() {
            self.claims.confirm(request.publication_id);
        }
        self.events.enqueued(&request.wanted, &claimed.won);
        let Some(pass) = ended else { return };
        let Pass { batch, matches, sums, .. } = *pass;
        chaos::point("before_commit");
        self.commit(&batch).await;
        chaos::point("after_commit");
        self.events.decided(&matches, sums.enqueued, sums.known, &sums.unknown_statuses);
        self.metrics.decided(&batch, &matches, sums.enqueued, sums.known);
        self.source.give_back(batch);
    }

    /// Last, always. A failure costs nothing: the store knows, and the next commit covers it.
    async fn commit(&mut self, batch: &Batch) {
        if let Err(error) = self.source.commit(&batch.offsets).await {
            tracing::warn!(event = "kafka_commit_failed", %error);
        }
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        chaos::point("before_confirm");
        let Self { claims, waits, stop, .. } = self;
        until_done(&mut waits.confirm, stop, async || claims.flush().await).await?;
        chaos::point("after_confirm");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
