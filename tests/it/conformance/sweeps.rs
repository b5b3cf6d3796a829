//! What the sweepers may ask of every store: to take up what nobody confirmed, and to retry or give up what never started.

use std::cell::Cell;
use std::time::Duration;

use trigger_dispatcher::store::memory::{MemoryClaims, MemoryStore, PublicationState};
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::sweep::{Retried, retry, take_up, unstarted};
use trigger_dispatcher::store::{Claims, Database, Verdict, migrate};
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
}

const LEASE: Duration = Duration::from_secs(900);
const PATIENCE: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ATTEMPTS: i32 = 2;
const NOBODY: [Uuid; 0] = [];

/// A store whose time passes when the test says so.
trait World: Sized {
    type Claims: Claims;
    async fn create() -> Self;
    fn claims(&self) -> Self::Claims;
    async fn take_up(&self) -> Vec<Publication>;
    async fn unstarted(&self) -> Vec<(Uuid, i32)>;
    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried;
    async fn start_execution(&self, id: Uuid, pipeline: Uuid);
    /// Publications that were given up.
    async fn lapsed(&self) -> usize;
    async fn age(&self, seconds: i64);
    /// Seconds until then, by the store's clock.
    fn left(&self, publication: &Publication) -> i64;
}

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(0) };
}

struct Memory(MemoryStore);

impl World for Memory {
    type Claims = MemoryClaims;

    async fn create() -> Self {
        NOW_MS.set(1_700_000_000_000);
        Self(MemoryStore::with_clock(|| NOW_MS.get()))
    }

    fn claims(&self) -> MemoryClaims {
        self.0.claims(LEASE)
    }

    async fn take_up(&self) -> Vec<Publication> {
        self.0.take_up(PATIENCE, LEASE)
    }

    async fn unstarted(&self) -> Vec<(Uuid, i32)> {
        self.0.unstarted(START_TIMEOUT)
    }

    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried {
        self.0.retry(seen, LEASE, MAX_ATTEMPTS)
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid) {
        self.0.start_execution(id, pipeline, None);
    }

    async fn lapsed(&self) -> usize {
        self.0.publications().values().filter(|state| **state == PublicationState::Lapsed).count()
    }

    async fn age(&self, seconds: i64) {
        NOW_MS.set(NOW_MS.get() + seconds * 1_000);
    }

    fn left(&self, publication: &Publication) -> i64 {
        publication.expires.as_second() - NOW_MS.get() / 1_000
    }
}

struct Postgres {
    database: TestDatabase,
    store: Database,
    terms: ClaimTerms,
}

impl World for Postgres {
    type Claims = PostgresClaims;

    async fn create() -> Self {
        let database = TestDatabase::create().await;
        let mut config = config("redis://unused/0", Some(&database));
        config.trigger.lease = LEASE;
        let store = Database::new(&config.postgres);
        migrate::migrate(&store).await.unwrap();
        Self { database, store, terms: ClaimTerms::new(&config) }
    }

    fn claims(&self) -> PostgresClaims {
        PostgresClaims::new(self.store.clone(), self.terms.clone())
    }

    async fn take_up(&self) -> Vec<Publication> {
        take_up(&self.store.connect().await.unwrap(), PATIENCE, LEASE).await.unwrap()
    }

    async fn unstarted(&self) -> Vec<(Uuid, i32)> {
        unstarted(&self.store.connect().await.unwrap(), START_TIMEOUT).await.unwrap()
    }

    async fn retry(&self, seen: &[(Uuid, i32)]) -> Retried {
        retry(&self.store.connect().await.unwrap(), seen, LEASE, MAX_ATTEMPTS).await.unwrap()
    }

    async fn start_execution(&self, id: Uuid, pipeline: Uuid) {
        let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'RUNNING')";
        self.database.client.execute(sql, &[&id, &pipeline]).await.unwrap();
    }

    async fn lapsed(&self) -> usize {
        let count = self.database.number("select count(*) from dispatcher.publications where lapsed_at is not null").await;
        usize::try_from(count).unwrap()
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
            earlier("dispatcher.triggers", &["claimed_at", "leased_until"]),
            earlier("executions", &["created_at"]),
        ];
        self.database.client.batch_execute(&sql.concat()).await.unwrap();
    }

    fn left(&self, publication: &Publication) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the lease is compared with the time of day")]
        let now = jiff::Timestamp::now();
        publication.expires.as_second() - now.as_second()
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
        let mut claims = world.claims();
        let start = held(&claims.open(&[0]).await.unwrap()[0]);
        Self { world, claims, start, next_offset: 0 }
    }

    /// One batch of one record that wants these pipelines.
    async fn publish(&mut self, pipelines: &[Uuid]) -> Published {
        let offset = self.next_offset;
        self.next_offset += 1;
        let request = request(self.start, offset, pipelines);
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
    assert!((870..=900).contains(&left), "{left}");
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
    assert_eq!(claimer.world.unstarted().await, [], "its time began when the broker had it");
    claimer.world.age(2).await;
    assert_eq!(claimer.world.unstarted().await, [(published.won[0], 1)]);
}

