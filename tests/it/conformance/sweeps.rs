//! What the sweepers may ask of every store: to take up what nobody confirmed, and to retry or give up what never started.

use std::cell::Cell;
use std::time::Duration;

use trigger_dispatcher::store::deployment::register;
use trigger_dispatcher::store::memory::{MemoryClaims, MemoryStore, MemoryTerms, PublicationState};
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::sweep::{LeaseTerms, Retried, give_up, release, retry, take_up, unstarted};
use trigger_dispatcher::store::{Claims, Database, GivenUp, Renewal, TakenUp, Verdict, migrate};
use trigger_dispatcher::tasks::Publication;
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{Held, held, kwargs, request};
use crate::support::settings::config;

// On one thread each: the clock of the memory is the thread's.
macro_rules! conformance {
    ($($test:ident)*) => {
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&mut super::Claimer::<super::Postgres>::create().await).await;
            })*
        }
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&mut super::Claimer::<super::Memory>::create().await).await;
            })*
        }
    };
}

conformance! {
    an_unconfirmed_publication_is_taken_up_after_the_patience_whole
    what_is_taken_up_has_a_new_lease
    a_sweeper_that_dies_leaves_the_publication_to_the_next
    a_confirmed_publication_is_never_taken_up
    a_slot_that_has_passed_on_is_left_alone_and_the_publication_lapses
    a_task_that_was_over_before_its_confirmation_has_not_lapsed
    what_is_left_of_a_publication_is_taken_up
    a_round_takes_the_oldest_fifty_and_the_next_one_the_rest
    a_task_without_a_trace_is_unstarted_after_its_time
    a_task_that_nobody_confirmed_is_not_unstarted
    a_task_that_left_a_trace_is_not_unstarted
    a_task_whose_lease_has_ended_is_not_unstarted
    a_retry_is_a_new_attempt_with_a_publication_and_a_lease_of_its_own
    a_retry_that_nobody_confirmed_is_taken_up_in_its_own_publication
    of_two_sweepers_that_have_seen_the_same_attempt_one_retries_it
    after_the_last_attempt_a_trigger_is_given_up_once_and_keeps_its_slot_until_its_lease_ends
    some_are_retried_while_others_are_given_up
    a_trigger_whose_slot_has_passed_on_is_neither_retried_nor_given_up
    a_trigger_that_nobody_knows_is_neither_retried_nor_given_up
    what_another_deployment_claimed_is_left_to_it
    a_signal_that_is_too_old_by_now_is_given_up_and_frees_its_slot_if_the_broker_has_not_got_it
    a_signal_that_is_too_old_by_now_keeps_its_slot_where_the_broker_may_have_it
    a_retry_of_a_signal_that_is_too_old_by_now_is_given_up
    a_task_that_has_started_is_not_published_again
    the_loop_renews_its_own_entry_and_leaves_an_aged_one_to_the_sweepers
    a_result_of_the_only_attempt_frees_the_slot
    a_result_that_may_be_of_an_earlier_attempt_frees_nothing
    an_expiry_of_a_task_that_was_taken_up_frees_nothing
}

const LEASE: Duration = Duration::from_secs(900);
const MARGIN: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_secs(3_600);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ATTEMPTS: i32 = 2;
const NOBODY: [Uuid; 0] = [];
/// The deployment of most tests, and one beside it.
const OURS: i32 = 1;
const OTHERS: i32 = 2;

/// A store whose time passes when the test says so.
trait World: Sized {
    type Claims: Claims;
    async fn create() -> Self;
    fn claims(&self, deployment: i32) -> Self::Claims;
    async fn taken(&self, deployment: i32) -> Vec<TakenUp>;
    async fn unstarted(&self, deployment: i32) -> Vec<(Uuid, i32)>;
    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried;
    async fn release(&self, ended: &[Uuid], revoked: &[Uuid]);
    async fn give_up(&self, entry: Uuid, stale: &[Uuid], is_absent: bool);
    async fn start_execution(&self, id: Uuid, pipeline: Uuid);
    async fn finish_execution(&self, id: Uuid, pipeline: Uuid);
    /// Publications that were given up.
    async fn lapsed(&self) -> usize;
    /// Triggers that were given up because their signal was too old.
    async fn given_up(&self) -> usize;
    async fn age(&self, seconds: i64);
    /// The time of day, by the store's clock, in milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// What is to be published now, of our deployment.
    async fn take_up(&self) -> Vec<Publication> {
        self.taken(OURS).await.into_iter().map(|taken| taken.publication).collect()
    }
    /// Seconds until a publication's tasks expire.
    fn left(&self, publication: &Publication) -> i64 {
        publication.expires.as_second() - self.now_ms() / 1_000
    }
}

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(0) };
}

