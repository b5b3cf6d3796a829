//! Whether workers are guarded and whether their executions have our ids, told from our own newest triggers.

use std::sync::Arc;

use trigger_dispatcher::app;
use trigger_dispatcher::config::{TriggerIds, WorkerGuard};
use trigger_dispatcher::store::deployment::register;
use trigger_dispatcher::store::sweep::{LeaseTerms, Sweeper, unstarted};
use trigger_dispatcher::telemetry::Metrics;
use uuid::Uuid;

use super::{World, pipelines};
use crate::support::database::TestDatabase;
use crate::support::queue::TestQueue;
use crate::support::scene::{Scene, signal};
use crate::support::{service, unique};

impl World {
    async fn lease_terms(&self) -> LeaseTerms {
        let deployment = register(&self.store.connect().await.unwrap(), &self.terms.key).await.unwrap();
        LeaseTerms::new(deployment, &self.config.trigger, self.terms.evidence.clone())
    }

    /// What the store's newest triggers tell, read now.
    async fn read(&self, deployment: Option<i32>) {
        self.terms.evidence.read(&self.store.connect().await.unwrap(), deployment).await.unwrap();
    }

    async fn is_guarded(&self) -> bool {
        self.read(None).await;
        self.terms.evidence.workers_are_guarded()
    }

    async fn trusts_time(&self) -> bool {
        self.read(None).await;
        self.terms.evidence.trusts_time()
    }

    async fn mark(&self, trigger_id: Uuid) {
        self.database.client.execute("insert into dispatcher.starts (trigger_id) values ($1)", &[&trigger_id]).await.unwrap();
    }

    async fn execution_with(&self, id: Uuid, pipeline: Uuid, status: &str) {
        let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, $3)";
        self.database.client.execute(sql, &[&id, &pipeline, &status]).await.unwrap();
    }

    /// Everything in our tables happened so much earlier.
    async fn age(&self, interval: &str) {
        let earlier =
            |table: &str, column: &str| format!("update dispatcher.{table} set {column} = {column} - interval '{interval}';");
        let sql = [
            earlier("publications", "claimed_at"),
            earlier("publications", "enqueued_at"),
            earlier("slots", "claimed_at"),
            earlier("triggers", "claimed_at"),
        ];
        self.database.run(&sql.concat()).await;
    }
}

#[tokio::test]
async fn a_guard_is_believed_by_several_marks_of_our_own_triggers_and_by_no_other_rows() {
    let mut world = World::create().await;
    assert!(!world.is_guarded().await);
    for _ in 0..10 {
        world.mark(Uuid::new_v4()).await;
    }
    assert!(!world.is_guarded().await, "marks of a canary, or of another task");
    let slots = pipelines::<20>();
    let won = world.claim(&slots).await;
    assert!(!world.is_guarded().await);
    world.mark(won[0]).await;
    world.mark(won[1]).await;
    assert!(!world.is_guarded().await, "two are too few");
    world.mark(won[2]).await;
    assert!(world.is_guarded().await);
    // Most tasks start on workers without it.
    for (slot, trigger_id) in slots.iter().zip(&won).skip(3) {
        world.execution_with(*trigger_id, *slot, "RUNNING").await;
    }
    assert!(!world.is_guarded().await);
}

#[tokio::test]
async fn executions_under_other_ids_count_as_starts_without_a_mark() {
    let mut world = World::create().await;
    let slots = pipelines::<8>();
    let won = world.claim(&slots).await;
    for trigger_id in &won[..3] {
        world.mark(*trigger_id).await;
    }
    assert!(world.is_guarded().await);
    for slot in &slots[3..] {
        world.execution_with(Uuid::new_v4(), *slot, "RUNNING").await;
    }
    assert!(!world.is_guarded().await);
}

