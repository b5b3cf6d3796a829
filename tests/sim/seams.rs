//! `Source`, `Claims` and `TaskQueue` of an instance: the in-memory twins behind [`Chaos`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use trigger_dispatcher::chaos::Bug;
use trigger_dispatcher::intake::memory::{MemorySource, MemoryTopic};
use trigger_dispatcher::intake::{Arrival, Offsets, Position, Rejected, Source, Start};
use trigger_dispatcher::store::memory::{MemoryClaims, MemoryStore, MemoryTerms, Progress, Trigger};
use trigger_dispatcher::store::{ClaimRequest, Claims, Renewal, TakenUp, Verdict};
use trigger_dispatcher::tasks::memory::MemoryQueue;
use trigger_dispatcher::tasks::{PATIENCE, Publication, TaskQueue, publish_by};
use uuid::Uuid;

use crate::clock;
use crate::faults::{Chaos, Fault, Injected, Window};

/// Everything that the instances, sweepers and workers of a deployment share. Other deployments have the chaos and the store in common
/// with it.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) chaos: Chaos,
    pub(crate) topic: MemoryTopic,
    pub(crate) store: MemoryStore,
    pub(crate) broker: Broker,
    pub(crate) terms: MemoryTerms,
    pub(crate) results: Results,
    asked_again: Arc<Mutex<Vec<String>>>,
    late: Arc<Mutex<Vec<Late>>>,
}

/// The workers' results: of each task the last one that was written.
pub(crate) type Results = Arc<Mutex<BTreeMap<Uuid, Outcome>>>;

/// What a result says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ended,
    Revoked,
}

/// A request whose caller has given up, still on its way.
#[derive(Debug)]
enum Late {
    Open(Vec<i32>),
    Claim(ClaimRequest),
    Enqueue(Publication),
    Confirm(Vec<Uuid>),
}

impl Services {
    pub(crate) fn new(chaos: Chaos, store: MemoryStore, partitions: usize, terms: MemoryTerms) -> Self {
        let broker = Broker {
            chaos: chaos.clone(),
            store: store.clone(),
            terms,
            queue: MemoryQueue::default(),
            down_until_ms: Arc::default(),
            pushed: Arc::default(),
            wrong: Arc::default(),
            expires: Arc::default(),
            renamed: Arc::default(),
        };
        let topic = MemoryTopic::new(partitions);
        Self { chaos, topic, store, broker, terms, results: Arc::default(), asked_again: Arc::default(), late: Arc::default() }
    }

    /// What became of the deployment's records, by partition.
    pub(crate) fn progress(&self) -> BTreeMap<i32, Progress> {
        self.store.progress_of(self.terms.deployment)
    }

    /// The deployment's triggers.
    pub(crate) fn ledger(&self) -> BTreeMap<Uuid, Trigger> {
        let mut ledger = self.store.ledger();
        ledger.retain(|_, trigger| trigger.deployment == self.terms.deployment);
        ledger
    }

    /// Claims that wanted a slot for a signal again, though the ledger was known to have it.
    pub(crate) fn asked_again(&self) -> Vec<String> {
        self.asked_again.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send_late(&self, late: Late) -> Injected {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(late);
        Injected(Fault::LateEffect)
    }

    /// The oldest late request arrives; false when there is none.
    pub(crate) fn deliver_late(&self) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if late.is_empty() {
            return false;
        }
        // The twins never wait. Nobody reads these answers.
        match late.remove(0) {
            Late::Open(partitions) => drop(self.store.claims_of(&self.terms).open(&partitions).now_or_never()),
            Late::Claim(request) => drop(self.store.claims_of(&self.terms).claim(&request).now_or_never()),
            Late::Enqueue(publication) => drop(self.broker.push(&publication)),
            Late::Confirm(publications) => self.store.confirm(&publications),
        }
        true
    }

    pub(crate) fn queue(&self) -> FaultyQueue {
        FaultyQueue(self.clone())
    }

    pub(crate) fn source(&self, inner: MemorySource) -> FaultySource {
        FaultySource { services: self.clone(), inner }
    }

    pub(crate) fn claims(&self) -> FaultyClaims {
        FaultyClaims {
            services: self.clone(),
            inner: self.store.claims_of(&self.terms),
            unwritten: Vec::new(),
            known: BTreeMap::new(),
        }
    }
}