struct Memory(MemoryStore);

fn memory_terms(deployment: i32) -> MemoryTerms {
    MemoryTerms { deployment, lease: LEASE, margin: MARGIN, max_age: Some(MAX_AGE) }
}

impl World for Memory {
    type Claims = MemoryClaims;

    async fn create() -> Self {
        NOW_MS.set(1_700_000_000_000);
        Self(MemoryStore::with_clock(|| NOW_MS.get()))
    }

    fn claims(&self, deployment: i32) -> MemoryClaims {
        self.0.claims_of(&memory_terms(deployment))
    }

    async fn taken(&self, deployment: i32) -> Vec<TakenUp> {
        self.0.take_up(&memory_terms(deployment))
    }

    async fn unstarted(&self, deployment: i32) -> Vec<(Uuid, i32)> {
        self.0.unstarted(&memory_terms(deployment), START_TIMEOUT)
    }

    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried {
        self.0.retry(&memory_terms(OURS), seen, MAX_ATTEMPTS)
    }

    async fn release(&self, ended: &[Uuid], revoked: &[Uuid]) {
        self.0.release(ended, revoked);
    }

    async fn give_up(&self, entry: Uuid, stale: &[Uuid], is_absent: bool) {
        self.0.give_up(entry, stale, is_absent, true);
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid) {
        self.0.start_execution(id, pipeline, None);
    }

    async fn finish_execution(&self, id: Uuid, pipeline: Uuid) {
        self.0.finish_execution(id, pipeline);
    }

    async fn lapsed(&self) -> usize {
        self.0.publications().values().filter(|state| **state == PublicationState::Lapsed).count()
    }

    async fn given_up(&self) -> usize {
        self.0.ledger().values().filter(|trigger| trigger.given_up == Some(GivenUp::Stale)).count()
    }

    async fn age(&self, seconds: i64) {
        NOW_MS.set(NOW_MS.get() + seconds * 1_000);
    }

    fn now_ms(&self) -> i64 {
        NOW_MS.get()
    }
}

struct Postgres {
    database: TestDatabase,
    store: Database,
    terms: ClaimTerms,
    /// Of our deployment and the one beside it.
    lease_terms: [LeaseTerms; 2],
}

impl Postgres {
    fn of(&self, deployment: i32) -> &LeaseTerms {
        &self.lease_terms[usize::try_from(deployment - 1).unwrap()]
    }

    fn claim_terms(&self, deployment: i32) -> ClaimTerms {
        let mut terms = self.terms.clone();
        if deployment == OTHERS {
            "another topic".clone_into(&mut terms.key.topic);
        }
        terms
    }
}

impl World for Postgres {
    type Claims = PostgresClaims;

    async fn create() -> Self {
        let database = TestDatabase::create().await;
        let mut config = config("redis://unused/0", Some(&database));
        config.trigger.lease = LEASE;
        config.trigger.lease_margin = MARGIN;
        config.trigger.max_signal_age = Some(MAX_AGE);
        let store = Database::new(&config.postgres);
        migrate::migrate(&store).await.unwrap();
        let connection = store.connect().await.unwrap();
        let terms = ClaimTerms::new(&config);
        let ours = register(&connection, &terms.key).await.unwrap();
        let lease_terms = [(); 2].map(|()| LeaseTerms::new(ours.clone(), &config.trigger, terms.evidence.clone()));
        let mut world = Self { database, store, terms, lease_terms };
        world.lease_terms[1].deployment = register(&connection, &world.claim_terms(OTHERS).key).await.unwrap();
        world
    }

    fn claims(&self, deployment: i32) -> PostgresClaims {
        PostgresClaims::new(self.store.clone(), self.claim_terms(deployment))
    }

