//! The claims in memory, for the demo and the seeded simulation: the twin of [`super::postgres`].

mod decide;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{ClaimRequest, Claims, GivenUp, Renewal, Verdict, Wanted};
use crate::clock;
use crate::intake::{Identity, Position, Start};

pub use sweep::PublicationState;

/// What became of the records of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The fence.
    pub epoch: i64,
    /// The next offset to decide.
    pub next_offset: Option<i64>,
    /// Records decided; the sum of all that follow.
    pub consumed: i64,
    /// Led at least one trigger.
    pub triggered: i64,
    /// Every slot that they would lead was busy.
    pub busy: i64,
    /// Every slot that they would lead knows them already.
    pub redelivered: i64,
    /// Joined an earlier signal of their batch.
    pub merged: i64,
    /// Nobody watches them.
    pub unmatched: i64,
    /// Too old.
    pub stale: i64,
    /// Bad in themselves.
    pub invalid: i64,
    /// Parts of a batch that were decided, while its offsets have not moved: how many, and up to where its records go.
    pub begun: Option<(usize, i64)>,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The slot's pipeline.
    pub pipeline_id: Uuid,
    /// The slot's ticker; empty for a whole pipeline.
    pub ticker: String,
    /// The signal that leads.
    pub signal_id: String,
    /// Where its record came from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// What the task is told.
    pub kwargs: String,
    /// The tasks that it was first published with.
    pub claimed_as: Uuid,
    /// The tasks that it was last published with.
    pub publication_id: Uuid,
    /// How often it was published, counted from 1.
    pub attempt: i32,
    /// When it was claimed, by the store's clock.
    pub claimed_at_ms: i64,
    /// When its lease ends.
    pub leased_until_ms: i64,
    /// Kafka's time of the record that leads, in milliseconds since 1970.
    pub record_time_ms: i64,
    /// The deployment that claimed it.
    pub deployment: i32,
    /// Whether and why it was given up.
    pub given_up: Option<GivenUp>,
}

#[derive(Debug, Clone)]
struct Slot {
    trigger_id: Uuid,
    leased_until_ms: i64,
    /// Whether an execution has started since, under whatever id: once that is over, so is the trigger.
    answered: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By deployment and partition.
    progress: BTreeMap<(i32, i32), Progress>,
    /// Which log the offsets of a partition are of, by deployment and partition.
    identities: BTreeMap<(i32, i32), Identity>,
    triggers: BTreeMap<Uuid, Trigger>,
    publications: sweep::Publications,
    /// The publications of parts, by deployment and partition, as long as the progress says that a batch is begun.
    parts: BTreeMap<(i32, i32), Vec<Uuid>>,
    slots: BTreeMap<(Uuid, String), Slot>,
    /// Active executions by pipeline, with the symbol they are for.
    active: HashMap<Uuid, Vec<(Uuid, Option<String>)>>,
    over: HashSet<Uuid>,
}

/// A store in memory, shared by instances and workers.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// The store's own clock, in milliseconds since 1970: what the database's is to PostgreSQL.
    now_ms: fn() -> i64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(clock::unix_ms)
    }
}

