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
mod publishing;
mod waits;
mod width;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::backlog::Backlog;
use self::outbox::{Left, Outbox};
use self::pass::{Begun, Pass};
use self::publishing::Settled;
pub use self::waits::Waits;
use self::width::{narrower, wider};
use crate::chaos;
use crate::clock;
use crate::config::{CeleryConfig, Scope};
use crate::intake::{Arrival, Batch, Position, Rejected, Source};
use crate::retry::{Stopped, until_done};
use crate::store::refresh::SharedRules;
use crate::store::{ClaimRequest, Claimed, Claims, Verdict};
use crate::tasks::{IdSpace, TaskQueue};
use crate::telemetry::{Events, Metrics, json};

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

/// The source gives nothing any more; only a new process helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntakeFailed {
    /// It has records and does not give them.
    #[error("the intake is stalled: Kafka has records and none comes")]
    Stalled,
    /// Another process has our name in the consumer group.
    #[error("another process has the same KAFKA_GROUP_INSTANCE_ID: give each instance its own")]
    Fenced,
    /// What read for us broke off.
    #[error("the intake thread broke off; the event panicked says why")]
    Lost,
}

impl<S: Source, C: Claims, Q: TaskQueue + 'static> Dispatcher<S, C, Q> {
    /// Runs until told to stop, then leaves the source in order.
    ///
    /// # Errors
    /// The source is stuck; it is not closed, for that may hang.
    pub async fn run(self) -> Result<(), IntakeFailed> {
        let Self { source, claims, queue, rules, terms, events, metrics, waits, stop } = self;
        let mut outbox = Outbox::new(queue, stop.clone(), Arc::clone(&metrics));
        let (backlog, begun) = (Backlog::default(), Begun::new());
        let waits = waits.watched(&metrics);
        let widest = terms.most_slots;
        let mut deciding = Deciding { source, claims, rules, terms, widest, events, metrics, waits, stop, backlog, begun };
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
    /// Its `most_slots` is less than `widest` while claims take too long.
    terms: Terms,
    widest: usize,
    events: Events,
    metrics: Arc<Metrics>,
    waits: Waits,
    stop: CancellationToken,
    backlog: Backlog<Pass>,
    begun: Begun,
}

/// A decided request, and when it was asked for.
struct Decided {
    request: ClaimRequest,
    claimed: Claimed,
    asked_at: tokio::time::Instant,
}

/// What the loop waits for.
enum Event {
    Arrival(Arrival),
    Left(Result<Left<Settled>, Stopped>),
}

impl<S: Source, C: Claims> Deciding<S, C> {
    async fn run<Q: TaskQueue + 'static>(&mut self, outbox: &mut Outbox<Q, Settled>) -> Result<(), IntakeFailed> {
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
                Some(Event::Arrival(Arrival::Stalled)) => return Err(IntakeFailed::Stalled),
                Some(Event::Arrival(Arrival::Fenced)) => return Err(IntakeFailed::Fenced),
                Some(Event::Arrival(Arrival::Lost)) => return Err(IntakeFailed::Lost),
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
        let hold_at = outbox.hold_at();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            Some(left) = outbox.left() => Some(Event::Left(left)),
            () = tokio::time::sleep_until(hold_at.unwrap_or_else(clock::timer)), if hold_at.is_some() => {
                self.hold(outbox, None).await.map(Event::Left)
            }
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
        let (left, decided) = outbox.beside(self.claim(&mut pass)).await;
        if let Some(left) = left {
            self.follow(left, outbox).await?;
        }
        let behind = decided.as_ref().ok().and_then(Option::as_ref).map(|decided| decided.request.publication_id);
        self.leave(outbox, behind).await?;
        if let Some(decided) = decided? {
            chaos::point("after_claim");
            let (goes_on, is_small) = (decided.request.goes_on, decided.claimed.won.len() <= self.terms.waited_for);
            self.send(pass, decided, outbox).await?;
            if is_small {
                self.leave(outbox, None).await?;
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

    /// Lets the store decide the batch or its next part; `None` when nothing of it is ours any more.
    async fn claim(&mut self, pass: &mut Pass) -> Result<Option<Decided>, Stopped> {
        loop {
            // An id of its own for whatever is asked: what an earlier request with other texts has won stays that one's.
            let request = pass.request(Uuid::new_v4(), &self.terms);
            let Self { claims, waits, stop, .. } = self;
            let (mut asked_at, mut attempts) = (clock::timer(), 0_u32);
            let claim = async || {
                asked_at = clock::timer();
                attempts += 1;
                claims.claim(&request).await
            };
            match until_done(&mut waits.claim, stop, claim).await? {
                Verdict::Claimed(claimed) => {
                    self.events.known(&pass.batch, pass.leaders(&claimed.known));
                    pass.decided(&request, &claimed, &mut self.begun);
                    self.terms.most_slots = wider(self.terms.most_slots, self.widest, asked_at.elapsed());
                    return Ok(Some(Decided { request, claimed, asked_at }));
                }
                // Another signal of the batch may lead where the ledger knows the first.
                Verdict::Known(positions) => {
                    self.events.known(&pass.batch, pass.leaders(&positions));
                    pass.skip(&positions, &self.terms);
                }
                // Nothing happened, so a stop need not wait for it.
                Verdict::TimedOut if self.stop.is_cancelled() => return Err(Stopped),
                Verdict::TimedOut => {
                    self.terms.most_slots = narrower(request.wanted.len());
                    if attempts > 1 {
                        // PostgreSQL may still run an earlier attempt whose reply was lost. It would count as redelivered what narrower
                        // claims trigger first, and move the offsets. Opening the partitions gives them a new epoch, so PostgreSQL refuses
                        // that attempt. It refuses our next claim too, and the batch is read again.
                        let ours: Vec<i32> = pass.batch.offsets.partitions().collect();
                        let Self { claims, waits, stop, .. } = self;
                        until_done(&mut waits.open, stop, async || claims.open(&ours).await).await?;
                    }
                }
                // A good signal must not be blamed for the text of one that joined it.
                Verdict::Refused(_) if pass.use_own_words() => {}
                Verdict::Refused(positions) => {
                    let refused = pass.refuse(&positions, &self.terms, &self.begun);
                    self.events.rejected(&refused);
                    self.dead_letter(&refused).await?;
                }
                Verdict::Fenced(partitions) => {
                    tracing::warn!(event = "batch_fenced", partitions = json(&partitions));
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
