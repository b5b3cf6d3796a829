//! `dead-letters replay`: a letter is the record that it was, however often it is sent again.

use std::collections::BTreeSet;

use serde_json::json;

use super::output;
use crate::support::scene::Scene;
use crate::support::wait_until;

const DAY_MS: i64 = 24 * 3_600_000;

/// A signal without an id of its own.
fn nameless(ticker: &str) -> Vec<u8> {
    json!({"tickers": [{"ticker": ticker, "signal": "BULLISH"}]}).to_string().into_bytes()
}

/// A letter that a version before this one has left, of a record that this one understands.
fn leave(scene: &Scene, ticker: &str, offset: i64, time_ms: i64, more: &[(&str, &str)]) {
    let (offset, time_ms) = (offset.to_string(), time_ms.to_string());
    let ours = [
        ("dead-letter-reason", "wrong_type"),
        ("dead-letter-topic", scene.topic.name.as_str()),
        ("dead-letter-partition", "0"),
        ("dead-letter-offset", offset.as_str()),
        ("dead-letter-time", time_ms.as_str()),
    ];
    scene.topic.send_dead_letter(&nameless(ticker), &[&ours, more].concat());
    scene.topic.flush();
}

async fn now_ms(scene: &Scene) -> i64 {
    scene.database.number("select (extract(epoch from now()) * 1000)::bigint").await
}

#[tokio::test]
async fn a_replay_is_repeatable_goes_on_after_a_bad_letter_and_ends_with_a_summary() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let other = scene.database.pipeline("other", &["MSFT"]).await;
    let dispatcher = scene.setting.start();
    let now = now_ms(&scene).await;
    leave(&scene, "AAPL", 100, now - 1_000, &[]);
    leave(&scene, "AAPL", 101, now - 1_000, &[("dead-letter-truncated-from", "20000000")]);
    leave(&scene, "MSFT", 102, now - 1_000, &[]);
    leave(&scene, "TSLA", 103, now - 40 * DAY_MS, &[]);
    let replayed = scene.setting.run(&["dead-letters", "replay"]);
    let (said, line) = (String::from_utf8_lossy(&replayed.stdout), String::from_utf8_lossy(&replayed.stderr));
    assert_eq!(replayed.status.code(), Some(1), "{said}{line}");
    assert!(said.contains("0:1 is left out: it was too large"), "{said}");
    assert!(said.contains("3 sent to") && said.contains("1 left out"), "{said}");
    assert!(said.contains("1 of them are older than MAX_SIGNAL_AGE_SECONDS"), "{said}");
    let total = scene.decided(3).await;
    assert_eq!((total.triggered, total.stale), (2, 1), "a signal of weeks ago does not become fresh: {total:?}");
    // What is decided together is enqueued in the order of the pipelines' ids.
    assert_eq!(BTreeSet::from_iter(scene.enqueued(2)), BTreeSet::from([pipeline, other]));

    // The pipelines are idle again, and the same letters come again.
    scene.database.run("update dispatcher.slots set leased_until = now()").await;
    output(&scene, &["dead-letters", "replay", "--at", "0:0"]);
    output(&scene, &["dead-letters", "replay", "--at", "0:2"]);
    let total = scene.decided(5).await;
    assert_eq!((total.triggered, total.redelivered), (2, 2), "{total:?}");
    assert_eq!(scene.queue.len(), 2, "nothing starts twice");
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn a_record_that_fails_again_keeps_its_first_identity_and_time() {
    let scene = Scene::new(1).await;
    let dispatcher = scene.setting.start();
    let time_ms = now_ms(&scene).await - 5_000;
    scene.topic.send_at(0, time_ms, b"not a signal");
    scene.topic.flush();
    scene.decided(1).await;
    let mut ids = Vec::new();
    for round in 1..=3 {
        let letters =
            wait_until("a dead letter", 30, async || Some(scene.topic.dead_letters()).filter(|letters| letters.len() == round))
                .await;
        let last = &letters[round - 1];
        assert_eq!(last.header("dead-letter-time"), Some(time_ms.to_string()), "round {round}");
        ids.extend(last.header("trigger-dispatcher-signal-id"));
        output(&scene, &["dead-letters", "replay", "--at", &format!("0:{}", round - 1)]);
        scene.decided(round as i64 + 1).await;
    }
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    assert!(dispatcher.stop().success());
}

/// On a topic where the broker sets the time, a replayed record says its own.
#[tokio::test]
async fn the_time_of_a_replayed_record_counts_also_where_the_broker_sets_another() {
    let scene = Scene::new(1).await;
    scene.topic.configure("message.timestamp.type", "LogAppendTime").await;
    let dispatcher = scene.setting.start();
    leave(&scene, "AAPL", 100, now_ms(&scene).await - 40 * DAY_MS, &[]);
    output(&scene, &["dead-letters", "replay"]);
    assert_eq!(scene.decided(1).await.stale, 1);
    assert!(dispatcher.stop().success());
}
