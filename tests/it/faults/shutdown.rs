//! Closing has a deadline: a client library that hangs does not keep the process.

use std::time::Duration;

use crate::support::drill::Drill;
use crate::support::gate::Weather;
use crate::support::stopwatch;

use super::kafka::kafka_behind_a_gate;

#[tokio::test]
async fn sigterm_while_kafka_swallows_everything_ends_the_process_within_its_grace() {
    let mut drill = Drill::new(3).await;
    drill.scene.setting.set("SHUTDOWN_GRACE_SECONDS", "2").set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000");
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    let log = dispatcher.log();
    gate.weather(Weather::Hole);
    drill.round();
    let took = stopwatch();
    dispatcher.signal("TERM");
    let status = dispatcher.ended(30);
    assert_eq!(status.code(), Some(1), "not in order, and says so: {:?}", log.lines());
    assert!(took() > Duration::from_secs(2) && took() < Duration::from_secs(5), "{:?}", took());
    assert_eq!(log.events("stopped")[0]["in_order"], false);
    drill.assert_nothing_moved();
    gate.weather(Weather::Fair);
    let _next = drill.scene.setting.launch();
    drill.settles_within(30).await;
}
