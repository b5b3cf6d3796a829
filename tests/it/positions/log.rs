//! The offsets that the store keeps are of one cluster and one topic: on another one they mean other records.

use super::{five_each, output, reaches, send, set, stopped};
use crate::support::scene::Scene;
use crate::support::wait_until;

/// With `latest`, records that come while nobody runs are lost only before the very first start.
#[tokio::test]
async fn a_quiet_partition_that_starts_at_its_end_loses_nothing_at_a_restart() {
    let mut scene = Scene::new(2).await;
    scene.setting.set("KAFKA_AUTO_OFFSET_RESET", "latest");
    send(&scene, 0, 3);
    send(&scene, 1, 2);
    let dispatcher = scene.setting.start();
    reaches(&scene, [3, 2]).await;
    send(&scene, 0, 1);
    assert_eq!(scene.decided(1).await.consumed, 1, "what was there before is passed over");
    assert!(dispatcher.stop().success());
    // Partition 1 is quiet so far: nothing of it was ever decided or committed.
    send(&scene, 1, 4);
    let dispatcher = scene.setting.start();
    let progress = reaches(&scene, [4, 6]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [1, 4]);
    assert!(dispatcher.stop().success());
    // What was passed over at the first start was never decided: an operator may have it decided.
    let said = output(&scene, &set("1", "earliest"));
    assert!(said.contains("6 → 0; 2 offsets that were skipped are decided now, 4 keep their disposition"), "{said}");
    let dispatcher = scene.setting.start();
    let progress = wait_until("the records of before", 60, async || {
        Some(scene.progress().await).filter(|progress| progress[1].next_offset == Some(6) && progress[1].consumed == 6)
    })
    .await;
    assert_eq!(progress[1].unmatched, 6);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn ids_of_cluster_and_topic_are_stored_and_another_clusters_offsets_are_not_used() {
    let (scene, dispatcher) = five_each().await;
    let known = "select count(*) from dispatcher.progress where length(cluster_id) > 5 and length(topic_id) = 22";
    assert_eq!(scene.database.number(known).await, 2);
    assert!(dispatcher.stop().success());
    // As if this were another cluster: the test has one.
    scene.database.run("update dispatcher.progress set cluster_id = 'another' where partition = 0").await;
    send(&scene, 0, 5);
    send(&scene, 1, 5);
    let dispatcher = scene.setting.start();
    assert_eq!(stopped(&dispatcher, 0), "other_cluster");
    reaches(&scene, [5, 10]).await;
    let list = output(&scene, &["offsets", "list"]);
    assert!(list.contains("STOPPED: another Kafka cluster"), "{list}");
    // A stopped partition may be set while its instance runs.
    output(&scene, &set("0", "earliest"));
    let progress = reaches(&scene, [10, 10]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [15, 10], "all of the other cluster's records");
    assert_eq!(dispatcher.events("partition_stopped").len(), 1);
    assert_eq!(scene.database.number(known).await, 2);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn a_topic_made_anew_that_has_grown_past_the_next_offset_stops_until_it_is_told_where_to_go_on() {
    let (scene, dispatcher) = five_each().await;
    assert!(dispatcher.stop().success());
    scene.topic.delete().await;
    scene.topic.make_anew().await;
    send(&scene, 0, 8);
    send(&scene, 1, 5);
    let dispatcher = scene.setting.start();
    assert_eq!([stopped(&dispatcher, 0), stopped(&dispatcher, 1)], ["other_topic", "other_topic"]);
    let list = output(&scene, &["offsets", "list"]);
    assert_eq!(list.matches("STOPPED: the topic was made anew").count(), 2, "{list}");
    for partition in ["0", "1"] {
        let said = output(&scene, &set(partition, "earliest"));
        assert!(said.contains("5 → 0; this is another log"), "{said}");
    }
    let progress = reaches(&scene, [8, 5]).await;
    assert_eq!(progress.iter().map(|one| one.consumed).collect::<Vec<_>>(), [13, 10]);
    assert!(dispatcher.stop().success());
}

/// The group sees nothing of it: the topic is there before and after, with as many partitions, and has the next offset.
#[tokio::test]
async fn a_topic_made_anew_under_a_running_instance_is_noticed_though_it_has_the_next_offset() {
    let (scene, dispatcher) = five_each().await;
    dispatcher.signal("STOP");
    scene.topic.delete().await;
    scene.topic.make_anew().await;
    send(&scene, 0, 5);
    send(&scene, 1, 5);
    dispatcher.signal("CONT");
    assert_eq!([stopped(&dispatcher, 0), stopped(&dispatcher, 1)], ["other_topic", "other_topic"]);
    assert_eq!(scene.total().await.consumed, 10);
    assert!(dispatcher.stop().success());
}