    async fn taken(&self, deployment: i32) -> Vec<TakenUp> {
        take_up(&self.store.connect().await.unwrap(), self.of(deployment)).await.unwrap()
    }

    async fn unstarted(&self, deployment: i32) -> Vec<(Uuid, i32)> {
        unstarted(&self.store.connect().await.unwrap(), self.of(deployment), START_TIMEOUT).await.unwrap()
    }

    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried {
        retry(&self.store.connect().await.unwrap(), self.of(OURS), seen, MAX_ATTEMPTS).await.unwrap()
    }

    async fn release(&self, ended: &[Uuid], revoked: &[Uuid]) {
        release(&self.store.connect().await.unwrap(), ended, revoked).await.unwrap();
    }

    async fn give_up(&self, entry: Uuid, stale: &[Uuid], is_absent: bool) {
        give_up(&self.store.connect().await.unwrap(), entry, stale, is_absent, true).await.unwrap();
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid) {
        let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'RUNNING')";
        self.database.client.execute(sql, &[&id, &pipeline]).await.unwrap();
    }

    async fn finish_execution(&self, id: Uuid, _pipeline: Uuid) {
        self.database.client.execute("update executions set status = 'COMPLETED' where id = $1", &[&id]).await.unwrap();
    }

    async fn lapsed(&self) -> usize {
        let count = self.database.number("select count(*) from dispatcher.publications where lapsed_at is not null").await;
        usize::try_from(count).unwrap()
    }

    async fn given_up(&self) -> usize {
        let sql = "select count(*) from dispatcher.triggers where failed_at is not null and given_up = 'stale'";
        usize::try_from(self.database.number(sql).await).unwrap()
    }

    async fn age(&self, seconds: i64) {
        // The database's clock cannot be set: everything happened that much earlier instead.
        let earlier = |table: &str, columns: &[&str]| {
            let columns: Vec<_> = columns.iter().map(|column| format!("{column} = {column} - interval '{seconds} s'")).collect();
            format!("update {table} set {};", columns.join(", "))
        };
        let sql = [
            earlier("dispatcher.publications", &["claimed_at", "swept_at", "enqueued_at"]),
            earlier("dispatcher.slots", &["claimed_at", "leased_until"]),
            earlier("dispatcher.triggers", &["claimed_at", "leased_until", "signal_time"]),
            earlier("executions", &["created_at"]),
        ];
        self.database.client.batch_execute(&sql.concat()).await.unwrap();
    }

    fn now_ms(&self) -> i64 {
        trigger_dispatcher::clock::unix_ms()
    }
}

/// A world with one dispatcher that claims.
struct Claimer<W: World> {
    world: W,
    claims: W::Claims,
    start: Held,
    next_offset: i64,
}

/// What a batch of one record has won.
struct Published {
    id: Uuid,
    /// In the order of their slots.
    won: Vec<Uuid>,
}

impl<W: World> Claimer<W> {
    async fn create() -> Self {
        let world = W::create().await;
        let mut claims = world.claims(OURS);
        let start = held(&claims.open(&[0]).await.unwrap()[0]);
        Self { world, claims, start, next_offset: 0 }
    }

    /// One batch of one record that wants these pipelines.
    async fn publish(&mut self, pipelines: &[Uuid]) -> Published {
        let offset = self.next_offset;
        self.next_offset += 1;
        let mut request = request(self.start, offset, pipelines);
        request.wanted.iter_mut().for_each(|wanted| wanted.record_time_ms = self.world.now_ms());
        match self.claims.claim(&request).await.unwrap() {
            Verdict::Claimed(claimed) => {
                let won = claimed.won.iter().map(|won| request.wanted[*won].text.trigger_id).collect();
                Published { id: request.publication_id, won }
            }
            other => panic!("expected a decision, got {other:?}"),
        }
    }

    async fn confirm(&mut self, publication: Uuid) {
        self.claims.confirm(publication);
        self.claims.flush().await.unwrap();
    }

    /// As [`Claimer::publish`], and the broker has it.
    async fn enqueue(&mut self, pipelines: &[Uuid]) -> Published {
        let published = self.publish(pipelines).await;
        self.confirm(published.id).await;
        published
    }

