//! The seams of the loop, wrapped: calls that are slow, fail before or after their effect, or take effect when the caller has
//! long given up. The planted bugs live here too, never in `src/`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trigger_dispatcher::chaos::Bug;

/// What a call may suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    ErrorBefore,
    LostReply,
    LateEffect,
    Delay,
    /// The store gives a claim up that asks for too many slots.
    TimedOut,
    Crash,
    Zombie,
    Eviction,
    Stop,
    DeadLetterFailed,
    MessageLost,
    MessageRedelivered,
    /// The broker answers nobody for a while.
    BrokerOutage,
    /// A result reaches the backend late.
    LateResult,
    /// Another service of the group decides some records, and ours comes back.
    Rollback,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::TimedOut,
        Self::ErrorBefore,
        Self::LostReply,
        Self::LateEffect,
        Self::Delay,
        Self::Crash,
        Self::Zombie,
        Self::Eviction,
        Self::Stop,
        Self::DeadLetterFailed,
        Self::MessageLost,
        Self::MessageRedelivered,
        Self::BrokerOutage,
        Self::LateResult,
        Self::Rollback,
    ];
}

/// What the service does only in trouble; a simulation in which one of these never happens proves little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Window {
    /// A batch of a former owner was refused.
    Fenced,
    /// A signal found its own trigger, and another one led.
    Known,
    /// A batch had more slots than one statement decides.
    InParts,
    /// An owner was told that the one before it has begun a batch.
    Begun,
    /// The broker had a publication already.
    Guarded,
    /// A sweeper took up a publication.
    TakenUp,
    /// A publication came too late for all its slots.
    Lapsed,
    /// A task that never started was published again.
    Retried,
    /// A trigger was given up.
    Failed,
    /// A worker threw a task away that came too late.
    Expired,
    /// A worker was given a task twice.
    StartedBefore,
    /// The loop had the lease of an entry renewed.
    Renewed,
    /// A request reached the broker after its time, and did nothing.
    TooLate,
    /// A trigger was given up because its signal was too old.
    Stale,
    /// A result freed a slot.
    Released,
    /// A result was not believed: it may be of another attempt.
    NotReleased,
}

impl Window {
    pub(crate) const ALL: [Self; 16] = [
        Self::Fenced,
        Self::Known,
        Self::InParts,
        Self::Begun,
        Self::Guarded,
        Self::TakenUp,
        Self::Lapsed,
        Self::Retried,
        Self::Failed,
        Self::Expired,
        Self::StartedBefore,
        Self::Renewed,
        Self::TooLate,
        Self::Stale,
        Self::Released,
        Self::NotReleased,
    ];
}

/// The call did not succeed, as far as the caller can tell.
#[derive(Debug, thiserror::Error)]
#[error("injected: {0:?}")]
pub(crate) struct Injected(pub(crate) Fault);

/// How often what is injected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) error_before: f64,
    pub(crate) lost_reply: f64,
    pub(crate) late_effect: f64,
    /// Claims with more slots are given up by the store.
    pub(crate) most_slots: usize,
    /// A call takes up to so many polls, twice: before and after its effect.
    pub(crate) longest_delay: u32,
}

#[derive(Debug)]
struct Inner {
    random: StdRng,
    rates: Rates,
    is_on: bool,
    hits: BTreeMap<Fault, u64>,
    windows: BTreeMap<Window, u64>,
}

/// The one source of bad luck of a schedule.
#[derive(Debug, Clone)]
pub(crate) struct Chaos {
    inner: Arc<Mutex<Inner>>,
    bug: Option<Bug>,
}

impl Chaos {
    pub(crate) fn new(seed: u64, rates: Rates, bug: Option<Bug>) -> Self {
        let inner =
            Inner { random: StdRng::seed_from_u64(seed), rates, is_on: true, hits: BTreeMap::new(), windows: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), bug }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bug is planted.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// From here on nothing fails any more.
    pub(crate) fn heal(&self) {
        self.inner().is_on = false;
    }

    /// Notes that a fault has hit.
    pub(crate) fn hit(&self, fault: Fault) {
        *self.inner().hits.entry(fault).or_default() += 1;
    }

    pub(crate) fn hits(&self) -> BTreeMap<Fault, u64> {
        self.inner().hits.clone()
    }

    /// Notes that the service went through a window.
    pub(crate) fn reached(&self, window: Window) {
        *self.inner().windows.entry(window).or_default() += 1;
    }

    pub(crate) fn windows(&self) -> BTreeMap<Window, u64> {
        self.inner().windows.clone()
    }

    /// Whether bad luck strikes; noted if so.
    pub(crate) fn strikes(&self, fault: Fault, rate: f64) -> bool {
        let mut inner = self.inner();
        let strikes = inner.is_on && inner.random.random_bool(rate);
        if strikes {
            *inner.hits.entry(fault).or_default() += 1;
        }
        strikes
    }

    /// Whether the store gives up a claim of so many slots: always, also when nothing fails any more.
    pub(crate) fn is_too_wide(&self, slots: usize) -> bool {
        let is_too_wide = slots > self.inner().rates.most_slots;
        if is_too_wide {
            self.hit(Fault::TimedOut);
        }
        is_too_wide
    }

    /// A call whose effect the caller will not wait for.
    pub(crate) fn is_late(&self) -> bool {
        let rate = self.inner().rates.late_effect;
        self.strikes(Fault::LateEffect, rate)
    }

    /// Some polls in which others go on, or we die.
    pub(crate) async fn delay(&self) {
        let polls = {
            let mut inner = self.inner();
            let most = if inner.is_on { inner.rates.longest_delay } else { 0 };
            inner.random.random_range(0..=most)
        };
        for _ in 0..polls {
            yield_once().await;
        }
        if polls > 0 {
            self.hit(Fault::Delay);
        }
    }

    /// Calls something far away.
    pub(crate) async fn call<T>(&self, effect: impl Future<Output = Result<T, Infallible>>) -> Result<T, Injected> {
        let Rates { error_before, lost_reply, .. } = self.inner().rates;
        self.delay().await;
        if self.strikes(Fault::ErrorBefore, error_before) {
            return Err(Injected(Fault::ErrorBefore));
        }
        let value = match effect.await {
            Ok(value) => value,
            Err(never) => match never {},
        };
        self.delay().await;
        if self.strikes(Fault::LostReply, lost_reply) {
            return Err(Injected(Fault::LostReply));
        }
        Ok(value)
    }
}

async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|_| if std::mem::replace(&mut has_yielded, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
