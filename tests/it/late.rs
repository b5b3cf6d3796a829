//! Tasks that cannot leave at once: what is published later carries the lease that is in force then, or is given up.

use redis::Commands as _;
use uuid::Uuid;

use super::support::private_redis::PrivateRedis;
use super::support::queue::TestQueue;
use super::support::scene::{Scene, signal};
use super::support::{service, wait_until};

const UNPUBLISHED: &str = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(trigger_dispatcher::clock::unix_ms()).unwrap()
}

/// Its broker is a Redis of the test's own.
async fn scene(redis: &PrivateRedis) -> Scene {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CELERY_BROKER_URL", &redis.url());
    scene
}

/// Waits until a trigger was claimed so many seconds ago.
async fn claimed_for(scene: &Scene, seconds: u32) {
    let sql = format!("select count(*) from dispatcher.triggers where claimed_at < now() - interval '{seconds} s'");
    let is_there = async || {
        scene.total().await;
        Some(scene.database.number(&sql).await).filter(|count| *count == 1)
    };
    scene.decided(1).await;
    wait_until(&format!("a claim that is {seconds} s old"), 60, is_there).await;
}

/// One task, which workers accept, and whose slot is held for longer than they do.
async fn assert_one_live_task(scene: &Scene, redis: &PrivateRedis, margin: i64) {
    let mut queue = TestQueue::at(&redis.url(), &scene.setting.queue);
    wait_until("a confirmation", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 0)).await;
    let tasks = queue.tasks();
    assert_eq!(tasks.len(), 1);
    assert!(tasks[0].expires > now(), "workers would throw it away: {}", tasks[0].expires);
    let sql = "select (extract(epoch from leased_until) * 1000)::bigint from dispatcher.slots";
    let leased_until_ms = scene.database.number(sql).await;
    let left_ms = leased_until_ms - tasks[0].expires.as_millisecond();
    assert!(left_ms >= margin * 1_000, "the slot is free {left_ms} ms after the task expires");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_lease_ends_with_a_task_that_workers_accept() {
    let mut redis = PrivateRedis::start();
    let mut scene = scene(&redis).await;
    scene.setting.set("TRIGGER_LEASE_SECONDS", "6").set("TRIGGER_LEASE_MARGIN_SECONDS", "2");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    redis.kill();
    scene.send(&[signal("one", "AAPL")]);
    claimed_for(&scene, 9).await;
    redis.up();
    assert_one_live_task(&scene, &redis, 2).await;
    assert_eq!(dispatcher.events("publication_lapsed").len(), 0);
    assert!(dispatcher.stop().success());
}

