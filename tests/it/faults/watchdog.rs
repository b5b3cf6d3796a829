//! A client that is stuck: Kafka has records, answers everything else, and gives none of them.

use std::time::Duration;

use crate::support::drill::Drill;
use crate::support::gate::{FETCH, Weather};
use crate::support::{stopwatch, wait_until};

use super::kafka::kafka_behind_a_gate;

#[tokio::test]
async fn records_that_kafka_has_and_never_gives_end_the_process_and_the_next_one_decides_them() {
    let mut drill = Drill::new(3).await;
    drill.scene.setting.set("STALL_SECONDS", "2").set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000");
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    let log = dispatcher.log();
    // What a stuck client looks like from here: everything is answered but what it asks records with.
    gate.weather(Weather::Without(FETCH));
    let took = stopwatch();
    wait_until("the watch to have looked", 30, async || (took() > Duration::from_secs(1)).then_some(())).await;
    drill.round();
    let status = dispatcher.ended(30);
    assert_eq!(status.code(), Some(1), "{:?}", log.lines());
    assert!(took() > Duration::from_secs(2) && took() < Duration::from_secs(15), "{:?}", took());
    assert_eq!(log.events("intake_stalled").len(), 1);
    drill.assert_nothing_moved();
    // Whoever supervises starts it again; the group has to notice that the first is gone.
    gate.weather(Weather::Fair);
    let _next = drill.scene.setting.launch();
    drill.settles_within(30).await;
}