#[tokio::test]
async fn evidence_that_is_old_or_of_another_deployment_does_not_count() {
    let mut world = World::create().await;
    let won = world.claim(&pipelines::<3>()).await;
    for trigger_id in &won {
        world.mark(*trigger_id).await;
    }
    world
        .database
        .run("update dispatcher.publications set deployment_id = 1; update dispatcher.slots set deployment_id = 1")
        .await;
    world.read(Some(2)).await;
    assert!(!world.terms.evidence.workers_are_guarded(), "another deployment's workers");
    world.age("8 days").await;
    world.read(Some(1)).await;
    assert!(!world.terms.evidence.workers_are_guarded(), "workers of last week");
    world.database.run("update dispatcher.publications set claimed_at = now()").await;
    world.read(Some(1)).await;
    assert!(world.terms.evidence.workers_are_guarded());
}

/// A result backend frees slots by deleting their rows, and a restart forgets what was read.
#[tokio::test]
async fn evidence_outlives_the_slots() {
    let mut world = World::create().await;
    let slots = pipelines::<3>();
    for (slot, trigger_id) in slots.iter().zip(world.claim(&slots).await) {
        world.mark(trigger_id).await;
        world.execution_with(trigger_id, *slot, "COMPLETED").await;
    }
    world.database.run("delete from dispatcher.slots").await;
    world.anew(|_| ()).await.unwrap();
    assert!(world.terms.evidence.workers_are_guarded(), "read before the first claim");
    assert!(!world.terms.evidence.trusts_time());
}

/// The newest triggers all wait in a long queue, and users run their pipelines by hand.
#[tokio::test]
async fn that_executions_have_our_ids_is_seen_once_for_all() {
    let mut world = World::create().await;
    let deployment = Some(world.lease_terms().await.deployment.id);
    let [first, waiting] = pipelines();
    let won = world.claim(&[first]).await;
    world.execution_with(won[0], first, "COMPLETED").await;
    world.read(deployment).await;
    assert!(!world.terms.evidence.trusts_time());

    world.age("8 days").await;
    world.claim(&[waiting]).await;
    world.execution_with(Uuid::new_v4(), waiting, "COMPLETED").await;
    world.read(deployment).await;
    assert!(!world.terms.evidence.trusts_time());
    assert!(!world.starts(waiting).await, "two tasks would wait for one slot");
    world.anew(|_| ()).await.unwrap();
    assert!(!world.terms.evidence.trusts_time(), "a restart knows it");
    assert!(!world.starts(waiting).await);
}

#[tokio::test]
async fn the_operators_word_outweighs_the_evidence() {
    let database = TestDatabase::create().await;
    let mut world = World::with(database, |config| {
        config.trigger.worker_guard = WorkerGuard::No;
        config.trigger.trigger_ids = TriggerIds::No;
    })
    .await;
    let slots = pipelines::<4>();
    for (slot, trigger_id) in slots.iter().zip(world.claim(&slots).await) {
        world.mark(trigger_id).await;
        world.execution_with(trigger_id, *slot, "RUNNING").await;
    }
    assert!(!world.is_guarded().await);
    assert!(world.trusts_time().await);
    world
        .anew(|config| {
            config.trigger.worker_guard = WorkerGuard::Yes;
            config.trigger.trigger_ids = TriggerIds::Yes;
        })
        .await
        .unwrap();
    world.database.run("truncate executions, dispatcher.starts").await;
    assert!(world.is_guarded().await);
    assert!(!world.trusts_time().await);
}

