//! Data that arrives changed is never skipped: it is read again, and a partition where that does not help stops.

use serde_json::json;

use super::{output, reaches, refusal, send, set, stopped};
use crate::support::gate::{Gate, Weather};
use crate::support::scene::Scene;
use crate::support::service;

/// What the corrupt record says; no other one does.
const MARK: &[u8] = b"MARK-OF-THE-CORRUPT";

async fn behind_a_gate() -> (Scene, Gate) {
    let mut scene = Scene::new(2).await;
    let mut gate = Gate::kafka(&service("TEST_KAFKA"));
    scene.setting.set("KAFKA_BOOTSTRAP_SERVERS", &gate.address.to_string());
    gate.open();
    (scene, gate)
}

/// Five records, a corrupt batch of one, and three more.
fn send_all(scene: &Scene, partition: i32) {
    send(scene, partition, 5);
    let mark = String::from_utf8(MARK.to_vec()).unwrap();
    scene.topic.send_json(partition, &json!({"signal_id": mark, "tickers": [{"ticker": "NOBODY"}]}));
    scene.topic.flush();
    send(scene, partition, 3);
}

#[tokio::test]
async fn corrupt_data_stops_its_partition_and_no_other_until_it_is_skipped() {
    let (scene, gate) = behind_a_gate().await;
    gate.weather(Weather::Corrupt(MARK));
    send_all(&scene, 0);
    send(&scene, 1, 4);
    let dispatcher = scene.setting.start();
    assert_eq!(stopped(&dispatcher, 0), "corrupt");
    assert_eq!(dispatcher.events("partition_stopped")[0]["corrupt_at"], 5);
    assert_eq!(dispatcher.events("corrupt_data").len(), 2, "it was read three times");
    let progress = reaches(&scene, [5, 4]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [5, 4], "all before it, and nothing behind it");
    send(&scene, 1, 2);
    reaches(&scene, [5, 6]).await;

    // The other partition is being read, and may not be set; this one may.
    let line = refusal(&scene, &set("1", "latest"));
    assert!(line.contains("is being read by"), "{line}");
    let said = output(&scene, &set("0", "6"));
    assert!(said.contains("5 → 6; 1 offsets are not decided"), "{said}");
    let progress = reaches(&scene, [9, 6]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [8, 6]);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn corruption_on_the_way_is_over_when_it_is_read_again() {
    let (scene, gate) = behind_a_gate().await;
    gate.weather(Weather::Corrupt(MARK));
    send_all(&scene, 0);
    let dispatcher = scene.setting.start();
    dispatcher.wait_for_event("corrupt_data");
    gate.weather(Weather::Fair);
    let progress = reaches(&scene, [9, 0]).await;
    assert_eq!(progress[0].consumed, 9, "each once");
    assert!(dispatcher.stop().success());
}
