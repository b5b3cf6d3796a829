//! A schema goes forward, back, and forward again; and several deployments that one database had before they were told apart.

use trigger_dispatcher::store::deployment::{DeploymentKey, register};
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::sweep::{LeaseTerms, take_up};
use trigger_dispatcher::store::{Claims as _, Database, Verdict, migrate};
use trigger_dispatcher::tasks::{IdSpace, trigger_id};
use uuid::Uuid;

use super::{landed, request};
use crate::support::database::TestDatabase;
use crate::support::request::{Held, held};
use crate::support::scene::{Scene, signal};
use crate::support::settings::config;
use crate::support::{unique, wait_until};

/// One deployment's instance of the newest version, on partition 0.
struct New {
    store: Database,
    lease_terms: LeaseTerms,
    claims: PostgresClaims,
    start: Held,
    next_offset: i64,
}

impl New {
    async fn start(database: &TestDatabase, group: &str, topic: &str, target: &str) -> Self {
        Self::start_in(database, group, topic, target, None).await
    }

    /// With trigger ids that an operator tells apart.
    async fn start_in(database: &TestDatabase, group: &str, topic: &str, target: &str, id_space: Option<&str>) -> Self {
        let config = config("redis://unused/0", Some(database));
        let store = Database::new(&config.postgres);
        let key = DeploymentKey {
            group: group.to_owned(),
            topic: topic.to_owned(),
            target: target.to_owned(),
            id_space: id_space.map(str::to_owned),
        };
        let deployment = register(&store.connect().await.unwrap(), &key).await.unwrap();
        let terms = ClaimTerms { key, ..ClaimTerms::new(&config) };
        let lease_terms = LeaseTerms::new(deployment, &config.trigger, terms.evidence.clone());
        let mut claims = PostgresClaims::new(store.clone(), terms);
        let starts = claims.open(&[0]).await.unwrap();
        Self { store, lease_terms, claims, start: held(&starts[0]), next_offset: starts[0].next_offset.unwrap_or(0) }
    }

    /// Decides a signal for the pipeline: won, known.
    async fn claim(&mut self, pipeline: Uuid, signal: &str) -> (usize, usize) {
        self.next_offset += 1;
        let mut request = request(self.start, self.next_offset - 1, pipeline, signal);
        request.wanted[0].text.trigger_id = self.lease_terms.deployment.ids.trigger_id(pipeline, "", signal);
        match self.claims.claim(&request).await.unwrap() {
            Verdict::Claimed(claimed) => (claimed.won.len(), claimed.known.len()),
            other => panic!("expected a decision, got {other:?}"),
        }
    }

    /// The triggers of entries that its sweeper would publish.
    async fn take_up(&self) -> Vec<Uuid> {
        let taken = take_up(&self.store.connect().await.unwrap(), &self.lease_terms).await.unwrap();
        taken.iter().flat_map(|taken| taken.publication.tasks.iter().map(|task| task.trigger_id)).collect()
    }
}

/// An instance of the version before, on partition 0.
struct Old {
    instance: landed::Instance,
    start: Held,
    next_offset: i64,
}

impl Old {
    async fn start(database: &TestDatabase, group: &str, topic: &str) -> Self {
        let instance = landed::Instance::start(database, group, topic).await;
        let place = instance.open(&[0]).await[0];
        Self { instance, start: place.held, next_offset: place.next }
    }

    /// Decides a signal for the pipeline: how many triggers it won.
    async fn claim(&mut self, pipeline: Uuid, signal: &str) -> usize {
        self.next_offset += 1;
        self.instance.claim(&request(self.start, self.next_offset - 1, pipeline, signal)).await.unwrap().len()
    }
}

/// Every execution has ended, and every slot is free. Only what is owed has not started.
async fn free_slots(database: &TestDatabase) {
    let sql = "insert into executions (id, pipeline_id, status)
        select trigger_id, pipeline_id, 'COMPLETED' from dispatcher.triggers where signal_id <> 'owed' on conflict do nothing";
    database.run(sql).await;
}