/// Somebody presses "run now" while our task waits in the queue: when that run is over, our task still waits.
#[tokio::test]
async fn a_run_by_somebody_else_frees_no_slot_where_executions_have_our_ids() {
    let mut world = World::create().await;
    let [done, waiting, next] = pipelines();
    let won = world.claim(&[done, waiting]).await;
    world.execution_with(won[0], done, "COMPLETED").await;
    assert!(!world.trusts_time().await);
    world.execution_with(Uuid::new_v4(), waiting, "COMPLETED").await;
    assert!(!world.starts(waiting).await, "two tasks would wait for one slot");
    assert!(world.starts(done).await);
    // Nor is it a trace of a start.
    world.age("121 s").await;
    let connection = world.store.connect().await.unwrap();
    let seen = unstarted(&connection, &world.lease_terms().await, world.config.trigger.start_timeout).await.unwrap();
    assert!(seen.contains(&(won[1], 1)), "{seen:?}");
    // Its own execution frees the slot.
    world.execution_with(won[1], waiting, "COMPLETED").await;
    assert!(world.starts(waiting).await);
    assert!(world.starts(next).await);
}

#[tokio::test]
async fn where_executions_have_ids_of_their_own_time_frees_the_slot() {
    let mut world = World::create().await;
    let [first, second] = pipelines();
    world.claim(&[first, second]).await;
    world.execution_with(Uuid::new_v4(), first, "COMPLETED").await;
    assert!(world.trusts_time().await);
    assert!(world.starts(first).await);
    assert!(!world.starts(second).await);
}

/// Without a guard, a task that merely waits in a long queue would run as often as it is enqueued.
#[tokio::test]
async fn a_task_that_waits_is_enqueued_again_only_where_most_starts_have_a_mark() {
    let mut world = World::create().await;
    let queue_name = unique("queue");
    let mut queue = TestQueue::new(&queue_name);
    world.config.celery.task_queue = queue_name;
    world.config.celery.broker = crate::support::settings::config(&service("TEST_REDIS_URL"), None).celery.broker;
    let won = world.claim(&pipelines::<4>()).await;
    world.mark(Uuid::new_v4()).await;
    world.mark(won[0]).await;
    world.age("121 s").await;
    let mut sweeper = Sweeper::new(
        world.store.clone(),
        app::queue(&world.config).unwrap(),
        None,
        world.lease_terms().await,
        world.config.trigger.clone(),
        Arc::new(Metrics::default()),
    );
    sweeper.sweep().await.unwrap();
    assert_eq!(queue.len(), 0, "one mark among tasks that wait");
    world.mark(won[1]).await;
    world.mark(won[2]).await;
    for _ in 0..5 {
        sweeper.sweep().await.unwrap();
    }
    assert_eq!(queue.len(), 1);
    let again = world.database.rows("select trigger_id from dispatcher.triggers where attempt > 1", &[]).await;
    assert_eq!(again.iter().map(|row| row.get(0)).collect::<Vec<Uuid>>(), [won[3]]);
}

#[tokio::test]
async fn the_log_tells_when_the_evidence_changes() {
    let mut scene = Scene::new(1).await;
    let dispatcher = scene.setting.start();
    let mut signals = Vec::new();
    for ticker in ["A", "B", "C"] {
        scene.database.pipeline(ticker, &[ticker]).await;
    }
    scene.database.run("notify dispatcher_rules_changed").await;
    dispatcher.wait_for_event("rules_refreshed");
    crate::support::wait_for("the rules", 60, || {
        dispatcher.events("rules_refreshed").iter().any(|line| line["pipelines"] == 3).then_some(())
    });
    for ticker in ["A", "B", "C"] {
        signals.push(signal(ticker, ticker));
    }
    scene.send(&signals);
    scene.enqueued(3);
    scene.decided(3).await;
    scene
        .database
        .run(
            "insert into dispatcher.starts (trigger_id) select trigger_id from dispatcher.triggers;
             insert into executions (id, pipeline_id, status) select trigger_id, pipeline_id, 'RUNNING' from dispatcher.triggers",
        )
        .await;
    let guard = dispatcher.wait_for_event("worker_guard_seen");
    assert_eq!((&guard["seen"], &guard["marks"]), (&true.into(), &3.into()), "{guard}");
    assert_eq!(dispatcher.wait_for_event("trigger_ids_seen")["seen"], true);
}
