//! Faults of Redis as a broker. Each test has a Redis of its own, and each task is there once in the end.

use redis::Commands as _;

use super::trial::{CANARY, List, Trial};
use crate::support::dispatcher::Setting;
use crate::support::names::{Names, address};
use crate::support::private_redis::PrivateRedis;
use crate::support::wire::{Flow, Wire};
use crate::support::{stopwatch, wait_until};

/// The service reaches Redis as `broker` says.
async fn trial(redis: &PrivateRedis, broker: &str) -> Trial<List> {
    Trial::new(broker, async |setting: &Setting| List { url: redis.url(), name: setting.queue.clone() }).await
}

/// A user whose rights can be taken and given back.
fn with_a_user(redis: &PrivateRedis) -> String {
    redis.order(&format!("ACL SETUSER dispatcher on >{CANARY} ~* &* +@all"));
    redis.url_of("dispatcher", CANARY)
}

#[tokio::test]
async fn a_redis_that_was_killed_and_stays_away_costs_one_line_and_no_task() {
    let mut redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let dispatcher = trial.scene.setting.start();
    trial.struck(&dispatcher, async || redis.kill()).await;
    // Longer than the sweepers' patience: they leave the tasks to the loop, which renews their lease.
    trial.swept_over().await;
    assert_eq!(dispatcher.events("sweep_failed").len(), 0);
    trial.healed(async || redis.up()).await;
    trial.assert_tasks(true).await;
    let recovered = dispatcher.wait_for_event("recovered");
    assert!(recovered["after"] == "enqueue_failed" && recovered["attempts"].as_u64() >= Some(3), "{recovered}");
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_redis_killed_again_and_again_under_load_gets_each_task_once() {
    let mut redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let dispatcher = trial.scene.setting.start();
    for _ in 0..3 {
        trial.send(60);
        redis.kill();
        trial.send(60);
        redis.up();
    }
    trial.arrived().await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 3);
}