    /// The tasks of what a round takes up, by publication.
    async fn taken_up(&self) -> Vec<(Uuid, Vec<Uuid>)> {
        let ids = |found: &Publication| (found.id, found.tasks.iter().map(|task| task.trigger_id).collect());
        let mut found: Vec<_> = self.world.take_up().await.iter().map(ids).collect();
        found.sort_unstable();
        found
    }
}

fn pipelines<const N: usize>() -> [Uuid; N] {
    let mut ids = [(); N].map(|()| Uuid::new_v4());
    ids.sort_unstable();
    ids
}

async fn an_unconfirmed_publication_is_taken_up_after_the_patience_whole<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<3>();
    let published = claimer.publish(&slots).await;
    assert_eq!(claimer.taken_up().await, [], "its own instance has time to publish it");
    claimer.world.age(11).await;
    let found = claimer.world.take_up().await;
    assert_eq!((found.len(), found[0].id), (1, published.id));
    let tasks: Vec<_> = found[0].tasks.iter().map(|task| (task.trigger_id, task.kwargs.clone())).collect();
    let expected: Vec<_> = published.won.into_iter().zip(slots.iter().map(|slot| kwargs(slot, 0))).collect();
    assert_eq!(tasks, expected, "the tasks are the very ones");
}

async fn what_is_taken_up_has_a_new_lease<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    claimer.publish(&slots).await;
    claimer.world.age(800).await;
    let found = claimer.world.take_up().await;
    let left = claimer.world.left(&found[0]);
    // A lease less the margin.
    assert!((810..=840).contains(&left), "{left}");
    // A late task must not run beside another: its slot is held as long.
    claimer.world.age(800).await;
    assert_eq!(claimer.publish(&slots).await.won, NOBODY);
    claimer.world.age(101).await;
    assert_eq!(claimer.publish(&slots).await.won.len(), 2);
}

async fn a_sweeper_that_dies_leaves_the_publication_to_the_next<W: World>(claimer: &mut Claimer<W>) {
    let published = claimer.publish(&pipelines::<1>()).await;
    claimer.world.age(11).await;
    let expected = [(published.id, published.won)];
    assert_eq!(claimer.taken_up().await, expected);
    assert_eq!(claimer.taken_up().await, [], "taken up a moment ago");
    claimer.world.age(11).await;
    assert_eq!(claimer.taken_up().await, expected);
}

async fn a_confirmed_publication_is_never_taken_up<W: World>(claimer: &mut Claimer<W>) {
    claimer.enqueue(&pipelines::<1>()).await;
    let with_the_next_claim = claimer.publish(&pipelines::<1>()).await;
    claimer.claims.confirm(with_the_next_claim.id);
    let unconfirmed = claimer.publish(&pipelines::<1>()).await;
    claimer.world.age(100).await;
    assert_eq!(claimer.taken_up().await, [(unconfirmed.id, unconfirmed.won)]);
}

async fn a_slot_that_has_passed_on_is_left_alone_and_the_publication_lapses<W: World>(claimer: &mut Claimer<W>) {
    let slot = pipelines::<1>();
    let old = claimer.publish(&slot).await;
    // Nobody published it before its lease ran out, and a newer signal has the slot.
    claimer.world.age(901).await;
    let new = claimer.publish(&slot).await;
    assert_eq!(new.won.len(), 1);
    assert_eq!(claimer.taken_up().await, [(old.id, vec![])], "there is nothing to publish");
    assert_eq!(claimer.world.lapsed().await, 1);
    // It is given up for good; the newer one is not, and its lease is its own.
    claimer.world.age(11).await;
    assert_eq!(claimer.taken_up().await, [(new.id, new.won)]);
    assert_eq!(claimer.world.lapsed().await, 1);
}

