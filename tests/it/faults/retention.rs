//! Kafka no longer has the next offset to decide: the partition stops with an alarm until someone says where it goes on.

use std::time::Duration;

use serde_json::Value;

use crate::support::dispatcher::Instance;
use crate::support::drill::outlast;
use crate::support::partitions::{five_each, output, reaches, send};
use crate::support::scene::Scene;
use crate::support::wait_until;

fn alarm(dispatcher: &Instance) -> [Option<i64>; 4] {
    let alarm = dispatcher.wait_for_event("partition_stopped");
    assert_eq!(alarm["level"], "error");
    ["partition", "next_offset", "low", "high"].map(|field| alarm[field].as_i64())
}

#[tokio::test]
async fn a_partition_that_retention_ran_over_stops_with_an_alarm_until_it_is_told_where_to_go_on() {
    let (scene, dispatcher) = five_each().await;
    assert!(dispatcher.stop().success());
    send(&scene, 0, 10);
    scene.topic.delete_records_before(0, 12).await;
    let dispatcher = scene.setting.start();
    assert_eq!(alarm(&dispatcher), [Some(0), Some(5), Some(12), Some(15)]);
    // The other partition goes on; this one does not, whatever arrives.
    send(&scene, 0, 1);
    send(&scene, 1, 5);
    reaches(&scene, [5, 10]).await;
    let list = output(&scene, &["offsets", "list"]);
    assert!(list.contains("STOPPED: retention ran over it"), "{list}");
    let said = output(&scene, &["offsets", "set", "--partition", "0", "--to", "earliest", "--yes"]);
    assert!(said.contains("5 → 12; 7 offsets are not decided"), "{said}");
    // The running instance looks by itself every half minute.
    let progress = reaches(&scene, [16, 10]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [5 + 4, 10]);
    assert_eq!(dispatcher.events("partition_stopped").len(), 1);
    assert!(dispatcher.stop().success());
}

/// A group that was taken over from another service, which has stood still for longer than Kafka keeps records.
#[tokio::test]
async fn a_committed_offset_that_kafka_no_longer_has_stops_its_partition_and_no_other() {
    let scene = Scene::new(2).await;
    send(&scene, 0, 10);
    send(&scene, 1, 10);
    scene.topic.commit(&scene.setting.group, &[(0, 3), (1, 3)]);
    scene.topic.delete_records_before(0, 6).await;
    let dispatcher = scene.setting.start();
    assert_eq!(alarm(&dispatcher), [Some(0), Some(3), Some(6), Some(10)]);
    send(&scene, 1, 5);
    let next_offset = "select coalesce(max(next_offset), 0) from dispatcher.progress where partition = 1";
    wait_until("the other partition", 60, async || (scene.database.number(next_offset).await == 15).then_some(())).await;
    // It is looked at again every half minute, not without end.
    outlast(Duration::from_secs(3));
    assert_eq!(dispatcher.events("partition_stopped").len(), 1);
    let epochs = "select max(epoch) from dispatcher.progress";
    assert_eq!((scene.database.number(epochs).await, dispatcher.events("partitions_started").len()), (1, 1));
    output(&scene, &["offsets", "set", "--partition", "0", "--to", "earliest", "--yes"]);
    reaches(&scene, [10, 15]).await;
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn a_topic_that_is_made_anew_under_a_running_instance_stops_until_it_is_told_where_to_go_on() {
    let (scene, dispatcher) = five_each().await;
    scene.topic.delete().await;
    scene.topic.make_anew().await;
    send(&scene, 0, 3);
    let stopped =
        wait_until("both alarms", 60, async || Some(dispatcher.events("partition_stopped")).filter(|alarms| alarms.len() == 2))
            .await;
    for alarm in &stopped {
        assert_eq!(alarm["next_offset"], Value::from(5), "{alarm}");
    }
    assert_eq!(scene.progress().await.iter().map(|one| one.next_offset).collect::<Vec<_>>(), [Some(5), Some(5)]);
    let list = output(&scene, &["offsets", "list"]);
    assert_eq!(list.matches("STOPPED: the topic was made anew").count(), 2, "{list}");
    for partition in ["0", "1"] {
        output(&scene, &["offsets", "set", "--partition", partition, "--to", "earliest", "--yes"]);
    }
    send(&scene, 1, 2);
    let progress = reaches(&scene, [3, 2]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [8, 7]);
    assert!(dispatcher.stop().success());
}
