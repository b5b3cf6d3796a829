//! What only PostgreSQL can show of the sweepers: that they race, and that all leases of a slot agree. What every store
//! promises them is in `conformance::sweeps`.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;
use trigger_dispatcher::store::deployment::register;
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::sweep::{LeaseTerms, PATIENCE, retry, take_up};
use trigger_dispatcher::store::{Claims as _, Database, Verdict, migrate};
use trigger_dispatcher::tasks::{Publication, trigger_id};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{Held, held, request};
use crate::support::settings::config;

const LEASE: Duration = Duration::from_secs(900);

struct World {
    database: TestDatabase,
    store: Database,
    lease_terms: LeaseTerms,
    claims: PostgresClaims,
    start: Held,
    next_offset: i64,
}

impl World {
    async fn create() -> Self {
        let database = TestDatabase::create().await;
        let config = config("redis://unused/0", Some(&database));
        let store = Database::new(&config.postgres);
        migrate::migrate(&store).await.unwrap();
        let terms = ClaimTerms::new(&config);
        let deployment = register(&store.connect().await.unwrap(), &terms.key).await.unwrap();
        let lease_terms = LeaseTerms {
            deployment,
            lease: LEASE,
            margin: Duration::ZERO,
            max_age: None,
            patience: PATIENCE,
            evidence: terms.evidence.clone(),
        };
        let mut claims = PostgresClaims::new(store.clone(), terms);
        let start = held(&claims.open(&[0]).await.unwrap()[0]);
        Self { database, store, lease_terms, claims, start, next_offset: 0 }
    }

    /// One batch of one record that wants these pipelines; the publication and how many it won.
    async fn publish(&mut self, pipelines: &[Uuid]) -> (Uuid, usize) {
        let offset = self.next_offset;
        self.next_offset += 1;
        let request = request(self.start, offset, pipelines);
        match self.claims.claim(&request).await.unwrap() {
            Verdict::Claimed(claimed) => (request.publication_id, claimed.won.len()),
            other => panic!("expected a decision, got {other:?}"),
        }
    }

    async fn take_up(&self) -> Vec<Publication> {
        let taken = take_up(&self.store.connect().await.unwrap(), &self.lease_terms).await.unwrap();
        taken.into_iter().map(|taken| taken.publication).collect()
    }

    /// Lets time pass, for the database's clock: everything in our tables happened that much earlier.
    async fn age(&self, seconds: i64) {
        let sql = format!(
            "update dispatcher.publications set claimed_at = claimed_at - interval '{seconds} s', swept_at = swept_at - interval '{seconds} s';
             update dispatcher.slots set claimed_at = claimed_at - interval '{seconds} s', leased_until = leased_until - interval '{seconds} s';
             update dispatcher.triggers set claimed_at = claimed_at - interval '{seconds} s', leased_until = leased_until - interval '{seconds} s'"
        );
        self.database.client.batch_execute(&sql).await.unwrap();
    }
}