impl Services {
    /// Notes what a claim was told to be in the ledger. Until the batch is decided, nobody should ask for it again.
    fn note_known(&self, request: &ClaimRequest, positions: &[usize], known: &mut BTreeMap<Uuid, Uuid>) {
        for wanted in positions.iter().map(|position| &request.wanted[*position]) {
            let told = *known.entry(wanted.text.trigger_id).or_insert(request.publication_id);
            // A request whose reply was lost is repeated as it was.
            if told != request.publication_id {
                let text = format!("{} was asked for again for {}", wanted.pipeline_id, wanted.text.signal_id);
                self.asked_again.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        }
    }
}

/// The queue, and a capture of what reached it.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    chaos: Chaos,
    store: MemoryStore,
    terms: MemoryTerms,
    pub(crate) queue: MemoryQueue,
    down_until_ms: Arc<Mutex<i64>>,
    pushed: Arc<Mutex<BTreeMap<Uuid, Pushed>>>,
    /// Messages that did not carry the lease in force, or were of another deployment.
    wrong: Arc<Mutex<Vec<String>>>,
    /// What each publication's tasks said of their end at the first attempt.
    expires: Arc<Mutex<BTreeMap<Uuid, Timestamp>>>,
    renamed: Arc<Mutex<BTreeMap<Uuid, Uuid>>>,
}

/// When each publication of a trigger reached the broker first.
pub(crate) type Pushed = Vec<(Uuid, i64)>;