/// What waits in a stopped server is served when it goes on, though nobody waits for the answer any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stood_still_for_longer_than_the_lease_serves_no_task_of_then() {
    let redis = PrivateRedis::start();
    let mut scene = scene(&redis).await;
    scene.setting.set("TRIGGER_LEASE_SECONDS", "8").set("TRIGGER_LEASE_MARGIN_SECONDS", "1");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    redis.signal("STOP");
    scene.send(&[signal("one", "AAPL")]);
    claimed_for(&scene, 12).await;
    redis.signal("CONT");
    assert_one_live_task(&scene, &redis, 1).await;
    assert!(dispatcher.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_too_old_when_the_broker_comes_back_is_given_up_and_its_slot_is_free() {
    let mut redis = PrivateRedis::start();
    let mut scene = scene(&redis).await;
    scene.setting.set("MAX_SIGNAL_AGE_SECONDS", "4");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    redis.kill();
    scene.send(&[signal("one", "AAPL")]);
    claimed_for(&scene, 5).await;
    // It makes no difference who claimed it.
    dispatcher.kill();
    redis.up();
    let dispatcher = scene.setting.start();
    let given_up = dispatcher.wait_for_event("trigger_given_up");
    assert_eq!(given_up["reason"], "stale");
    let sql = "select count(*) from dispatcher.triggers where given_up = 'stale' and failed_at is not null";
    assert_eq!((scene.database.number(sql).await, scene.database.number(UNPUBLISHED).await), (1, 0));
    let mut queue = TestQueue::at(&redis.url(), &scene.setting.queue);
    assert_eq!(queue.len(), 0);

    scene.send(&[signal("two", "AAPL")]);
    assert_eq!(scene.decided(2).await.triggered, 2, "the slot is free, though the lease of the first runs");
    wait_until("the second task", 60, async || Some(queue.len()).filter(|length| *length == 1)).await;
    assert!(dispatcher.stop().success());
}

/// Published, and nobody lived to confirm it; the guard's life is over, and the dispatcher comes back.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_started_is_not_published_again_however_old_it_is() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CELERY_RESULT_BACKEND", &service("TEST_REDIS_URL"));
    let [completed, by_result, unknown] = ["COMPLETED", "RESULT", "NONE"];
    for ticker in [completed, by_result, unknown] {
        scene.database.pipeline("watches", &[ticker]).await;
    }
    let dispatcher = scene.setting.start();
    for ticker in [completed, by_result, unknown] {
        scene.send(&[signal(ticker, ticker)]);
    }
    scene.enqueued(3);
    wait_until("confirmations", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 0)).await;
    dispatcher.kill();

    let tasks = scene.queue.tasks();
    let of = |ticker: &str| tasks.iter().find(|task| task.symbol() == ticker).unwrap().clone();
    let (first, second) = (of(completed), of(by_result));
    let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'COMPLETED')";
    scene.database.client.execute(sql, &[&first.id, &first.pipeline_id]).await.unwrap();
    scene.queue.put_result(second.id, "SUCCESS");
    let mut redis = redis::Client::open(service("TEST_REDIS_URL")).unwrap().get_connection().unwrap();
    for row in scene.database.rows("select publication_id from dispatcher.publications", &[]).await {
        let id: Uuid = row.get(0);
        let _: i64 = redis.del(format!("trigger-dispatcher:published:{id}")).unwrap();
    }
    let sql = "update dispatcher.publications set enqueued_at = null, claimed_at = claimed_at - interval '1 hour';
        update dispatcher.triggers set claimed_at = claimed_at - interval '1 hour'";
    scene.database.client.batch_execute(sql).await.unwrap();

    let dispatcher = scene.setting.start();
    wait_until("confirmations", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 0)).await;
    assert!(dispatcher.stop().success());
    let times = |ticker: &str, queue: &mut TestQueue| queue.tasks().iter().filter(|task| task.symbol() == ticker).count();
    let counts = [completed, by_result, unknown].map(|ticker| times(ticker, &mut scene.queue));
    assert_eq!(counts, [1, 1, 2], "only of the last one nobody knows that it has started");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_entry_waits_for_the_result_backend_and_holds_up_no_young_one() {
    let mut results = PrivateRedis::start();
    let mut scene = Scene::new(1).await;
    scene.setting.set("CELERY_RESULT_BACKEND", &results.url());
    for ticker in ["OLD", "YOUNG"] {
        scene.database.pipeline("watches", &[ticker]).await;
    }
    let dispatcher = scene.setting.start();
    // An entry each.
    for (ticker, tasks) in [("OLD", 1), ("YOUNG", 2)] {
        scene.send(&[signal(ticker, ticker)]);
        scene.enqueued(tasks);
    }
    wait_until("confirmations", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 0)).await;
    results.kill();
    let symbol = "(select t.symbol from dispatcher.triggers t where t.publication_id = p.publication_id limit 1)";
    let sql = format!(
        "update dispatcher.publications p set enqueued_at = null,
            claimed_at = claimed_at - case {symbol} when 'OLD' then interval '1 hour' else interval '1 minute' end"
    );
    scene.database.client.batch_execute(&sql).await.unwrap();
    // Its guard is there: it is found to be published.
    wait_until("the young one", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 1)).await;
    let waits = format!("select count(*) from dispatcher.publications p where enqueued_at is null and {symbol} = 'OLD'");
    assert_eq!(scene.database.number(&waits).await, 1);
    results.up();
    wait_until("the old one", 60, async || Some(scene.database.number(UNPUBLISHED).await).filter(|count| *count == 0)).await;
    assert!(dispatcher.stop().success());
}