async fn a_task_that_nobody_confirmed_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    claimer.publish(&pipelines::<1>()).await;
    claimer.world.age(100).await;
    assert_eq!(claimer.world.unstarted().await, [], "it is taken up instead");
}

async fn a_task_that_left_a_trace_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<3>();
    let published = claimer.enqueue(&slots).await;
    claimer.world.age(61).await;
    claimer.world.start_execution(published.won[0], slots[0]).await;
    claimer.world.start_execution(Uuid::new_v4(), slots[1]).await;
    assert_eq!(claimer.world.unstarted().await, [(published.won[2], 1)]);
}

async fn a_task_whose_lease_has_ended_is_not_unstarted<W: World>(claimer: &mut Claimer<W>) {
    claimer.enqueue(&pipelines::<1>()).await;
    claimer.world.age(901).await;
    assert_eq!(claimer.world.unstarted().await, [], "workers throw it away");
}

async fn a_retry_is_a_new_attempt_with_a_publication_and_a_lease_of_its_own<W: World>(claimer: &mut Claimer<W>) {
    let slots = pipelines::<2>();
    let published = claimer.enqueue(&slots).await;
    claimer.world.age(800).await;
    let mut seen = claimer.world.unstarted().await;
    seen.sort_unstable_by_key(|(id, _)| published.won.iter().position(|won| won == id));
    assert_eq!(seen, [(published.won[0], 1), (published.won[1], 1)]);
    let Retried { publication, failed } = claimer.world.retry(&seen).await;
    assert_eq!(failed, NOBODY);
    assert_ne!(publication.id, published.id, "or the broker would take it for a repetition");
    let mut tasks: Vec<_> = publication.tasks.iter().map(|task| (task.trigger_id, task.kwargs.clone())).collect();
    tasks.sort_unstable_by_key(|(id, _)| published.won.iter().position(|won| won == id));
    let expected: Vec<_> = published.won.iter().copied().zip(slots.iter().map(|slot| kwargs(slot, 0))).collect();
    assert_eq!(tasks, expected);
    let left = claimer.world.left(&publication);
    assert!((870..=900).contains(&left), "{left}");

    assert_eq!(claimer.world.unstarted().await, [], "nobody has confirmed it yet");
    claimer.confirm(publication.id).await;
    claimer.world.age(59).await;
    assert_eq!(claimer.world.unstarted().await, []);
    claimer.world.age(2).await;
    let mut seen = claimer.world.unstarted().await;
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
    assert_eq!(claimer.world.retry(&[(published.won[0], 3)]).await.failed, NOBODY, "nor an attempt that is still to come");
}

async fn after_the_last_attempt_a_trigger_is_given_up_once_and_keeps_its_slot_until_its_lease_ends<W: World>(
    claimer: &mut Claimer<W>,
) {
    let slot = pipelines::<1>();
    let published = claimer.enqueue(&slot).await;
    let again = claimer.world.retry(&[(published.won[0], 1)]).await.publication;
    claimer.confirm(again.id).await;
    claimer.world.age(61).await;
    let seen = claimer.world.unstarted().await;
    assert_eq!(seen, [(published.won[0], 2)]);
    let given_up = claimer.world.retry(&seen).await;
    assert_eq!((given_up.publication.tasks.len(), given_up.failed), (0, published.won));
    assert_eq!(claimer.world.retry(&seen).await.failed, NOBODY, "it is given up once");
    assert_eq!(claimer.world.unstarted().await, []);
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
    assert_eq!((both.failed, retried), (vec![published.won[0]], vec![published.won[1]]));
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
    assert_eq!(claimer.world.unstarted().await, [(new.won[0], 1)]);
}

async fn a_trigger_that_nobody_knows_is_neither_retried_nor_given_up<W: World>(claimer: &mut Claimer<W>) {
    let retried = claimer.world.retry(&[(Uuid::new_v4(), 1)]).await;
    assert_eq!((retried.publication.tasks.len(), retried.failed.len()), (0, 0));
    claimer.world.age(11).await;
    assert_eq!(claimer.taken_up().await, [], "no empty publication is left behind");
}
