//! Celery's result backend is asked by the sweeper only. It may fail without hurting anything else, and nothing else hurts it.

use super::trial::{List, Trial};
use crate::support::dispatcher::Setting;
use crate::support::private_redis::PrivateRedis;
use crate::support::queue::TestQueue;
use crate::support::wait_until;

/// Broker and result backend are two servers.
async fn trial(broker: &PrivateRedis, results: &PrivateRedis) -> Trial<List> {
    let mut trial =
        Trial::new(&broker.url(), async |setting: &Setting| List { url: broker.url(), name: setting.queue.clone() }).await;
    // Lines are counted, as an operator has them.
    trial.scene.setting.set("CELERY_RESULT_BACKEND", &results.url()).set("LOG_LEVEL", "info");
    trial
}

/// Every task that was claimed has ended well, as the result backend has it.
async fn finish(trial: &Trial<List>, results: &PrivateRedis) {
    let mut backend = TestQueue::at(&results.url(), "unused");
    for row in trial.scene.database.rows("select trigger_id from dispatcher.triggers", &[]).await {
        backend.put_result(row.get(0), "SUCCESS");
    }
}

/// As if this instance had died between the publication and its confirmation.
const FORGET: &str = "update dispatcher.publications set enqueued_at = null, claimed_at = claimed_at - interval '60 s'";
const UNCONFIRMED: &str = "select count(*) from dispatcher.publications where enqueued_at is null";
const SLOTS: &str = "select count(*) from dispatcher.slots";

async fn wait_for_none(trial: &Trial<List>, what: &str, count: &str) {
    let database = &trial.scene.database;
    wait_until(what, 60, async || Some(database.number(count).await).filter(|count| *count == 0)).await;
}

#[tokio::test]
async fn a_result_backend_that_is_down_hurts_neither_the_flow_nor_the_sweeper_and_is_asked_again() {
    let (broker, mut results) = (PrivateRedis::start(), PrivateRedis::start());
    let mut trial = trial(&broker, &results).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(10);
    trial.arrived().await;
    results.kill();
    let told = dispatcher.wait_for_event("sweep_failed");
    assert!(told["error"].as_str().unwrap().starts_with("result backend: redis at "), "it says which: {told}");
    trial.send(20);
    trial.arrived().await;
    trial.assert_tasks(true).await;
    // What a crash left behind is taken up all the same.
    trial.scene.database.client.batch_execute(FORGET).await.unwrap();
    wait_for_none(&trial, "publications taken up", UNCONFIRMED).await;
    dispatcher.wait_for_event("publication_swept");
    assert!(trial.scene.database.number(SLOTS).await > 0);
    results.up();
    finish(&trial, &results).await;
    wait_for_none(&trial, "slots released", SLOTS).await;
    trial.assert_tasks(true).await;
    assert_eq!(dispatcher.events("sweep_failed").len(), 1);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn while_the_broker_is_down_finished_tasks_release_their_slots() {
    let (mut broker, results) = (PrivateRedis::start(), PrivateRedis::start());
    let mut trial = trial(&broker, &results).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(10);
    trial.arrived().await;
    trial.assert_tasks(true).await;
    broker.kill();
    trial.scene.database.client.batch_execute(FORGET).await.unwrap();
    let told = dispatcher.wait_for_event("sweep_failed");
    assert!(told["error"].as_str().unwrap().starts_with("redis at "), "{told}");
    finish(&trial, &results).await;
    wait_for_none(&trial, "slots released", SLOTS).await;
    assert!(trial.scene.database.number(UNCONFIRMED).await > 0, "the broker is down");
    broker.up();
    // Those of which no slot is left have lapsed.
    let due = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
    wait_for_none(&trial, "publications taken up or lapsed", due).await;
    assert_eq!(dispatcher.events("sweep_failed").len(), 1);
    assert!(dispatcher.stop().success());
}
