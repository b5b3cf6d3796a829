//! A claim that PostgreSQL takes long to begin: between its transaction's time and its look at the executions, anything may happen.

use std::time::{Duration, Instant};

use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::{ClaimRequest, Claims as _, Database, Verdict, migrate};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{held, request};
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
