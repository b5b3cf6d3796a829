//! The commands of an operator, on real services: what they show, what they do, and how they refuse.

use serde_json::{Value, json};

use super::support::scene::{Scene, signal};
use super::support::wait_until;

/// What a command that succeeds prints.
fn output(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.setting.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and the one line with which a command refuses.
fn refusal(scene: &Scene, arguments: &[&str]) -> (i32, String) {
    let output = scene.setting.run(arguments);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((line.lines().count(), output.stdout.len()), (1, 0), "{arguments:?}:\n{line}");
    (output.status.code().unwrap(), line)
}

fn rows(list: &str) -> Vec<Vec<String>> {
    list.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn lines(list: &str) -> Vec<Value> {
    list.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn offsets_list_shows_what_is_decided_and_what_kafka_has() {
    let scene = Scene::new(2).await;
    let dispatcher = scene.setting.start();
    scene.send(&["1", "2", "3"].map(|id| signal(id, "NOBODY")));
    scene.decided(3).await;
    assert!(dispatcher.stop().success());
    scene.send(&[signal("4", "NOBODY")]);
    let rows = rows(&output(&scene, &["offsets", "list"]));
    assert_eq!(rows[0][..7], ["0", "3", "3", "0", "4", "1", "ok"]);
    assert_eq!(rows[1][..7], ["1", "0", "-", "0", "0", "0", "ok"]);
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn offsets_set_moves_a_partition_whose_instances_are_down() {
    let scene = Scene::new(1).await;
    let dispatcher = scene.setting.start();
    scene.send(&["1", "2", "3"].map(|id| signal(id, "NOBODY")));
    scene.decided(3).await;
    assert!(dispatcher.stop().success());
    scene.send(&["4", "5", "6"].map(|id| signal(id, "NOBODY")));
    for (to, expected) in [
        ("latest", "3 → 6; 3 offsets are not decided"),
        ("4", "6 → 4; 2 offsets that were skipped are decided now, 0 keep"),
        ("committed", "4 → 3; 1 offsets that were skipped are decided now, 0 keep"),
        ("5", "3 → 5; 2 offsets are not decided"),
    ] {
        let said = output(&scene, &["offsets", "set", "--partition", "0", "--to", to, "--yes"]);
        assert!(said.contains(expected), "{to}: {said}");
    }
    let dispatcher = scene.setting.start();
    let total = scene.decided(4).await;
    assert_eq!((total.consumed, total.next_offset), (4, Some(6)), "only the last one was left");
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_reason_and_replayed() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.topic.send(0, b"not a signal");
    scene.topic.send(0, b"{}");
    // As an older version would have left a signal that this one understands.
    let good = signal("second chance", "AAPL").to_string();
    scene.topic.flush();
    assert_eq!(scene.decided(2).await.invalid, 2);
    scene.topic.send_dead_letter(good.as_bytes(), &[("dead-letter-reason", "wrong_type"), ("trace", "kept")]);
    scene.topic.flush();

    let list = lines(&output(&scene, &["dead-letters", "list"]));
    let seen: Vec<_> = list.iter().map(|line| (line["at"].as_str().unwrap(), line["reason"].as_str().unwrap())).collect();
    assert_eq!(seen, [("0:0", "not_json"), ("0:1", "no_ticker"), ("0:2", "wrong_type")]);
    assert_eq!((&list[0]["payload"], &list[0]["bytes"], &list[0]["offset"]), (&json!("not a signal"), &json!(12), &json!("0")));
    assert_eq!(lines(&output(&scene, &["dead-letters", "list", "--reason", "no_ticker"])).len(), 1);
    assert_eq!(lines(&output(&scene, &["dead-letters", "list", "--limit", "2"])).len(), 2);
    assert_eq!(scene.total().await.consumed, 2, "a list sends nothing");

    let said = output(&scene, &["dead-letters", "replay", "--at", "0:2"]);
    assert!(said.contains(&format!("1 sent to {} again", scene.topic.name)), "{said}");
    let total = scene.decided(3).await;
    assert_eq!((total.triggered, total.invalid), (1, 2), "{total:?}");
    assert_eq!(scene.enqueued(1), [pipeline]);

    // What is still bad comes back, and not within the same run.
    let said = output(&scene, &["dead-letters", "replay", "--reason", "not_json"]);
    assert!(said.contains("1 sent to"), "{said}");
    assert_eq!(scene.decided(4).await.invalid, 3);
    wait_until("a new dead letter", 30, async || Some(scene.topic.dead_letters().len()).filter(|letters| *letters == 4)).await;
    let letters = scene.topic.dead_letters();
    let ours: Vec<_> = letters[3].headers.iter().filter(|(key, _)| key == "dead-letter-reason").collect();
    assert_eq!(ours.len(), 1, "headers of the first time are gone: {letters:?}");
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn wrong_arguments_are_refused_with_one_line_and_64() {
    let scene = Scene::new(1).await;
    for arguments in [
        ["offsets", "set", "--partition", "zero", "--to", "earliest"].as_slice(),
        &["offsets", "set", "--partition", "0", "--to", "-1"],
        &["offsets", "set", "--partition", "0", "--to=-1"],
        &["offsets", "set", "--partition", "0", "--to", "tomorrow"],
        &["offsets", "set", "--partition", "0"],
        &["offsets", "set"],
        &["offsets", "list", "everything"],
        &["offsets", "forget"],
        &["dead-letters", "list", "--reason", "no_reason"],
        &["dead-letters", "list", "--limit", "many"],
        &["dead-letters", "list", "--at", "nowhere"],
        &["dead-letters", "replay", "--at", "0:"],
        &["dead-letters", "burn"],
        &["run", "away"],
        &["no-such-command"],
    ] {
        let (code, line) = refusal(&scene, arguments);
        assert_eq!(code, 64, "{arguments:?}: {line}");
        assert!(line.starts_with("trigger-dispatcher: "), "{line}");
    }
}

#[tokio::test]
async fn a_place_that_is_not_there_is_refused_with_one_line() {
    let mut scene = Scene::new(1).await;
    assert!(scene.setting.run(&["migrate"]).status.success());
    let (code, line) = refusal(&scene, &["offsets", "set", "--partition", "0", "--to", "earliest"]);
    assert!(code == 1 && line.contains("nothing of") && line.contains("was ever decided"), "{code}: {line}");
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "NOBODY")]);
    scene.decided(1).await;
    assert!(dispatcher.stop().success());
    let (code, line) = refusal(&scene, &["offsets", "set", "--partition", "0", "--to", "7"]);
    assert!(code == 1 && line.contains("Kafka has 0 to 1") && line.contains("not 7"), "{code}: {line}");
    let (code, line) = refusal(&scene, &["offsets", "set", "--partition", "9", "--to", "0"]);
    assert!(code == 1 && line.contains("/9"), "{code}: {line}");
    assert_eq!(scene.total().await.next_offset, Some(1), "nothing moved");
    let missing = format!("{}.missing", scene.topic.name);
    scene.setting.set("KAFKA_DEAD_LETTER_TOPIC", &missing);
    let (code, line) = refusal(&scene, &["dead-letters", "list"]);
    assert!(code == 1 && line.contains(&missing), "{code}: {line}");
    scene.setting.set("KAFKA_SIGNAL_TOPIC", &missing).set("KAFKA_DEAD_LETTER_TOPIC", "another");
    let (code, line) = refusal(&scene, &["offsets", "list"]);
    assert!(code == 1 && line.contains(&missing), "{code}: {line}");
}
