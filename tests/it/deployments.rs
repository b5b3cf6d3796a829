//! Several deployments on one database: they share the slots of the pipelines, and nothing else.

use serde_json::json;
use uuid::Uuid;

use super::support::dispatcher::Setting;
use super::support::private_redis::PrivateRedis;
use super::support::queue::TestQueue;
use super::support::scene::{Scene, signal};
use super::support::topic::TestTopic;
use super::support::{service, wait_until};

const UNPUBLISHED: &str = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
const TRIGGERS: &str = "select count(*) from dispatcher.triggers";

/// A second deployment beside the scene's: topic, group and queue of its own.
async fn another(scene: &Scene) -> (TestTopic, Setting, TestQueue) {
    let topic = TestTopic::create(1).await;
    let setting = Setting::new(&topic, &scene.database);
    let queue = TestQueue::new(&setting.queue);
    (topic, setting, queue)
}

fn send(topic: &TestTopic, id: &str, ticker: &str) {
    topic.send_json(0, &signal(id, ticker));
    topic.flush();
}

async fn wait_for_triggers(scene: &Scene, count: i64) {
    wait_until(&format!("{count} triggers"), 60, async || {
        Some(scene.database.number(TRIGGERS).await).filter(|found| *found == count)
    })
    .await;
}

/// All that waits to be published is as if it had waited for some time.
async fn age(scene: &Scene, entries: &str) {
    let sql = format!("update dispatcher.publications set claimed_at = claimed_at - interval '2 minutes' where {entries}");
    assert!(scene.database.client.execute(&sql, &[]).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_claimed_and_never_published_is_left_to_it_until_it_is_handed_over() {
    let mut redis = PrivateRedis::start();
    let mut scene = Scene::new(1).await;
    scene.setting.set("CELERY_BROKER_URL", &redis.url()).set("CELERY_TASK_EXTRA_KWARGS", r#"{"mode": "live"}"#);
    let (live, paper) = (scene.database.pipeline("live", &["LIVE"]).await, scene.database.pipeline("paper", &["PAPER"]).await);
    let first = scene.setting.start();
    redis.kill();
    scene.send(&[signal("one", "LIVE")]);
    wait_for_triggers(&scene, 1).await;
    first.kill();
    age(&scene, "enqueued_at is null").await;

    // Another deployment sweeps, also something of its own that looks unpublished.
    let (topic, setting, mut queue) = another(&scene).await;
    let second = setting.start();
    send(&topic, "two", "PAPER");
    wait_until("its task", 60, async || Some(queue.len()).filter(|length| *length == 1)).await;
    wait_until("its confirmation", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 1)).await;
    let own = "enqueued_at is not null";
    age(&scene, own).await;
    scene
        .database
        .client
        .execute("update dispatcher.publications set enqueued_at = null where enqueued_at is not null", &[])
        .await
        .unwrap();
    wait_until("its own sweep", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 1)).await;
    assert_eq!(queue.pipelines(), [paper], "the task of another deployment");
    assert!(second.stop().success());

    // The first one changes its broker: nobody publishes what it owes the old one, and it says so.
    let mut moved = scene.setting.clone();
    moved.set("CELERY_BROKER_URL", &service("TEST_REDIS_URL"));
    let dispatcher = moved.start();
    let told = dispatcher.wait_for_event("outbox_owed_elsewhere");
    assert_eq!(told["entries"], 1);
    assert_eq!(scene.queue.len(), 0);
    let list = String::from_utf8(moved.run(&["outbox", "list"]).stdout).unwrap();
    let owes = |line: &&str| line.split_whitespace().nth(1) == Some("1") && line.contains(&format!("127.0.0.1:{}", redis.port));
    assert_eq!(list.lines().filter(owes).count(), 1, "{list}");
    assert_eq!(list.lines().filter(|line| line.contains("(this configuration)")).count(), 1, "{list}");
    let from = told["deployment"].to_string();
    let refused = moved.run(&["outbox", "move", "--from", &from]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "the other one may run");
    let said = moved.run(&["outbox", "move", "--from", &from, "--yes"]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8(said.stdout).unwrap().starts_with("1 entries (1 tasks)"));
    assert_eq!(scene.enqueued(1), [live]);
    assert_eq!(scene.queue.tasks()[0].kwargs["mode"], json!("live"));
    assert!(dispatcher.stop().success());
    redis.up();
    assert_eq!(TestQueue::at(&redis.url(), &scene.setting.queue).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signal_id_on_two_topics_fires_on_both() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let (topic, setting, mut queue) = another(&scene).await;
    let instances = [scene.setting.start(), setting.start()];
    scene.send(&[signal("deterministic", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    let task = scene.queue.tasks()[0].clone();
    // The slot is shared: it has to be free first.
    let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'COMPLETED')";
    scene.database.client.execute(sql, &[&task.id, &pipeline]).await.unwrap();
    send(&topic, "deterministic", "AAPL");
    wait_until("the other task", 60, async || Some(queue.len()).filter(|length| *length == 1)).await;
    let other = queue.tasks()[0].clone();
    assert_ne!(other.id, task.id);
    scene.database.client.execute(sql, &[&other.id, &pipeline]).await.unwrap();
    // On its own topic it is known.
    send(&topic, "deterministic", "AAPL");
    let sql = "select count(*) from dispatcher.progress where redelivered = 1 and triggered = 1";
    wait_until("the redelivery", 60, async || Some(scene.database.number(sql).await).filter(|count| *count == 1)).await;
    for instance in instances {
        assert!(instance.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_the_backend_of_another_deployment_frees_no_slot_of_ours() {
    let mut redis = PrivateRedis::start();
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let own = scene.database.pipeline("another", &["MSFT"]).await;
    let (topic, mut setting, mut queue) = another(&scene).await;
    setting.set("CELERY_RESULT_BACKEND", &redis.url());
    let instances = [scene.setting.start(), setting.start()];
    scene.send(&[signal("one", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    send(&topic, "two", "MSFT");
    wait_until("the other task", 60, async || Some(queue.len()).filter(|length| *length == 1)).await;
    let mut backend = TestQueue::at(&redis.url(), "unused");
    // As a canary with the same id would.
    backend.put_result(scene.queue.tasks()[0].id, "SUCCESS");
    backend.put_result(queue.tasks()[0].id, "SUCCESS");
    let held = |pipeline: Uuid| format!("select count(*) from dispatcher.slots where pipeline_id = '{pipeline}'");
    wait_until("a poll of the results", 60, async || Some(scene.database.number(&held(own)).await).filter(|count| *count == 0))
        .await;
    assert_eq!(scene.database.number(&held(pipeline)).await, 1);
    for instance in instances {
        assert!(instance.stop().success());
    }
    redis.kill();
}
