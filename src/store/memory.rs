//! The claims in memory, for the demo and the seeded simulation: the twin of [`super::postgres`].

mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{ClaimRequest, Claimed, Claims, GivenUp, Renewal, Verdict, Wanted};
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

impl State {
    /// Frees the slot if the trigger holds it.
    fn free(&mut self, id: Uuid) -> bool {
        let slot = self.triggers.get(&id).map(|trigger| (trigger.pipeline_id, trigger.ticker.clone()));
        let is_held = self.holds(id);
        slot.filter(|_| is_held).and_then(|slot| self.slots.remove(&slot)).is_some()
    }

    /// Whether nothing keeps the slot from a new trigger.
    fn is_idle(&self, pipeline_id: Uuid, ticker: &str, now_ms: i64) -> bool {
        let runs = self
            .active
            .get(&pipeline_id)
            .is_some_and(|active| active.iter().any(|(_, symbol)| is_for(symbol.as_deref(), ticker)));
        let held = self
            .slots
            .get(&(pipeline_id, ticker.to_owned()))
            .is_some_and(|slot| slot.leased_until_ms > now_ms && !slot.answered && !self.over.contains(&slot.trigger_id));
        !runs && !held
    }

    /// Whether the wanted trigger was claimed before. Of a slot that another trigger keeps busy that is not asked: nothing can start.
    fn knows(&self, wanted: &Wanted, now_ms: i64) -> bool {
        let id = &wanted.text.trigger_id;
        self.slots.get(&(wanted.pipeline_id, wanted.ticker.clone())).is_some_and(|slot| slot.trigger_id == *id)
            || (self.is_idle(wanted.pipeline_id, &wanted.ticker, now_ms) && self.triggers.contains_key(id))
    }

    fn decide(&mut self, request: &ClaimRequest, terms: &MemoryTerms, now_ms: i64) -> Verdict {
        let MemoryTerms { deployment, lease, .. } = *terms;
        let state_of = |partition: i32| self.progress.get(&(deployment, partition)).copied().unwrap_or_default();
        let mut repeated = true;
        let mut fenced = Vec::new();
        for (span, _) in &request.spans {
            let progress = state_of(span.partition);
            let mine = progress.epoch == span.epoch;
            let is_begun =
                self.parts.get(&(deployment, span.partition)).is_some_and(|parts| parts.contains(&request.publication_id));
            if !mine || progress.next_offset.is_some_and(|next| next > span.first_offset) {
                fenced.push(span.partition);
            }
            repeated &= mine && (is_begun || progress.next_offset.is_some_and(|next| next >= span.next_offset));
        }
        let leased_until_ms = now_ms.saturating_add(milliseconds(lease));
        let leased_until = timestamp(leased_until_ms);
        if repeated {
            let ours = |id: &Uuid| self.triggers.get(id).is_some_and(|trigger| trigger.publication_id == request.publication_id);
            let won = positions(request, |wanted| ours(&wanted.text.trigger_id));
            // No task may outlive its lease, so the one that ends first counts for all.
            let leases = won.iter().filter_map(|position| self.triggers.get(&request.wanted[*position].text.trigger_id));
            let leased_until = leases.map(|trigger| timestamp(trigger.leased_until_ms)).min().unwrap_or(leased_until);
            let known = positions(request, |wanted| {
                let id = &wanted.text.trigger_id;
                request.goes_on && self.triggers.contains_key(id) && !ours(id)
            });
            return Verdict::Claimed(Claimed { won, known, leased_until, is_repeated: true, unknown_statuses: Vec::new() });
        }
        if !fenced.is_empty() {
            return Verdict::Fenced(fenced);
        }
        let known = positions(request, |wanted| self.knows(wanted, now_ms));
        if known.iter().any(|position| request.wanted[*position].shared) {
            return Verdict::Known(known);
        }
        let mut won = Vec::new();
        for (position, wanted) in request.wanted.iter().enumerate() {
            let trigger_id = wanted.text.trigger_id;
            if known.binary_search(&position).is_ok() || !self.is_idle(wanted.pipeline_id, &wanted.ticker, now_ms) {
                continue;
            }
            self.slots.insert((wanted.pipeline_id, wanted.ticker.clone()), Slot { trigger_id, leased_until_ms, answered: false });
            self.triggers.insert(trigger_id, Trigger::new(wanted, request.publication_id, deployment, now_ms, leased_until_ms));
            won.push(position);
        }
        if !won.is_empty() {
            self.publications.claimed(request.publication_id, deployment, now_ms);
        }
        if request.goes_on {
            self.begin(request, deployment);
        } else {
            self.count(request, deployment, &won, &known);
        }
        Verdict::Claimed(Claimed { won, known, leased_until, is_repeated: false, unknown_statuses: Vec::new() })
    }

    /// Notes that a part is decided; the records are counted with the last one.
    fn begin(&mut self, request: &ClaimRequest, deployment: i32) {
        for (span, _) in &request.spans {
            let parts = self.parts.entry((deployment, span.partition)).or_default();
            parts.push(request.publication_id);
            let progress = self.progress.entry((deployment, span.partition)).or_default();
            let until = progress.begun.map_or(span.next_offset, |(_, until)| until.max(span.next_offset));
            progress.begun = Some((parts.len(), until));
        }
    }

    fn count(&mut self, request: &ClaimRequest, deployment: i32, won: &[usize], known: &[usize]) {
        // A record is triggered if it leads any trigger, redelivered if the ledger knows it everywhere, else busy.
        let mut records: BTreeMap<(i32, i64), (bool, bool)> = BTreeMap::new();
        for (position, wanted) in request.wanted.iter().enumerate() {
            let record = records.entry((wanted.partition, wanted.offset)).or_insert((false, true));
            record.0 |= won.binary_search(&position).is_ok();
            record.1 &= known.binary_search(&position).is_ok();
        }
        for (span, counts) in &request.spans {
            let progress = self.progress.entry((deployment, span.partition)).or_default();
            progress.next_offset = Some(span.next_offset);
            progress.consumed += span.consumed;
            progress.redelivered += counts.redelivered;
            progress.triggered += counts.triggered;
            progress.busy += counts.busy;
            progress.merged += counts.merged;
            progress.unmatched += counts.unmatched;
            progress.stale += span.stale;
            progress.invalid += span.invalid;
            // A batch that was begun before a crash may have gone further than this one.
            if progress.begun.is_some_and(|(_, until)| until <= span.next_offset) {
                progress.begun = None;
                self.parts.remove(&(deployment, span.partition));
            }
            for (_, outcome) in records.range((span.partition, i64::MIN)..=(span.partition, i64::MAX)) {
                match outcome {
                    (true, _) => progress.triggered += 1,
                    (false, true) => progress.redelivered += 1,
                    (false, false) => progress.busy += 1,
                }
            }
        }
    }
}

impl Trigger {
    fn new(wanted: &Wanted, publication_id: Uuid, deployment: i32, claimed_at_ms: i64, leased_until_ms: i64) -> Self {
        Self {
            pipeline_id: wanted.pipeline_id,
            ticker: wanted.ticker.clone(),
            signal_id: wanted.text.signal_id.clone(),
            partition: wanted.partition,
            offset: wanted.offset,
            kwargs: wanted.text.kwargs.clone(),
            claimed_as: publication_id,
            publication_id,
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
