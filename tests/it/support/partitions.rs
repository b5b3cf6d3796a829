//! Signals to chosen partitions, and how far those are decided.

use super::dispatcher::Instance;
use super::scene::{Progress, Scene, signal};
use super::wait_until;

/// Sends signals that nobody watches to a partition.
pub(crate) fn send(scene: &Scene, partition: i32, count: usize) {
    for _ in 0..count {
        scene.topic.send_json(partition, &signal(&uuid::Uuid::new_v4().to_string(), "NOBODY"));
    }
    scene.topic.flush();
}

/// Waits until the partitions are decided up to these offsets.
pub(crate) async fn reaches<const N: usize>(scene: &Scene, offsets: [i64; N]) -> Vec<Progress> {
    wait_until(&format!("{offsets:?}"), 60, async || {
        let progress = scene.progress().await;
        progress.iter().map(|one| one.next_offset).eq(offsets.map(Some)).then_some(progress)
    })
    .await
}

/// What a command that succeeds prints.
pub(crate) fn output(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.setting.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two partitions with five decided records each, and their instance.
pub(crate) async fn five_each() -> (Scene, Instance) {
    let scene = Scene::new(2).await;
    let dispatcher = scene.setting.start();
    send(&scene, 0, 5);
    send(&scene, 1, 5);
    reaches(&scene, [5, 5]).await;
    (scene, dispatcher)
}