impl Broker {
    fn first_expires(&self, publication: &Publication) -> Timestamp {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner).entry(publication.id).or_insert(publication.expires)
    }

    /// Nobody is answered for so long.
    pub(crate) fn goes_down(&self, ms: i64) {
        *self.down_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = clock::now_ms() + ms;
    }

    pub(crate) fn comes_up(&self) {
        *self.down_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    fn is_down(&self) -> bool {
        *self.down_until_ms.lock().unwrap_or_else(PoisonError::into_inner) > clock::now_ms()
    }

    fn push(&self, publication: &Publication) -> Result<(), Injected> {
        let mut publication = publication.clone();
        let renamed = self.renamed.lock().unwrap_or_else(PoisonError::into_inner);
        for task in &mut publication.tasks {
            task.trigger_id = renamed.get(&task.trigger_id).copied().unwrap_or(task.trigger_id);
        }
        let mut queue = self.queue.clone();
        let was_there = queue.has(publication.id).now_or_never().expect("never waits").unwrap() == Some(true);
        if queue.enqueue(&publication).now_or_never().expect("the queue in memory never waits").is_err() {
            self.chaos.reached(Window::TooLate);
            return Err(Injected(Fault::LateEffect));
        }
        let mut pushed = self.pushed.lock().unwrap_or_else(PoisonError::into_inner);
        for task in &publication.tasks {
            let pushed = pushed.entry(task.trigger_id).or_default();
            if was_there {
                self.chaos.reached(Window::Guarded);
            } else {
                pushed.push((publication.id, clock::now_ms()));
            }
        }
        if !was_there {
            self.look(&publication);
        }
        Ok(())
    }

    /// A message ends with the lease in force, or with one that was granted a moment before it (its reply may have been lost); and it is of
    /// this deployment.
    fn look(&self, publication: &Publication) {
        let ledger = self.store.ledger();
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap();
        let (lease_ms, margin_ms) = (ms(self.terms.lease), ms(self.terms.margin));
        let oldest_ms = clock::now_ms() - ms(PATIENCE.min(self.terms.lease / 2)) - ms(clock::WHILE);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        for task in &publication.tasks {
            let Some(trigger) = ledger.get(&task.trigger_id) else { continue };
            let expires_ms = publication.expires.as_millisecond();
            let granted_ms = expires_ms + margin_ms - lease_ms;
            if expires_ms > trigger.leased_until_ms - margin_ms || granted_ms < oldest_ms {
                wrong.push(format!("at {} a message expires at {expires_ms}: {trigger:?}", clock::now_ms()));
            }
            if trigger.deployment != self.terms.deployment {
                wrong.push(format!("deployment {} published {trigger:?}", self.terms.deployment));
            }
        }
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn pushed(&self) -> BTreeMap<Uuid, Pushed> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct FaultySource {
    services: Services,
    inner: MemorySource,
}

impl Source for FaultySource {
    type Error = Injected;

    async fn next(&mut self) -> Arrival {
        self.services.chaos.delay().await;
        self.inner.next().await
    }

    async fn start(&mut self, starts: &[Start]) -> Result<(), Injected> {
        let mut starts = starts.to_vec();
        if self.services.chaos.has(Bug::LatestReset) {
            let ends = self.services.topic.ends();
            for start in &mut starts {
                start.next_offset.get_or_insert(ends[usize::try_from(start.partition).unwrap()]);
            }
        }
        if self.services.chaos.has(Bug::CommittedIgnored) {
            for start in &mut starts {
                start.committed_seen = Some(i64::MAX);
            }
        }
        self.services.chaos.call(self.inner.start(&starts)).await
    }

    async fn dead_letter(&mut self, rejected: &[Rejected]) -> Result<(), Injected> {
        let Self { services, inner } = self;
        // A few of the letters may be written before the others fail.
        if services.chaos.strikes(Fault::DeadLetterFailed, 0.2) {
            services.chaos.call(inner.dead_letter(&rejected[1..])).await.ok();
            return if services.chaos.has(Bug::DeadLetterNotAwaited) { Ok(()) } else { Err(Injected(Fault::DeadLetterFailed)) };
        }
        services.chaos.call(inner.dead_letter(rejected)).await
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), Injected> {
        self.services.chaos.call(self.inner.commit(offsets)).await
    }

    async fn reopen(&mut self) -> Result<(), Injected> {
        self.services.chaos.call(self.inner.reopen()).await
    }

    async fn close(&mut self) {
        self.services.chaos.delay().await;
        self.inner.close().await;
    }
}

pub(crate) struct FaultyClaims {
    services: Services,
    inner: MemoryClaims,
    /// As in the PostgreSQL claims: forgotten only when the reply has come.
    unwritten: Vec<Uuid>,
    /// Triggers of the batch under way that the ledger has, and the request that was told so.
    known: BTreeMap<Uuid, Uuid>,
}

impl Claims for FaultyClaims {
    type Error = Injected;

    async fn open(&mut self, partitions: &[i32]) -> Result<Vec<Start>, Injected> {
        // Whatever was under way is read again.
        self.known.clear();
        if self.services.chaos.is_late() {
            return Err(self.services.send_late(Late::Open(partitions.to_vec())));
        }
        self.services.chaos.call(self.inner.open(partitions)).await
    }

    async fn position(&mut self, positions: &[Position]) -> Result<Vec<i32>, Injected> {
        self.services.chaos.call(self.inner.position(positions)).await
    }

    async fn begun(&mut self, partitions: &[i32]) -> Result<Vec<(i32, i64)>, Injected> {
        let begun = self.services.chaos.call(self.inner.begun(partitions)).await?;
        if !begun.is_empty() {
            self.services.chaos.reached(Window::Begun);
        }
        Ok(begun)
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Result<Verdict, Injected> {
        let Self { services, inner, unwritten, known } = self;
        let claim = async {
            let request = distorted(services, request);
            for id in unwritten.iter() {
                inner.confirm(*id);
            }
            if services.chaos.is_too_wide(request.wanted.len()) {
                return Ok(Verdict::TimedOut);
            }
            let verdict = inner.claim(&request).await?;
            match &verdict {
                Verdict::Known(positions) => services.note_known(&request, positions, known),
                _ => known.clear(),
            }
            match &verdict {
                Verdict::Fenced(_) => services.chaos.reached(Window::Fenced),
                Verdict::Known(_) => services.chaos.reached(Window::Known),
                Verdict::Claimed(_) if request.goes_on => services.chaos.reached(Window::InParts),
                // The twin can hold any text.
                Verdict::Claimed(_) | Verdict::Refused(_) | Verdict::TimedOut => {}
            }
            if services.chaos.has(Bug::MarkBeforePublish) {
                services.store.confirm(&[request.publication_id]);
            }
            Ok::<_, Infallible>(verdict)
        };
        if services.chaos.is_late() {
            let request = distorted(services, request);
            return Err(services.send_late(Late::Claim(request)));
        }
        let verdict = services.chaos.call(claim).await?;
        unwritten.clear();
        Ok(verdict)
    }

    async fn renew(&mut self, publication_id: Uuid) -> Result<Renewal, Injected> {
        let Self { services, inner, .. } = self;
        let renewal = services.chaos.call(inner.renew(publication_id)).await?;
        if let Renewal::Taken(TakenUp { .. }) = &renewal {
            services.chaos.reached(Window::Renewed);
        }
        Ok(renewal)
    }

    fn confirm(&mut self, publication_id: Uuid) {
        self.unwritten.push(publication_id);
    }

    fn written(&mut self) -> Vec<Uuid> {
        Vec::new()
    }

    fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    async fn flush(&mut self) -> Result<(), Injected> {
        let Self { services, unwritten, .. } = self;
        if unwritten.is_empty() {
            return Ok(());
        }
        if services.chaos.is_late() {
            return Err(services.send_late(Late::Confirm(unwritten.clone())));
        }
        let confirm = async {
            services.store.confirm(unwritten);
            Ok(())
        };
        services.chaos.call(confirm).await?;
        unwritten.clear();
        Ok(())
    }
}

/// What a store with a planted bug would make of the request.
fn distorted(services: &Services, request: &ClaimRequest) -> ClaimRequest {
    let mut request = request.clone();
    if services.chaos.has(Bug::EpochIgnored) {
        let progress = services.progress();
        for (span, _) in &mut request.spans {
            let progress = progress[&span.partition];
            span.epoch = progress.epoch;
            span.first_offset = progress.next_offset.unwrap_or(span.first_offset);
        }
    }
    if services.chaos.has(Bug::SkipByPosition) {
        let mut renamed = services.broker.renamed.lock().unwrap_or_else(PoisonError::into_inner);
        for wanted in &mut request.wanted {
            let Some((signal_id, _)) = wanted.text.signal_id.split_once('#') else { continue };
            let name = format!("{} {} {signal_id}", services.terms.deployment, wanted.ticker);
            let id = Uuid::new_v5(&wanted.pipeline_id, name.as_bytes());
            renamed.insert(wanted.text.trigger_id, id);
            wanted.text.trigger_id = id;
        }
    }
    if services.chaos.has(Bug::NoConflictKey) {
        let mut renamed = services.broker.renamed.lock().unwrap_or_else(PoisonError::into_inner);
        for wanted in &mut request.wanted {
            // Of the record, not of the signal: so a signal that is sent again is a new one.
            let place = format!("{} {}", wanted.partition, wanted.offset);
            let id = Uuid::new_v5(&wanted.text.trigger_id, place.as_bytes());
            renamed.insert(wanted.text.trigger_id, id);
            wanted.text.trigger_id = id;
        }
    }
    request
}

pub(crate) struct FaultyQueue(Services);

impl TaskQueue for FaultyQueue {
    type Error = Injected;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), Injected> {
        let Self(services) = self;
        let mut publication = publication.clone();
        if services.chaos.has(Bug::OldExpires) {
            // Never renewed: what it carries is as old as its claim.
            let first = services.broker.first_expires(&publication);
            publication.expires = first;
            publication.publish_by = publish_by(tokio::time::Instant::now(), services.terms.lease);
        }
        if services.chaos.is_late() {
            return Err(services.send_late(Late::Enqueue(publication)));
        }
        if services.broker.is_down() {
            services.chaos.delay().await;
            return Err(Injected(Fault::BrokerOutage));
        }
        let push = async { Ok(services.broker.push(&publication)) };
        let result = services.chaos.call(push).await.and_then(std::convert::identity);
        if services.chaos.has(Bug::PublishErrorSwallowed) { Ok(()) } else { result }
    }

    async fn has(&mut self, publication: Uuid) -> Result<Option<bool>, Injected> {
        let Self(services) = self;
        if services.broker.is_down() {
            return Err(Injected(Fault::BrokerOutage));
        }
        let mut queue = services.broker.queue.clone();
        services.chaos.call(async { Ok(queue.has(publication).await.unwrap_or(None)) }).await
    }
}