async fn a_task_that_was_over_before_its_confirmation_has_not_lapsed<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    let (old, unseen) = (claimer.publish(&slots[..1]).await, claimer.publish(&slots[1..]).await);
    claimer.world.start_execution(old.won[0], slots[0]).await;
    claimer.world.finish_execution(old.won[0], slots[0]).await;
    // Only the result backend knows that the other one is over.
    claimer.world.release(&unseen.won, &NOBODY).await;
    assert_eq!(claimer.enqueue(&slots).await.won.len(), 2);
    claimer.world.age(11).await;
    let taken = claimer.world.taken(OURS).await;
    let of = |id: Uuid| {
        let taken = taken.iter().find(|taken| taken.publication.id == id).unwrap();
        (taken.publication.tasks.len(), taken.is_started, taken.gone.clone())
    };
    assert_eq!(of(old.id), (0, true, vec![]), "it was started");
    assert_eq!(of(unseen.id), (0, false, unseen.won), "somebody else may know");
    assert_eq!(claimer.world.lapsed().await, 1);
}

async fn what_is_left_of_a_publication_is_taken_up<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<3>();
    let old = claimer.publish(&slots).await;
    claimer.world.age(901).await;
    assert_eq!(claimer.enqueue(&slots[1..2]).await.won.len(), 1);
    assert_eq!(claimer.taken_up().await, [(old.id, vec![old.won[0], old.won[2]])]);
    assert_eq!(claimer.world.lapsed().await, 0);
}

async fn a_round_takes_the_oldest_fifty_and_the_next_one_the_rest<W: World>(claimer: &mut Claimer<W>) {
    let mut published = Vec::new();
    for _ in 0..60 {
        let one = claimer.publish(&pipelines::<1>()).await;
        published.push((one.id, one.won));
    }
    claimer.world.age(11).await;
    for expected in [&mut published[..50].to_vec(), &mut published[50..].to_vec()] {
        expected.sort_unstable();
        assert_eq!(claimer.taken_up().await, *expected);
    }
    assert_eq!(claimer.taken_up().await, []);
}

async fn a_task_without_a_trace_is_unstarted_after_its_time<W: World>(claimer: &mut Claimer<W>) {
    let published = claimer.publish(&pipelines::<1>()).await;
    claimer.world.age(59).await;
    claimer.confirm(published.id).await;
    claimer.world.age(59).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [], "its time began when the broker had it");
    claimer.world.age(2).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [(published.won[0], 1)]);
}

async fn a_task_that_nobody_confirmed_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    claimer.publish(&pipelines::<1>()).await;
    claimer.world.age(100).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [], "it is taken up instead");
}

async fn a_task_that_left_a_trace_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<3>();
    let published = claimer.enqueue(&slots).await;
    claimer.world.age(61).await;
    claimer.world.start_execution(published.won[0], slots[0]).await;
    claimer.world.start_execution(Uuid::new_v4(), slots[1]).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [(published.won[2], 1)]);
}

async fn a_task_whose_lease_has_ended_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    claimer.enqueue(&pipelines::<1>()).await;
    claimer.world.age(901).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [], "workers throw it away");
}

async fn a_retry_is_a_new_attempt_with_a_publication_and_a_lease_of_its_own<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    let published = claimer.enqueue(&slots).await;
    claimer.world.age(800).await;
    let mut seen = claimer.world.unstarted(OURS).await;
    seen.sort_unstable_by_key(|(id, _)| published.won.iter().position(|won| won == id));
    assert_eq!(seen, [(published.won[0], 1), (published.won[1], 1)]);
    let Retried { publication, failed } = claimer.world.retry(&seen).await;
    assert_eq!(failed, []);
    assert_ne!(publication.id, published.id, "or the broker would take it for a repetition");
    let mut tasks: Vec<_> = publication.tasks.iter().map(|task| (task.trigger_id, task.kwargs.clone())).collect();
    tasks.sort_unstable_by_key(|(id, _)| published.won.iter().position(|won| won == id));
    let expected: Vec<_> = published.won.iter().copied().zip(slots.iter().map(|slot| kwargs(slot, 0))).collect();
    assert_eq!(tasks, expected);
    let left = claimer.world.left(&publication);
    assert!((810..=840).contains(&left), "{left}");

    assert_eq!(claimer.world.unstarted(OURS).await, [], "nobody has confirmed it yet");
    claimer.confirm(publication.id).await;
    claimer.world.age(59).await;
    assert_eq!(claimer.world.unstarted(OURS).await, []);
    claimer.world.age(2).await;
    let mut seen = claimer.world.unstarted(OURS).await;
    seen.sort_unstable_by_key(|(id, _)| published.won.iter().position(|won| won == id));
    assert_eq!(seen, [(published.won[0], 2), (published.won[1], 2)]);
    // 861 s after the claim, and 61 s after the retry.
    claimer.world.age(800).await;
    assert_eq!(claimer.publish(&slots).await.won, NOBODY, "the slots are held as long as the new lease");
}

