//! One trigger for each signal and slot, though no key spans two partitions.

use trigger_dispatcher::tasks::trigger_id;
use uuid::Uuid;

use super::{Ledger, claim, request};
use crate::support::wait_until;

/// Waits until so many sessions wait for a lock.
async fn waiting(ledger: &Ledger, sessions: i64) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait_until("a claim that is held up", 60, async || (ledger.database.number(sql).await >= sessions).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_an_older_partition_is_known() {
    let mut ledger = Ledger::create().await;
    ledger.ten_days_each().await;
    for days in [0, 15, 55] {
        let pipeline = ledger.past(days * super::DAY).await;
        assert_eq!(ledger.claim(pipeline, "past").await, (0, 1), "{days} days later");
    }
    assert_eq!(ledger.partitions("triggers").await.len(), 9);
}

/// Its slot has been released meanwhile, so that nothing but the ledger tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_began_before_the_same_signal_was_claimed_across_the_border_is_refused_and_then_knows_it() {
    let mut ledger = Ledger::create().await;
    ledger.ten_days_each().await;
    // Midnight is not now; that it might be is all that the moment decides.
    ledger
        .database
        .run("create or replace function dispatcher.may_cross_a_border() returns boolean language sql as 'select true'")
        .await;
    let pipeline = Uuid::new_v4();
    let (mut late, start) = ledger.another(1).await;
    // The statement is prepared by now: what waits next is the claim itself, with its snapshot taken.
    assert_eq!(claim(&mut late, &request(start, 0, Uuid::new_v4(), "other")).await.unwrap(), (1, 0));
    let blocker = ledger.database.another().await;
    blocker.batch_execute("begin; select from dispatcher.progress where partition = 1 for update").await.unwrap();
    let the_same = request(start, 1, pipeline, "one");
    let held_up = tokio::spawn(async move {
        let result = claim(&mut late, &the_same).await;
        (late, the_same, result)
    });
    waiting(&ledger, 1).await;
    assert_eq!(ledger.claim(pipeline, "one").await, (1, 0));
    ledger.age(pipeline, 15 * super::DAY).await;
    ledger.database.run("delete from dispatcher.slots").await;
    blocker.batch_execute("commit").await.unwrap();

    let (mut late, the_same, result) = held_up.await.unwrap();
    let error = result.unwrap_err().to_string();
    assert!(error.contains("(23505)"), "{error}");
    assert_eq!(claim(&mut late, &the_same).await.unwrap(), (0, 1));
    let made = format!("select count(*) from dispatcher.triggers where trigger_id = '{}'", trigger_id(pipeline, "", "one"));
    assert_eq!(ledger.database.number(&made).await, 1);
}

/// The lease of the one that it waited for has ended already; the slot still says whose it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waited_for_the_same_signals_claim_does_not_take_its_slot() {
    let mut ledger = Ledger::create().await;
    ledger.ten_days_each().await;
    let pipeline = Uuid::new_v4();
    assert_eq!(ledger.claim(Uuid::new_v4(), "other").await, (1, 0));
    let one = trigger_id(pipeline, "", "one");
    let other = ledger.database.another().await;
    other
        .batch_execute(&format!(
            "begin;
             insert into dispatcher.slots values ('{pipeline}', '', '{one}', now() - interval '15 days', now() - interval '15 days');
             insert into dispatcher.triggers values ('{one}', '{pipeline}', '', 'one', 'AAPL', 'topic', 0, 0, '{{}}',
                 now() - interval '15 days', now() - interval '15 days', gen_random_uuid())"
        ))
        .await
        .unwrap();
    let (mut late, start) = ledger.another(1).await;
    let held_up = tokio::spawn(async move { claim(&mut late, &request(start, 0, pipeline, "one")).await.unwrap() });
    waiting(&ledger, 1).await;
    other.batch_execute("commit").await.unwrap();
    assert_eq!(held_up.await.unwrap(), (0, 0));
    assert_eq!(ledger.database.number(&format!("select count(*) from dispatcher.triggers where trigger_id = '{one}'")).await, 1);
    // The next signal finds it free.
    assert_eq!(ledger.claim(pipeline, "two").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_for_which_nobody_made_a_partition_is_kept_in_the_default_one_which_then_becomes_it() {
    let mut ledger = Ledger::create().await;
    ledger.database.run("drop table dispatcher.triggers_first, dispatcher.publications_first").await;
    let pipeline = Uuid::new_v4();
    assert_eq!(ledger.claim(pipeline, "one").await, (1, 0));
    let in_default = "select count(*) from dispatcher.triggers_default";
    assert_eq!(ledger.database.number(in_default).await, 1);
    let made = "select count(*) filter (where from_default) from dispatcher.prepare_partitions('triggers', 4)";
    assert_eq!(ledger.database.number(made).await, 1);
    assert_eq!(ledger.database.number(made).await, 0, "there are enough now");
    assert_eq!((ledger.database.number(in_default).await, ledger.triggers().await), (0, 1));
    assert_eq!(ledger.claim(pipeline, "one").await, (0, 1));
    assert_eq!(ledger.claim(Uuid::new_v4(), "one").await, (1, 0));
    assert_eq!(ledger.database.number(in_default).await, 0);
}