#[tokio::test]
async fn a_redis_that_takes_seconds_to_answer_gets_each_task_once() {
    let redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let dispatcher = trial.scene.setting.start();
    trial.send(3);
    trial.arrived().await;
    // Within the time that an answer may take: no failure at all.
    redis.order("CLIENT PAUSE 2000");
    let since = stopwatch();
    trial.send(20);
    trial.arrived().await;
    assert!(since().as_secs_f64() > 1.5, "the pause was not felt");
    assert_eq!(dispatcher.events("enqueue_failed").len(), 0);
    // Beyond it: what Redis was asked to do meanwhile, it may do after the pause.
    trial.struck(&dispatcher, async || redis.order("CLIENT PAUSE 6500")).await;
    trial.arrived().await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_password_that_becomes_right_is_enough() {
    let redis = PrivateRedis::start();
    redis.order("ACL SETUSER dispatcher on >another ~* &* +@all");
    let mut trial = trial(&redis, &redis.url_of("dispatcher", CANARY)).await;
    let dispatcher = trial.scene.setting.start();
    dispatcher.wait_for_event("broker_not_ready");
    trial.send(20);
    dispatcher.wait_for_event("enqueue_failed");
    trial.healed(async || redis.order(&format!("ACL SETUSER dispatcher >{CANARY}"))).await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_permission_of_redis_that_is_revoked_and_given_back_costs_no_task() {
    let redis = PrivateRedis::start();
    let mut trial = trial(&redis, &with_a_user(&redis)).await;
    let dispatcher = trial.scene.setting.start();
    // The first before the script runs, the others in its midst: what it had done by then stays done.
    let cases =
        [("-eval -evalsha", "+eval +evalsha"), ("resetkeys", "~*"), ("-lpush", "+lpush"), ("-set", "+set"), ("-get", "+get")];
    for (revoke, give_back) in cases {
        trial.struck(&dispatcher, async || redis.order(&format!("ACL SETUSER dispatcher {revoke}"))).await;
        trial.healed(async || redis.order(&format!("ACL SETUSER dispatcher {give_back}"))).await;
    }
    trial.assert_tasks(true).await;
    assert_eq!(EVICTION.map(|event| dispatcher.events(event).len()), [0, 0, 0]);
    Trial::<List>::assert_calm(dispatcher, cases.len());
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_and_a_primary_again_gets_each_task_once() {
    let redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let dispatcher = trial.scene.setting.start();
    // Nobody listens on port 1: it keeps what it has, and takes no writes.
    trial.struck(&dispatcher, async || redis.order("REPLICAOF 127.0.0.1 1")).await;
    assert!(dispatcher.wait_for_event("enqueue_failed").to_string().to_lowercase().contains("read only"));
    trial.healed(async || redis.order("REPLICAOF NO ONE")).await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_redis_without_memory_is_waited_for() {
    let redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let dispatcher = trial.scene.setting.start();
    trial.struck(&dispatcher, async || redis.order("CONFIG SET maxmemory 1")).await;
    assert!(dispatcher.wait_for_event("enqueue_failed").to_string().contains("maxmemory"));
    trial.healed(async || redis.order("CONFIG SET maxmemory 0")).await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_key_of_another_type_in_place_of_the_queue_costs_no_task() {
    let redis = PrivateRedis::start();
    let mut trial = trial(&redis, &redis.url()).await;
    let (list, kept) = (trial.scene.setting.queue.clone(), "kept");
    let dispatcher = trial.scene.setting.start();
    let replace = async || {
        let () = redis::pipe().atomic().rename(&list, kept).set(&list, "no list").query(&mut redis.connect()).unwrap();
    };
    trial.struck(&dispatcher, replace).await;
    assert!(dispatcher.wait_for_event("enqueue_failed").to_string().contains("WRONGTYPE"));
    let put_back = async || {
        let () = redis::pipe().atomic().del(&list).rename(kept, &list).query(&mut redis.connect()).unwrap();
    };
    trial.healed(put_back).await;
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_name_that_points_to_another_redis_address_is_followed() {
    let redis = PrivateRedis::start();
    let target = format!("127.0.0.1:{}", redis.port);
    let old = Wire::start("127.0.0.2", 0, &target);
    let mut trial = trial(&redis, &format!("redis://broker.test:{}/0", old.port)).await;
    let names = Names::give(&mut trial.scene.setting, "broker.test", address("127.0.0.2"));
    let dispatcher = trial.scene.setting.start();
    trial.struck(&dispatcher, async || old.set(Flow::Cut)).await;
    let new = Wire::start("127.0.0.3", old.port, &target);
    trial.healed(async || names.point("broker.test", address("127.0.0.3"))).await;
    assert!(new.accepted() > 0);
    trial.assert_tasks(true).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}

const EVICTION: [&str; 3] = ["redis_may_evict_tasks", "redis_may_evict_guards", "redis_eviction_unknown"];

#[tokio::test]
async fn a_redis_that_may_throw_tasks_away_is_told_of_at_the_start() {
    let redis = PrivateRedis::start();
    let broker = with_a_user(&redis);
    let trial = trial(&redis, &broker).await;
    let ask = |orders: &[&str], expected: &[&str], why: &str| {
        for order in orders {
            redis.order(order);
        }
        let dispatcher = trial.scene.setting.launch();
        dispatcher.wait_for_event("partitions_changed");
        // On a busy machine the group may be quicker than Redis.
        for event in expected {
            dispatcher.wait_for_event(event);
        }
        let told: Vec<_> = EVICTION.into_iter().filter(|event| !dispatcher.events(event).is_empty()).collect();
        let log = dispatcher.log();
        assert!(dispatcher.stop().success());
        assert!(!log.lines().iter().any(|line| line.contains(CANARY)));
        assert_eq!(told, expected, "{orders:?} {why}");
    };
    ask(&["CONFIG SET maxmemory 100mb"], &[], "it never evicts");
    ask(&["CONFIG SET maxmemory-policy allkeys-lru"], &["redis_may_evict_tasks"], "");
    ask(&["ACL SETUSER dispatcher -config"], &["redis_may_evict_tasks"], "INFO tells it too");
    ask(&["ACL SETUSER dispatcher +config -info"], &["redis_may_evict_tasks"], "CONFIG tells it too");
    ask(&["CONFIG SET maxmemory-policy volatile-ttl"], &["redis_may_evict_guards"], "");
    ask(&["ACL SETUSER dispatcher -config"], &["redis_eviction_unknown"], "");
    ask(&["ACL SETUSER dispatcher +@all", "CONFIG SET maxmemory 0"], &[], "without a limit nothing is evicted");
}

#[tokio::test]
async fn a_failover_to_a_redis_that_may_throw_tasks_away_is_told_of_and_goes_on() {
    let (first, second) = (PrivateRedis::start(), PrivateRedis::start());
    second.order("CONFIG SET maxmemory 100mb");
    second.order("CONFIG SET maxmemory-policy allkeys-lru");
    let ways = ["127.0.0.2", "127.0.0.3"];
    let old = Wire::start(ways[0], 0, &format!("127.0.0.1:{}", first.port));
    let _new = Wire::start(ways[1], old.port, &format!("127.0.0.1:{}", second.port));
    let mut trial = trial(&first, &format!("redis://broker.test:{}/0", old.port)).await;
    let names = Names::give(&mut trial.scene.setting, "broker.test", address(ways[0]));
    let dispatcher = trial.scene.setting.start();
    trial.send(3);
    trial.arrived().await;
    assert_eq!(EVICTION.map(|event| dispatcher.events(event).len()), [0, 0, 0]);
    names.point("broker.test", address(ways[1]));
    old.set(Flow::Cut);
    trial.send(20);
    let told = dispatcher.wait_for_event("redis_may_evict_tasks");
    assert!(told["text"].as_str().unwrap().contains("noeviction"), "it says what to do: {told}");
    // Told, and not refused.
    let (mut there, list) = (second.connect(), trial.scene.setting.queue.clone());
    wait_until("the tasks in the new one", 60, async || Some(()).filter(|()| there.llen(&list) == Ok(20))).await;
    Trial::<List>::assert_calm(dispatcher, 1);
}