/// Everything was claimed a minute ago.
async fn age(database: &TestDatabase) {
    database.run("update dispatcher.publications set claimed_at = claimed_at - interval '1 minute'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deployments_that_shared_their_ids_one_keeps_them_and_the_others_look_back() {
    let database = TestDatabase::create().await;
    landed::migrate(&database).await;
    let [big, small, owed] = [(); 3].map(|()| Uuid::new_v4());
    let mut production = Old::start(&database, "production", "signals").await;
    let mut staging = Old::start(&database, "staging", "test-signals").await;
    for number in 0..3 {
        assert_eq!(production.claim(big, &format!("big {number}")).await, 1);
        free_slots(&database).await;
    }
    assert_eq!(staging.claim(small, "small").await, 1);
    free_slots(&database).await;
    database.run("update dispatcher.publications set enqueued_at = now()").await;
    // It was claimed, and nobody has published it.
    assert_eq!(staging.claim(owed, "owed").await, 1);
    drop((production, staging));
    age(&database).await;

    let store = Database::new(&config("redis://unused/0", Some(&database)).postgres);
    migrate::migrate(&store).await.unwrap();
    let mut production = New::start(&database, "production", "signals", "redis a").await;
    let mut staging = New::start(&database, "staging", "test-signals", "redis b").await;
    let canary = New::start(&database, "canary", "signals", "redis a").await;
    let flags = |of: &New| {
        let deployment = &of.lease_terms.deployment;
        (deployment.ids == IdSpace::FORMER, deployment.looks_back, deployment.adopts)
    };
    assert_eq!(flags(&production), (true, false, true));
    assert_eq!(flags(&staging), (false, true, true));
    assert_eq!(
        flags(&canary),
        (true, false, false),
        "new since the migration, with the ids of its topic, which another one adopts"
    );

    // A signal that comes again finds its own trigger, by the id of then.
    assert_eq!(production.claim(big, "big 0").await, (0, 1));
    assert_eq!(staging.claim(small, "small").await, (0, 1));
    // What the other one has decided is new here.
    assert_eq!(staging.claim(big, "big 1").await, (1, 0));
    free_slots(&database).await;
    assert_eq!(staging.claim(big, "big 1").await, (0, 1));
    // The old entry is its topic's, and only of one sweeper.
    assert!(canary.take_up().await.is_empty());
    assert!(production.take_up().await.is_empty());
    age(&database).await;
    let owed_trigger = trigger_id(owed, "", "owed");
    assert!(staging.take_up().await.contains(&owed_trigger));
    assert!(!staging.take_up().await.contains(&owed_trigger), "it is left alone for a while");
}

/// Both groups read the same records. One may be the other one under a new name.
#[tokio::test(flavor = "multi_thread")]
async fn two_groups_of_one_topic_start_a_signal_once_unless_they_are_told_apart() {
    let database = TestDatabase::create().await;
    landed::migrate(&database).await;
    let pipeline = Uuid::new_v4();
    let mut first = Old::start(&database, "first", "signals").await;
    let mut second = Old::start(&database, "second", "signals").await;
    assert_eq!((first.claim(pipeline, "1").await, second.claim(Uuid::new_v4(), "2").await), (1, 1));
    let store = Database::new(&config("redis://unused/0", Some(&database)).postgres);
    migrate::migrate(&store).await.unwrap();
    let mut first = New::start(&database, "first", "signals", "redis a").await;
    let mut second = New::start(&database, "second", "signals", "redis b").await;
    let mut third = New::start_in(&database, "third", "signals", "redis c", Some("staging")).await;
    assert!([&first, &second].iter().all(|of| of.lease_terms.deployment.ids == IdSpace::FORMER));
    for (signal, decided_before) in [("1", true), ("new", false)] {
        free_slots(&database).await;
        assert_eq!(first.claim(pipeline, signal).await, if decided_before { (0, 1) } else { (1, 0) });
        free_slots(&database).await;
        assert_eq!(second.claim(pipeline, signal).await, (0, 1));
        free_slots(&database).await;
        assert_eq!(third.claim(pipeline, signal).await, (1, 0), "it has ids of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_goes_back_for_the_version_before_and_forward_again() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let (group, topic) = (scene.setting.group.clone(), scene.topic.name.clone());
    landed::migrate(&scene.database).await;
    let setting = scene.setting.clone();
    let said = |arguments: &[&str]| {
        let output = setting.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut old = Old::start(&scene.database, &group, &topic).await;
    let dispatcher = scene.setting.start();
    scene.send(&[signal("one", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    scene.committed(1);
    assert!(dispatcher.stop().success());
    free_slots(&scene.database).await;

    // Programs of that version only compare the newest version with theirs.
    let version = "select max(version)::bigint from dispatcher.schema_versions";
    assert_eq!(scene.database.number(version).await, 4);
    assert!(said(&["migrate", "--allow-version", "3"]).starts_with("schema dispatcher: version 3 again, without 4;"));
    assert_eq!(scene.database.number(version).await, 3);
    assert!(said(&["migrate", "--allow-version", "3"]).contains("nothing was changed"));
    // Such a program takes over where the new one was, knows what was started, and starts what is new.
    let place = old.instance.open(&[0]).await[0];
    (old.start, old.next_offset) = (place.held, place.next);
    assert_eq!(old.next_offset, 1);
    assert_eq!(old.claim(pipeline, "one").await, 0);
    assert_eq!(old.claim(pipeline, "two").await, 1);
    // Another group appears meanwhile.
    let another = unique("group");
    Old::start(&scene.database, &another, &topic).await;

    let count = "select count(*) from dispatcher.deployments";
    let before = scene.database.number(count).await;
    assert!(said(&["migrate"]).starts_with("schema dispatcher: version 4 (was 3)"));
    assert_eq!(scene.database.number(count).await, before + 1, "one row for the other group, none twice");
    // Ids are of the topic, and it was there before the first migration.
    for (column, expected) in [("former_ids", 2), ("adopts", 1), ("looks_back", 0)] {
        let sql = format!("select count(*) from dispatcher.deployments where {column}");
        assert_eq!(scene.database.number(&sql).await, expected, "{column}");
    }
    let offset = "select next_offset from dispatcher.progress order by next_offset limit 1";
    assert_eq!(scene.database.number(offset).await, 3);
    let mut new = New::start(&scene.database, &group, &topic, "another target").await;
    free_slots(&scene.database).await;
    assert_eq!(new.claim(pipeline, "two").await, (0, 1), "what was started meanwhile is known");
    assert_eq!(new.claim(pipeline, "three").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_older_programs_cannot_go_is_refused_and_changes_nothing() {
    let scene = Scene::new(1).await;
    let refused = |arguments: &[&str], code| {
        let output = scene.setting.run(arguments);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count(), output.stdout.len()), (Some(code), 1, 0), "{line}");
        line
    };
    let line = refused(&["migrate", "--allow-version", "3"], 1);
    assert!(line.contains(&scene.database.name) && line.contains("none to go back from"), "{line}");
    assert!(scene.setting.run(&["migrate"]).status.success());
    let line = refused(&["migrate", "--allow-version", "1"], 1);
    assert!(line.contains("has version 2") && line.contains("nothing was changed"), "{line}");
    assert_eq!(scene.database.number("select count(*) from dispatcher.schema_versions").await, 4);
    refused(&["migrate", "--allow-version", "0"], 64);
    refused(&["migrate", "--allow-version", "three"], 64);
}

/// A migration and a claim lock the same tables, each in its own order.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_the_server_ends_because_of_a_claim_is_tried_again() {
    let database = TestDatabase::create().await;
    landed::migrate(&database).await;
    let claim = database.another().await;
    // The server ends the other one of the two.
    claim.batch_execute("set deadlock_timeout = '1min'; begin; lock table dispatcher.slots in row exclusive mode").await.unwrap();
    let store = Database::new(&config("redis://unused/0", Some(&database)).postgres);
    let migration = tokio::spawn(async move { migrate::migrate(&store).await });
    let waits = "select count(*) from pg_locks where not granted and relation = 'dispatcher.slots'::regclass";
    wait_until("a migration that waits", 60, async || Some(database.number(waits).await).filter(|count| *count == 1)).await;
    claim.batch_execute("lock table dispatcher.publications in row exclusive mode; commit").await.unwrap();
    assert_eq!(migration.await.unwrap().unwrap().from, 3);
    assert_eq!(database.number("select max(version)::bigint from dispatcher.schema_versions").await, 4);
}