impl MemoryStore {
    /// A store with a clock of its own, in milliseconds since 1970.
    pub fn with_clock(now_ms: fn() -> i64) -> Self {
        Self { state: Arc::default(), now_ms }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker starts an execution.
    pub fn start_execution(&self, execution_id: Uuid, pipeline_id: Uuid, symbol: Option<&str>) {
        // Symbols compare as tickers do.
        let symbol = symbol.map(|symbol| symbol.trim().to_uppercase());
        let mut state = self.state();
        for ((pipeline, ticker), slot) in &mut state.slots {
            slot.answered |= *pipeline == pipeline_id && is_for(symbol.as_deref(), ticker);
        }
        state.active.entry(pipeline_id).or_default().push((execution_id, symbol));
    }

    /// Frees slots whose trigger is over by its result, where that can only be of the attempt that holds the slot: a trigger that was
    /// revoked or expired may have had a second message. Returns how many.
    pub fn release(&self, ended: &[Uuid], revoked: &[Uuid]) -> usize {
        let mut state = self.state();
        let mut freed = 0;
        for (id, is_revoked) in ended.iter().map(|id| (id, false)).chain(revoked.iter().map(|id| (id, true))) {
            let Some(trigger) = state.triggers.get(id) else { continue };
            let was_swept = state.publications.was_swept(trigger.publication_id);
            if trigger.attempt == 1 && !(is_revoked && was_swept) {
                freed += usize::from(state.free(*id));
            }
        }
        freed
    }

    /// Frees the slot that a trigger holds, whatever is known of it: what a store with a planted bug does.
    pub fn release_by_id(&self, id: Uuid) -> usize {
        usize::from(self.state().free(id))
    }

    /// Whether a trigger holds its slot.
    pub fn holds_slot(&self, id: Uuid) -> bool {
        self.state().holds(id)
    }

    /// A worker ends an execution.
    pub fn finish_execution(&self, execution_id: Uuid, pipeline_id: Uuid) {
        let mut state = self.state();
        if let Some(active) = state.active.get_mut(&pipeline_id) {
            active.retain(|(id, _)| *id != execution_id);
        }
        state.over.insert(execution_id);
    }

    /// What became of the records of the first deployment, by partition.
    pub fn progress(&self) -> BTreeMap<i32, Progress> {
        self.progress_of(FIRST)
    }

    /// What became of the records of a deployment, by partition.
    pub fn progress_of(&self, deployment: i32) -> BTreeMap<i32, Progress> {
        let state = self.state();
        let of_it = state.progress.iter().filter(|((of, _), _)| *of == deployment);
        of_it.map(|((_, partition), progress)| (*partition, *progress)).collect()
    }

    /// Every trigger in the ledger.
    pub fn triggers(&self) -> Vec<Uuid> {
        self.state().triggers.keys().copied().collect()
    }

    /// The whole ledger.
    pub fn ledger(&self) -> BTreeMap<Uuid, Trigger> {
        self.state().triggers.clone()
    }

    /// The access of a dispatcher of the first deployment.
    pub fn claims(&self, lease: Duration) -> MemoryClaims {
        self.claims_of(&MemoryTerms { lease, ..MemoryTerms::default() })
    }

    /// A dispatcher's access to the store.
    pub fn claims_of(&self, terms: &MemoryTerms) -> MemoryClaims {
        MemoryClaims { store: self.clone(), terms: *terms, unwritten: Vec::new(), written: Vec::new() }
    }
}

/// The deployment where there is only one.
const FIRST: i32 = 1;

/// Whose triggers are published, and with which lease: as [`super::sweep::LeaseTerms`].
#[derive(Debug, Clone, Copy)]
pub struct MemoryTerms {
    /// The deployment.
    pub deployment: i32,
    /// How long a lease holds.
    pub lease: Duration,
    /// How long before the end of its lease a task expires.
    pub margin: Duration,
    /// Triggers whose signal is older are given up instead of published; `None` is no limit.
    pub max_age: Option<Duration>,
}

impl Default for MemoryTerms {
    fn default() -> Self {
        Self { deployment: FIRST, lease: Duration::from_secs(900), margin: Duration::ZERO, max_age: None }
    }
}

/// A dispatcher's access to the store.
#[derive(Debug)]
pub struct MemoryClaims {
    store: MemoryStore,
    terms: MemoryTerms,
    unwritten: Vec<Uuid>,
    written: Vec<Uuid>,
}

impl Trigger {
    fn new(wanted: &Wanted, request: &ClaimRequest, deployment: i32, claimed_at_ms: i64, leased_until_ms: i64) -> Self {
        Self {
            pipeline_id: wanted.pipeline_id,
            ticker: wanted.ticker.clone(),
            signal_id: wanted.text.signal_id.to_string(),
            partition: wanted.partition,
            offset: wanted.offset,
            kwargs: wanted.text.kwargs(&request.pieces),
            claimed_as: request.publication_id,
            publication_id: request.publication_id,
            attempt: 1,
            claimed_at_ms,
            leased_until_ms,
            record_time_ms: wanted.record_time_ms,
            deployment,
            given_up: None,
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::MAX)
}

/// Whether an execution for `symbol` keeps the slot of `ticker` busy. Without either, it is about the whole pipeline.
fn is_for(symbol: Option<&str>, ticker: &str) -> bool {
    ticker.is_empty() || symbol.is_none_or(|symbol| symbol == ticker)
}

fn positions(request: &ClaimRequest, test: impl Fn(&Wanted) -> bool) -> Vec<usize> {
    request.wanted.iter().enumerate().filter(|(_, wanted)| test(wanted)).map(|(position, _)| position).collect()
}

impl Claims for MemoryClaims {
    type Error = Infallible;

