//! Where partitions go on: after another member of the group, on another cluster, behind corrupt data, and where an operator says.

mod ahead;
mod corrupt;
mod log;
mod replay;
mod set;

use crate::support::dispatcher::Instance;
use crate::support::partitions::{five_each, output, reaches, send};
use crate::support::scene::Scene;

/// The one line with which a command refuses.
fn refusal(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.setting.run(arguments);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{arguments:?}: {line}");
    line
}

fn set<'a>(partition: &'a str, to: &'a str) -> [&'a str; 7] {
    ["offsets", "set", "--partition", partition, "--to", to, "--yes"]
}

/// Waits for the alarm of a partition, and gives its reason.
fn stopped(dispatcher: &Instance, partition: i64) -> String {
    crate::support::wait_for(&format!("the alarm of partition {partition}"), 90, || {
        let alarms = dispatcher.events("partition_stopped");
        let alarm = alarms.iter().find(|alarm| alarm["partition"] == partition)?;
        assert_eq!(alarm["level"], "error");
        Some(alarm["reason"].as_str().unwrap().to_owned())
    })
}