async fn a_retry_that_nobody_confirmed_is_taken_up_in_its_own_publication<W: World>(claimer: &mut Claimer<W>) {
    let published = claimer.publish(&pipelines::<2>()).await;
    let again = claimer.world.retry(&[(published.won[0], 1)]).await.publication;
    assert_eq!(claimer.taken_up().await, [], "whoever retries it publishes it");
    claimer.world.age(11).await;
    let mut expected = [(published.id, vec![published.won[1]]), (again.id, vec![published.won[0]])];
    expected.sort_unstable();
    assert_eq!(claimer.taken_up().await, expected);
}

async fn of_two_sweepers_that_have_seen_the_same_attempt_one_retries_it<W: World>(claimer: &mut Claimer<W>) {
    let published = claimer.enqueue(&pipelines::<1>()).await;
    let seen = [(published.won[0], 1)];
    assert_eq!(claimer.world.retry(&seen).await.publication.tasks.len(), 1);
    let second = claimer.world.retry(&seen).await;
    assert_eq!((second.publication.tasks.len(), second.failed.len()), (0, 0));
    assert_eq!(claimer.world.retry(&[(published.won[0], 3)]).await.failed, [], "nor an attempt that is still to come");
}

async fn after_the_last_attempt_a_trigger_is_given_up_once_and_keeps_its_slot_until_its_lease_ends<W: World>(
    claimer: &mut Claimer<W>,
) {
    let slot = pipelines::<1>();
    let published = claimer.enqueue(&slot).await;
    let again = claimer.world.retry(&[(published.won[0], 1)]).await.publication;
    claimer.confirm(again.id).await;
    claimer.world.age(61).await;
    let seen = claimer.world.unstarted(OURS).await;
    assert_eq!(seen, [(published.won[0], 2)]);
    let given_up = claimer.world.retry(&seen).await;
    assert_eq!((given_up.publication.tasks.len(), given_up.failed), (0, vec![(published.won[0], GivenUp::NeverStarted)]));
    assert_eq!(claimer.world.retry(&seen).await.failed, [], "it is given up once");
    assert_eq!(claimer.world.unstarted(OURS).await, []);
    // Its last task may wait in a long queue, and workers may start it until it expires.
    claimer.world.age(800).await;
    assert_eq!(claimer.publish(&slot).await.won, NOBODY);
    assert_eq!(claimer.taken_up().await, [], "nothing was published");
    claimer.world.age(40).await;
    assert_eq!(claimer.publish(&slot).await.won.len(), 1);
}

async fn some_are_retried_while_others_are_given_up<W: World>(claimer: &mut Claimer<W>) {
    let published = claimer.enqueue(&pipelines::<2>()).await;
    let again = claimer.world.retry(&[(published.won[0], 1)]).await.publication;
    claimer.confirm(again.id).await;
    let both = claimer.world.retry(&[(published.won[0], 2), (published.won[1], 1)]).await;
    let retried: Vec<_> = both.publication.tasks.iter().map(|task| task.trigger_id).collect();
    assert_eq!((both.failed, retried), (vec![(published.won[0], GivenUp::NeverStarted)], vec![published.won[1]]));
}

async fn a_trigger_whose_slot_has_passed_on_is_neither_retried_nor_given_up<W: World>(claimer: &mut Claimer<W>) {
    let slot = pipelines::<1>();
    let old = claimer.enqueue(&slot).await;
    claimer.world.age(901).await;
    let new = claimer.enqueue(&slot).await;
    assert_eq!(new.won.len(), 1);
    for attempt in 1..=MAX_ATTEMPTS {
        let retried = claimer.world.retry(&[(old.won[0], attempt)]).await;
        assert_eq!((retried.publication.tasks.len(), retried.failed.len()), (0, 0));
    }
    claimer.world.age(61).await;
    assert_eq!(claimer.world.unstarted(OURS).await, [(new.won[0], 1)]);
}

