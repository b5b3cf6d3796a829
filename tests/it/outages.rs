//! A dependency that is down: the service waits, keeps its place in the group, and loses nothing.

use std::collections::BTreeSet;

use super::support::dispatcher::{Instance, Setting};
use super::support::proxy::Proxy;
use super::support::scene::{Scene, signal};
use super::support::{host_and_port, service, wait_until};

const CANARY: &str = "canary-secret";

fn redis_behind_a_proxy(setting: &mut Setting) -> Proxy {
    let url = service("TEST_REDIS_URL");
    let proxy = Proxy::closed(&host_and_port(&url));
    setting.set("CELERY_BROKER_URL", &url.replace(&host_and_port(&url), &format!("127.0.0.1:{}", proxy.port)));
    proxy
}

fn postgres_behind_a_proxy(setting: &mut Setting) -> Proxy {
    let proxy = Proxy::closed(&host_and_port(&service("TEST_POSTGRES_URL")));
    setting.set("POSTGRES_HOST", "127.0.0.1").set("POSTGRES_PORT", &proxy.port.to_string());
    proxy
}

/// Nobody left the group or lost a partition, and no secret was told.
fn assert_calm(dispatcher: Instance, assignments: usize) {
    let log = dispatcher.log();
    assert!(dispatcher.stop().success());
    let changes = log.events("partitions_changed").iter().filter(|line| line["assigned"] != "None").count();
    assert_eq!(changes, assignments, "the group was left");
    assert!(!log.lines().iter().any(|line| line.contains(CANARY)));
}

const PIPELINES: usize = 400;

/// A pipeline for each ticker `T0`, `T1`, …, as many as there are signals in one round.
async fn pipelines(scene: &Scene) -> BTreeSet<uuid::Uuid> {
    let mut all = BTreeSet::new();
    for number in 0..PIPELINES {
        all.insert(scene.database.pipeline("watches", &[&format!("T{number}")]).await);
    }
    all
}

/// Sends the signals of the pipelines `from..to`, ten at a time: they arrive over some time, in several batches.
fn send(scene: &Scene, from: usize, to: usize) {
    for number in (from..to).step_by(10) {
        let signals: Vec<_> =
            (number..to.min(number + 10)).map(|number| signal(&format!("signal-{number}"), &format!("T{number}"))).collect();
        scene.send(&signals);
    }
}

async fn assert_each_pipeline_has_one_task(scene: &mut Scene, pipelines: &BTreeSet<uuid::Uuid>) {
    let total = scene.decided(i64::try_from(PIPELINES).unwrap()).await;
    assert_eq!(total.triggered, i64::try_from(PIPELINES).unwrap(), "{total:?}");
    scene.committed(i64::try_from(PIPELINES).unwrap());
    let unpublished = "select count(*) from dispatcher.publications where enqueued_at is null";
    wait_until("confirmed publications", 40, async || Some(scene.database.number(unpublished).await).filter(|count| *count == 0))
        .await;
    let tasks = scene.enqueued(PIPELINES);
    assert_eq!(tasks.len(), PIPELINES, "a task is there twice");
    assert_eq!(&tasks.into_iter().collect::<BTreeSet<_>>(), pipelines);
}