fn pipelines(count: usize) -> Vec<Uuid> {
    let mut ids: Vec<_> = (0..count).map(|_| Uuid::new_v4()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_publication_is_taken_up_after_the_patience_whole() {
    let mut world = World::create().await;
    let slots = pipelines(3);
    let (publication, won) = world.publish(&slots).await;
    assert_eq!(won, 3);
    assert_eq!(world.take_up().await, [], "its own instance has time to publish it");

    world.age(11).await;
    let found = world.take_up().await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, publication);
    assert_eq!(found[0].tasks.len(), 3);
    let sent = request(world.start, 0, &slots);
    for (task, wanted) in found[0].tasks.iter().zip(&sent.wanted) {
        assert_eq!((task.trigger_id, &task.kwargs), (wanted.text.trigger_id, &wanted.text.head), "the task is the very one");
    }
    // Its lease begins anew, everywhere: a late task must neither be thrown away nor run beside another.
    let sql = "select count(*) from dispatcher.slots s join dispatcher.triggers t using (trigger_id)
        where s.leased_until = t.leased_until and s.leased_until > now() + interval '890 s'";
    assert_eq!(world.database.number(sql).await, 3);
    #[expect(clippy::disallowed_methods, reason = "the lease is compared with the time of day")]
    let left = found[0].expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((870..=930).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_outlives_a_batch_that_is_fenced() {
    let mut world = World::create().await;
    let (publication, _) = world.publish(&pipelines(1)).await;
    world.claims.confirm(publication);
    let old = request(Held { epoch: world.start.epoch - 1, ..world.start }, 1, &pipelines(1));
    assert_eq!(world.claims.claim(&old).await.unwrap(), Verdict::Fenced(vec![0]));
    if world.claims.has_unwritten() {
        world.claims.flush().await.unwrap();
    }
    world.age(11).await;
    assert_eq!(world.take_up().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_claim_tells_the_lease_that_ends_first() {
    let mut world = World::create().await;
    let slots = pipelines(2);
    let request = request(world.start, 0, &slots);
    assert!(matches!(world.claims.claim(&request).await.unwrap(), Verdict::Claimed(_)));
    // A sweeper has renewed one of them, and the slot of the other one has passed on.
    for renewed in &slots {
        let sql = "update dispatcher.triggers set leased_until = now() + make_interval(secs => case when pipeline_id = $1 then 5000 else 100 end)";
        world.database.client.execute(sql, &[renewed]).await.unwrap();
        let Verdict::Claimed(repeated) = world.claims.claim(&request).await.unwrap() else { panic!("it was ours") };
        #[expect(clippy::disallowed_methods, reason = "the lease is compared with the time of day")]
        let left = repeated.leased_until.duration_since(jiff::Timestamp::now()).as_secs();
        assert!(left <= 100, "a task would outlive its lease by {} s", left - 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_sweepers_take_each_publication_up_once() {
    let mut world = World::create().await;
    let mut expected = HashSet::new();
    for _ in 0..120 {
        expected.insert(world.publish(&pipelines(3)).await.0);
    }
    world.age(11).await;
    let mut racing = JoinSet::new();
    for _ in 0..8 {
        let (store, terms) = (world.store.clone(), world.lease_terms.clone());
        racing.spawn(async move {
            let connection = store.connect().await.unwrap();
            let mut mine = Vec::new();
            // Three rounds of eight sweepers, 50 publications each, are more than enough.
            for _ in 0..3 {
                mine.extend(take_up(&connection, &terms).await.unwrap().into_iter().map(|taken| taken.publication));
            }
            mine
        });
    }
    let found = racing.join_all().await.concat();
    assert!(found.iter().all(|found| found.tasks.len() == 3));
    assert_eq!(found.len(), 120, "some were taken up twice, or not at all");
    assert_eq!(found.iter().map(|found| found.id).collect::<HashSet<_>>(), expected);
}

/// Many batches that want slots which are all held: each slot is locked and left.
fn claimers(world: &World, slots: &[Uuid]) -> JoinSet<()> {
    let mut racing = JoinSet::new();
    for partition in 1..5 {
        let (store, slots) = (world.store.clone(), slots.to_vec());
        let terms = ClaimTerms::new(&config("redis://unused/0", Some(&world.database)));
        racing.spawn(async move {
            let mut claims = PostgresClaims::new(store, terms);
            let start = held(&claims.open(&[partition]).await.unwrap()[0]);
            for offset in 0..25 {
                let verdict = claims.claim(&request(start, offset, &slots)).await.unwrap();
                assert!(matches!(verdict, Verdict::Claimed(claimed) if claimed.won.is_empty()));
            }
        });
    }
    racing
}

/// 120 slots, ascending, and their triggers. They are claimed from the last to the first, so that the rows lie the
/// other way round than claimers lock them.
async fn held_slots(world: &mut World) -> (Vec<Uuid>, Vec<Uuid>) {
    let slots = pipelines(120);
    let mut triggers = Vec::new();
    for slots in slots.rchunks(4) {
        let signal_id = format!("signal 0 {}", world.next_offset);
        triggers.extend(slots.iter().map(|slot| trigger_id(*slot, "", &signal_id)));
        world.publish(slots).await;
    }
    (slots, triggers)
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_up_and_claiming_the_same_slots_does_not_deadlock() {
    let mut world = World::create().await;
    let (slots, _) = held_slots(&mut world).await;
    let mut racing = claimers(&world, &slots);
    for _ in 0..2 {
        // No patience: everything is due again and again.
        let (store, terms) = (world.store.clone(), LeaseTerms { patience: Duration::ZERO, ..world.lease_terms.clone() });
        racing.spawn(async move {
            let connection = store.connect().await.unwrap();
            for _ in 0..40 {
                take_up(&connection, &terms).await.unwrap();
            }
        });
    }
    // A deadlock is an error of the one that the server chooses.
    racing.join_all().await;
}

/// The sweeper holds the publication and then wants its slots, the claim holds slots and then confirms the publication.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_does_not_wait_for_a_publication_that_a_sweeper_holds() {
    let mut world = World::create().await;
    let slots = pipelines(1);
    let (publication, _) = world.publish(&slots).await;
    let sweeper = world.database.another().await;
    sweeper.batch_execute("begin; select from dispatcher.publications for update").await.unwrap();
    world.claims.confirm(publication);
    // With a lock before it, the statement would end in a time-out of 10 s.
    assert_eq!(world.publish(&pipelines(1)).await.1, 1);
    let enqueued = "select count(*) from dispatcher.publications where enqueued_at is not null";
    assert_eq!(world.database.number(enqueued).await, 0, "it is left to the sweeper");
    sweeper.batch_execute("rollback").await.unwrap();
    world.claims.confirm(publication);
    world.claims.flush().await.unwrap();
    assert_eq!(world.database.number(enqueued).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn retrying_and_claiming_the_same_slots_does_not_deadlock() {
    let mut world = World::create().await;
    let (slots, triggers) = held_slots(&mut world).await;
    let mut racing = claimers(&world, &slots);
    let (store, terms) = (world.store.clone(), world.lease_terms.clone());
    racing.spawn(async move {
        let connection = store.connect().await.unwrap();
        for attempt in 1..40 {
            let seen: Vec<_> = triggers.iter().map(|id| (*id, attempt)).collect();
            assert_eq!(retry(&connection, &terms, &seen, 100).await.unwrap().publication.tasks.len(), 120);
        }
    });
    racing.join_all().await;
}
