//! A dependency that fails and recovers again and again, under a flow of signals: few words of it, and all is counted.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::drill::{Drill, SECONDS_TO_RECOVER, assert_calm};
use crate::support::gate::Gate;
use crate::support::{host_and_port, service, wait_for};

use super::postgres::postgres_behind_a_gate;
use super::trial::EACH_FAILURE;

const FLAPS: usize = 8;

/// Closes the gate until a step fails with `event`, again and again, and lets all be decided in between.
async fn flap(mut drill: Drill, mut gate: Gate, event: &str) {
    drill.scene.setting.set("LOG_LEVEL", EACH_FAILURE);
    gate.open();
    let dispatcher = drill.start().await;
    let log = dispatcher.log();
    for flap in 0..FLAPS {
        gate.close();
        let felt = log.events(event).len();
        drill.round();
        wait_for(&format!("failure {flap}"), 30, || (log.events(event).len() > felt).then_some(()));
        gate.open();
        drill.settles_within(SECONDS_TO_RECOVER).await;
    }
    let age = dispatcher.age();
    assert_calm(dispatcher, 1);
    let mut lines = BTreeMap::<String, u64>::new();
    for line in log.lines().iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["level"] != "debug" && (line["event"] == event || line["after"] == event) {
            *lines.entry(line["event"].to_string()).or_default() += 1;
        }
    }
    assert_eq!(lines.len(), 2, "that it fails, and that it works again: {lines:?}");
    assert!(lines.values().all(|lines| *lines <= 1 + age.as_secs() / 60), "more than a line a minute: {lines:?}");
    // Nothing is forgotten: the count goes on from line to line, until one tells that it is over.
    let outages: u64 =
        log.sum("recovered", "outages") + log.events(event).last().and_then(|line| line["outages"].as_u64()).unwrap();
    assert!(outages >= FLAPS as u64, "{outages}");
}

#[tokio::test]
async fn a_postgresql_that_fails_on_every_batch_and_recovers_costs_two_lines_a_minute() {
    let mut drill = Drill::new(FLAPS + 1).await;
    let gate = postgres_behind_a_gate(&mut drill.scene.setting);
    flap(drill, gate, "claim_failed").await;
}

#[tokio::test]
async fn a_redis_that_fails_on_every_batch_and_recovers_costs_two_lines_a_minute() {
    let mut drill = Drill::new(FLAPS + 1).await;
    let url = service("TEST_REDIS_URL");
    let gate = Gate::closed(&host_and_port(&url));
    drill.scene.setting.set("CELERY_BROKER_URL", &url.replace(&host_and_port(&url), &gate.address.to_string()));
    flap(drill, gate, "enqueue_failed").await;
}