#[tokio::test]
async fn tasks_arrive_once_a_redis_that_was_down_at_start_is_up() {
    let mut scene = Scene::new(1).await;
    let mut proxy = redis_behind_a_proxy(&mut scene.setting);
    let mut started = BTreeSet::new();
    for ticker in ["A", "B", "C"] {
        started.insert(scene.database.pipeline("watches", &[ticker]).await);
    }
    let dispatcher = scene.setting.start();
    scene.send(&["A", "B", "C"].map(|ticker| signal(ticker, ticker)));
    let failed = dispatcher.wait_for_event("enqueue_failed");
    assert!(failed["error"].as_str().unwrap().contains(&proxy.port.to_string()), "it says where: {failed}");
    assert_eq!(scene.topic.committed(&scene.setting.group), [None], "not before the broker has the tasks");
    assert_eq!(scene.queue.len(), 0);
    proxy.open();
    let tasks = scene.enqueued(3);
    assert_eq!((tasks.len(), tasks.into_iter().collect::<BTreeSet<_>>()), (3, started));
    scene.committed(3);
    dispatcher.wait_for_event("recovered");
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_broker_that_refuses_us_costs_nothing_and_its_password_is_not_told() {
    let mut scene = Scene::new(1).await;
    let url = service("TEST_REDIS_URL").replace("redis://", &format!("redis://user:{CANARY}@"));
    scene.setting.set("CELERY_BROKER_URL", &url);
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    dispatcher.wait_for_event("enqueue_failed");
    assert_eq!(scene.topic.committed(&scene.setting.group), [None]);
    assert_calm(dispatcher, 1);
    scene.setting.set("CELERY_BROKER_URL", &service("TEST_REDIS_URL"));
    let _next = scene.setting.start();
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(scene.decided(1).await.triggered, 1);
}

#[tokio::test]
async fn a_wrong_password_of_the_database_is_waited_for_and_not_told() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("POSTGRES_PASSWORD", CANARY).set("POSTGRES_USER", "nobody_of_that_name");
    let dispatcher = scene.setting.launch();
    let waits = dispatcher.wait_for_event("store_not_ready");
    assert!(!waits.to_string().contains(CANARY), "{waits}");
    assert_calm(dispatcher, 0);
}

#[tokio::test]
async fn redis_cut_off_under_load_gets_each_task_once() {
    let mut scene = Scene::new(1).await;
    let mut proxy = redis_behind_a_proxy(&mut scene.setting);
    proxy.open();
    let pipelines = pipelines(&scene).await;
    let dispatcher = scene.setting.start();
    for round in 0..4 {
        let (from, to) = (round * PIPELINES / 4, (round + 1) * PIPELINES / 4);
        send(&scene, from, from + 50);
        proxy.close();
        send(&scene, from + 50, to);
        proxy.open();
    }
    assert_each_pipeline_has_one_task(&mut scene, &pipelines).await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn postgresql_down_at_start_and_cut_off_under_load_loses_and_doubles_nothing() {
    let mut scene = Scene::new(1).await;
    let mut proxy = postgres_behind_a_proxy(&mut scene.setting);
    let pipelines = pipelines(&scene).await;
    let dispatcher = scene.setting.launch();
    send(&scene, 0, 50);
    dispatcher.wait_for_event("store_not_ready");
    assert_eq!(scene.queue.len(), 0);
    proxy.open();
    scene.enqueued(50);
    for round in 0..3 {
        let from = 50 + round * 100;
        send(&scene, from, from + 50);
        proxy.close();
        send(&scene, from + 50, from + 100);
        proxy.open();
    }
    send(&scene, 350, PIPELINES);
    assert_each_pipeline_has_one_task(&mut scene, &pipelines).await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn while_postgresql_is_down_no_pipeline_is_taken_for_idle() {
    let mut scene = Scene::new(1).await;
    let mut proxy = postgres_behind_a_proxy(&mut scene.setting);
    proxy.open();
    let busy = scene.database.pipeline("busy", &["BUSY"]).await;
    scene.database.execution(busy, "RUNNING").await;
    let idle = scene.database.pipeline("idle", &["IDLE"]).await;
    let dispatcher = scene.setting.start();
    // The position too is stored before: what fails is the claim.
    wait_until("the position", 60, async || scene.progress().await.first().and_then(|progress| progress.next_offset)).await;
    proxy.close();
    scene.send(&[signal("1", "BUSY"), signal("2", "IDLE")]);
    dispatcher.wait_for_event("claim_failed");
    assert_eq!(scene.queue.len(), 0);
    proxy.open();
    assert_eq!(scene.enqueued(1), [idle]);
    let total = scene.decided(2).await;
    assert_eq!((total.triggered, total.busy), (1, 1));
    assert_eq!(scene.queue.len(), 1);
    assert_calm(dispatcher, 1);
}