    async fn open(&mut self, partitions: &[i32]) -> Result<Vec<Start>, Infallible> {
        let mut state = self.store.state();
        let open = |partition: &i32| {
            let place = (self.terms.deployment, *partition);
            let identity = state.identities.get(&place).cloned().unwrap_or_default();
            let progress = state.progress.entry(place).or_default();
            progress.epoch += 1;
            let (epoch, next_offset) = (progress.epoch, progress.next_offset);
            Start { partition: *partition, epoch, next_offset, identity, ..Start::default() }
        };
        Ok(partitions.iter().map(open).collect())
    }

    async fn position(&mut self, positions: &[Position]) -> Result<Vec<i32>, Infallible> {
        let mut state = self.store.state();
        let mut ours = Vec::new();
        for position in positions {
            let Some(progress) =
                state.progress.get_mut(&(self.terms.deployment, position.partition)).filter(|one| one.epoch == position.epoch)
            else {
                continue;
            };
            progress.next_offset = progress.next_offset.max(Some(position.next_offset));
            ours.push(position.partition);
            let known = state.identities.entry((self.terms.deployment, position.partition)).or_default();
            let Identity { cluster_id, topic_id } = position.identity.clone();
            known.cluster_id = known.cluster_id.take().or(cluster_id);
            known.topic_id = known.topic_id.take().or(topic_id);
        }
        Ok(ours)
    }

    async fn begun(&mut self, partitions: &[i32]) -> Result<Vec<(i32, i64)>, Infallible> {
        let state = self.store.state();
        let is_begun = |trigger: &&Trigger| {
            let place = (self.terms.deployment, trigger.partition);
            let next = state.progress.get(&place).and_then(|progress| progress.next_offset).unwrap_or(0);
            trigger.deployment == self.terms.deployment
                && partitions.contains(&trigger.partition)
                && trigger.offset >= next
                && state.parts.get(&place).is_some_and(|parts| parts.contains(&trigger.claimed_as))
        };
        let places: BTreeSet<_> =
            state.triggers.values().filter(is_begun).map(|trigger| (trigger.partition, trigger.offset)).collect();
        Ok(places.into_iter().collect())
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Result<Verdict, Infallible> {
        let now_ms = (self.store.now_ms)();
        let mut state = self.store.state();
        let verdict = state.decide(request, &self.terms, now_ms);
        state.publications.confirm(&self.unwritten, now_ms);
        self.written.append(&mut self.unwritten);
        Ok(verdict)
    }

    async fn renew(&mut self, publication_id: Uuid) -> Result<Renewal, Infallible> {
        Ok(self.store.renew(&self.terms, publication_id))
    }

    fn confirm(&mut self, publication_id: Uuid) {
        self.unwritten.push(publication_id);
    }

    fn written(&mut self) -> Vec<Uuid> {
        std::mem::take(&mut self.written)
    }

    fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        self.store.confirm(&self.unwritten);
        self.written.append(&mut self.unwritten);
        Ok(())
    }
}
