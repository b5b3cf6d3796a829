//! A claim that PostgreSQL takes long to begin: between its transaction's time and its look at the executions, anything may happen.

use std::time::{Duration, Instant};

use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::{ClaimRequest, Claims as _, Database, Verdict, migrate};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{held, request};
use crate::support::scene::{Scene, signal};
use crate::support::settings::config;

const DEADLINE: Duration = Duration::from_secs(60);

async fn won(claims: &mut PostgresClaims, request: &ClaimRequest) -> usize {
    match claims.claim(request).await.unwrap() {
        Verdict::Claimed(claimed) => claimed.won.len(),
        other => panic!("expected a decision, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_was_over_before_the_claim_looked_does_not_free_its_slot() {
    let database = TestDatabase::create().await;
    let config = config("redis://unused/0", Some(&database));
    let store = Database::new(&config.postgres);
    migrate::migrate(&store).await.unwrap();
    let mut claims = PostgresClaims::new(store, ClaimTerms::new(&config));
    let start = held(&claims.open(&[0]).await.unwrap()[0]);
    let pipeline = database.pipeline("p", &["AAPL"]).await;
    // The statement is prepared by now: what waits next is the claim itself.
    assert_eq!(won(&mut claims, &request(start, 0, &[])).await, 0);

    let blocker = database.another().await;
    blocker.batch_execute("begin; lock table executions in access exclusive mode").await.unwrap();
    let held_up = tokio::spawn(async move {
        let won = won(&mut claims, &request(start, 1, &[pipeline])).await;
        (claims, won)
    });
    let deadline = Instant::now() + DEADLINE;
    while database.number("select count(*) from pg_locks where relation = 'executions'::regclass and not granted").await == 0 {
        assert!(Instant::now() < deadline, "the claim never came to the executions");
    }
    // Its transaction has begun. Now an execution of an earlier trigger begins and ends.
    let sql = format!(
        "insert into executions (id, pipeline_id, status, created_at) values ('{}', '{pipeline}', 'COMPLETED', clock_timestamp()); commit",
        Uuid::new_v4()
    );
    blocker.batch_execute(&sql).await.unwrap();
    let (mut claims, first) = held_up.await.unwrap();
    assert_eq!(first, 1, "the pipeline is idle");

    let second = won(&mut claims, &request(start, 2, &[pipeline])).await;
    assert_eq!(second, 0, "its task has not even started");
}

/// Each slot takes PostgreSQL 16 s, so two take longer than one statement may.
const SLOW: &str = "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(16); return new; end $$;
    create trigger slow before insert on dispatcher.slots for each row execute function slow()";

#[tokio::test]
async fn a_claim_that_the_server_gives_up_is_asked_again_with_half_the_slots() {
    let mut scene = Scene::new(1).await;
    for name in ["one", "other"] {
        scene.database.pipeline(name, &["AAPL"]).await;
    }
    let dispatcher = scene.setting.start();
    scene.database.run(SLOW).await;
    scene.send(&[signal("1", "AAPL")]);
    let told = dispatcher.wait_for_event("claim_timed_out");
    assert_eq!((told["slots"].as_u64(), told["level"].as_str()), (Some(2), Some("warn")), "{told}");
    scene.enqueued(2);
    let total = scene.decided(1).await;
    assert_eq!((total.triggered, total.consumed), (1, 1));
    assert_eq!(dispatcher.log().events("claim_stuck").len(), 0, "one slot is quick enough");
}

#[tokio::test]
async fn a_single_slot_that_the_server_gives_up_is_an_alarm_and_is_decided_once_the_server_can() {
    let mut scene = Scene::new(1).await;
    scene.database.pipeline("one", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.database.run(&SLOW.replace("16", "31")).await;
    scene.send(&[signal("1", "AAPL")]);
    let told = dispatcher.wait_for_event("claim_stuck");
    assert_eq!(told["level"], "error", "{told}");
    scene.database.run("create or replace function slow() returns trigger language plpgsql as $$ begin return new; end $$").await;
    scene.enqueued(1);
    assert_eq!(scene.decided(1).await.triggered, 1);
}