async fn a_trigger_that_nobody_knows_is_neither_retried_nor_given_up<W: World>(claimer: &mut Claimer<W>) {
    let retried = claimer.world.retry(&[(Uuid::new_v4(), 1)]).await;
    assert_eq!((retried.publication.tasks.len(), retried.failed.len()), (0, 0));
    claimer.world.age(11).await;
    assert_eq!(claimer.taken_up().await, [], "no empty publication is left behind");
}

async fn what_another_deployment_claimed_is_left_to_it<W: World>(claimer: &mut Claimer<W>) {
    let mut others = claimer.world.claims(OTHERS);
    let start = held(&others.open(&[0]).await.unwrap()[0]);
    let slots = pipelines::<1>();
    let unpublished = request(start, 0, &slots);
    assert!(matches!(others.claim(&unpublished).await.unwrap(), Verdict::Claimed(done) if done.won == [0]));
    let enqueued = request(start, 1, &pipelines::<1>());
    assert!(matches!(others.claim(&enqueued).await.unwrap(), Verdict::Claimed(done) if done.won == [0]));
    others.confirm(enqueued.publication_id);
    others.flush().await.unwrap();
    claimer.world.age(100).await;

    assert_eq!(claimer.world.taken(OURS).await, []);
    assert_eq!(claimer.world.unstarted(OURS).await, []);
    assert_eq!(claimer.publish(&slots).await.won, NOBODY, "slots are shared");

    let taken = claimer.world.taken(OTHERS).await;
    assert_eq!(taken.iter().map(|taken| taken.publication.id).collect::<Vec<_>>(), [unpublished.publication_id]);
    assert_eq!(claimer.world.unstarted(OTHERS).await, [(enqueued.wanted[0].text.trigger_id, 1)]);
}

async fn a_signal_that_is_too_old_by_now_is_given_up_and_frees_its_slot_if_the_broker_has_not_got_it<W: World>(
    claimer: &mut Claimer<W>,
) {
    let slot = pipelines::<1>();
    let old = claimer.publish(&slot).await;
    claimer.world.age(3_580).await;
    let taken = claimer.world.taken(OURS).await;
    assert_eq!((taken[0].publication.tasks.len(), &taken[0].stale), (1, &vec![]), "not yet");
    claimer.world.age(30).await;
    let taken = claimer.world.taken(OURS).await;
    assert_eq!((taken[0].publication.tasks.len(), &taken[0].stale), (0, &old.won));
    assert_eq!((claimer.world.lapsed().await, claimer.world.given_up().await), (0, 0), "the broker is asked first");
    claimer.world.give_up(old.id, &old.won, true).await;
    assert_eq!((claimer.world.lapsed().await, claimer.world.given_up().await), (1, 1));
    claimer.world.age(11).await;
    assert_eq!(claimer.world.taken(OURS).await, []);
    assert_eq!(claimer.publish(&slot).await.won.len(), 1, "the slot is free, though its lease is not over");
}

async fn a_signal_that_is_too_old_by_now_keeps_its_slot_where_the_broker_may_have_it<W: World>(claimer: &mut Claimer<W>) {
    let slot = pipelines::<1>();
    let old = claimer.publish(&slot).await;
    claimer.world.age(3_580).await;
    assert_eq!(claimer.world.taken(OURS).await.len(), 1);
    claimer.world.age(30).await;
    assert_eq!(claimer.world.taken(OURS).await[0].stale, old.won);
    claimer.world.give_up(old.id, &old.won, false).await;
    assert_eq!(claimer.world.given_up().await, 1);
    assert_eq!(claimer.publish(&slot).await.won, NOBODY);
    claimer.world.age(871).await;
    assert_eq!(claimer.publish(&slot).await.won.len(), 1);
}

async fn a_retry_of_a_signal_that_is_too_old_by_now_is_given_up<W: World>(claimer: &mut Claimer<W>) {
    let slot = pipelines::<1>();
    let published = claimer.publish(&slot).await;
    claimer.world.age(3_500).await;
    assert_eq!(claimer.world.take_up().await.len(), 1);
    claimer.confirm(published.id).await;
    claimer.world.age(110).await;
    let seen = claimer.world.unstarted(OURS).await;
    assert_eq!(seen, [(published.won[0], 1)]);
    let retried = claimer.world.retry(&seen).await;
    assert_eq!((retried.publication.tasks.len(), retried.failed), (0, vec![(published.won[0], GivenUp::Stale)]));
    assert_eq!(claimer.publish(&slot).await.won, NOBODY, "its task may start until its lease ends");
}

async fn a_task_that_has_started_is_not_published_again<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    // The broker had both; nobody lived to confirm it.
    let published = claimer.publish(&slots).await;
    claimer.world.start_execution(published.won[0], slots[0]).await;
    claimer.world.finish_execution(published.won[0], slots[0]).await;
    claimer.world.age(1_300).await;
    let taken = claimer.world.taken(OURS).await;
    let tasks: Vec<_> = taken[0].publication.tasks.iter().map(|task| task.trigger_id).collect();
    assert_eq!((tasks, taken[0].is_started), (vec![published.won[1]], true));
    claimer.world.start_execution(published.won[1], slots[1]).await;
    claimer.world.age(11).await;
    let taken = claimer.world.taken(OURS).await;
    assert_eq!((taken[0].publication.tasks.len(), taken[0].is_started), (0, true));
    claimer.world.age(11).await;
    assert_eq!(claimer.world.taken(OURS).await, [], "it counts as published");
    assert_eq!((claimer.world.lapsed().await, claimer.world.given_up().await), (0, 0));
}

async fn the_loop_renews_its_own_entry_and_leaves_an_aged_one_to_the_sweepers<W: World>(claimer: &mut Claimer<W>) {
    let slot = pipelines::<1>();
    let published = claimer.publish(&slot).await;
    claimer.world.age(800).await;
    let Renewal::Taken(taken) = claimer.claims.renew(published.id).await.unwrap() else { panic!("it waits") };
    assert_eq!(taken.publication.tasks.len(), 1);
    let left = claimer.world.left(&taken.publication);
    assert!((810..=840).contains(&left), "{left}");
    assert_eq!(claimer.world.taken(OURS).await, [], "a sweeper leaves it to the loop");
    claimer.world.age(800).await;
    assert_eq!(claimer.publish(&slot).await.won, NOBODY, "the slot is held as long");

    claimer.world.age(2_100).await;
    assert_eq!(claimer.claims.renew(published.id).await.unwrap(), Renewal::Over);
    assert_eq!(claimer.world.taken(OURS).await[0].stale, published.won, "nothing has been given up");
    let confirmed = claimer.enqueue(&pipelines::<1>()).await;
    assert_eq!(claimer.claims.renew(confirmed.id).await.unwrap(), Renewal::Over);
}

async fn a_result_of_the_only_attempt_frees_the_slot<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    let published = claimer.enqueue(&slots).await;
    claimer.world.release(&published.won[..1], &published.won[1..]).await;
    assert_eq!(claimer.publish(&slots).await.won.len(), 2);
}

async fn a_result_that_may_be_of_an_earlier_attempt_frees_nothing<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    let published = claimer.enqueue(&slots).await;
    let seen: Vec<_> = published.won.iter().map(|id| (*id, 1)).collect();
    let again = claimer.world.retry(&seen).await.publication;
    claimer.confirm(again.id).await;
    claimer.world.release(&published.won[..1], &published.won[1..]).await;
    assert_eq!(claimer.publish(&slots).await.won, NOBODY);
}

async fn an_expiry_of_a_task_that_was_taken_up_frees_nothing<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    // RabbitMQ may have each task twice: whoever published first died before the confirmation.
    let published = claimer.publish(&slots).await;
    claimer.world.age(11).await;
    assert_eq!(claimer.world.take_up().await.len(), 1);
    claimer.confirm(published.id).await;
    claimer.world.release(&published.won[..1], &published.won[1..]).await;
    assert_eq!(claimer.publish(&slots).await.won, [published_for(&slots[0], claimer.next_offset - 1)], "it ran to its end");
}

/// The trigger that the record at this offset makes of a pipeline.
fn published_for(pipeline: &Uuid, offset: i64) -> Uuid {
    trigger_dispatcher::tasks::trigger_id(*pipeline, "", &format!("signal 0 {offset}"))
}
