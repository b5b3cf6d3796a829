//! Kafka fails: the service waits, says so once, and goes on by itself.

use std::time::Duration;

use url::Url;

use crate::support::dispatcher::{Instance, Setting};
use crate::support::drill::{Drill, ROUND, SECONDS_TO_RECOVER, assert_calm, outlast};
use crate::support::gate::{Gate, Weather, free_address};
use crate::support::names::Names;
use crate::support::rights::{Operation, Resource};
use crate::support::scene::{Scene, signal};
use crate::support::{service, stopwatch, wait_for, wait_until};

const CANARY: &str = "canary-secret";
/// As long as `127.0.0.1`, whose place it takes in Kafka's answers.
const NAME: &str = "kafka.tst";

/// A closed gate, and the service behind it.
pub(super) fn kafka_behind_a_gate(setting: &mut Setting) -> Gate {
    let gate = Gate::kafka(&service("TEST_KAFKA"));
    setting.set("KAFKA_BOOTSTRAP_SERVERS", &gate.address.to_string());
    gate
}

#[tokio::test]
async fn a_kafka_that_is_down_at_start_is_waited_for() {
    let mut drill = Drill::new(2).await;
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    let dispatcher = drill.scene.setting.launch();
    drill.round();
    dispatcher.wait_for_event("kafka_error");
    outlast(Duration::from_secs(2));
    gate.open();
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_kafka_that_is_cut_off_for_a_while_keeps_the_group() {
    let mut drill = Drill::new(4).await;
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    for _ in 0..2 {
        gate.close();
        drill.round();
        outlast(Duration::from_secs(2));
        drill.assert_nothing_moved();
        gate.open();
        drill.settles_within(SECONDS_TO_RECOVER).await;
    }
    drill.round();
    drill.settles_within(SECONDS_TO_RECOVER).await;
    assert_calm(dispatcher, 1);
}

/// Longer than the group waits: the group gives the partitions away, and back when we return.
#[tokio::test]
async fn a_kafka_that_is_cut_off_for_longer_than_the_groups_patience_loses_and_doubles_nothing() {
    let mut drill = Drill::new(3).await;
    drill.scene.setting.set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000");
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    gate.close();
    drill.round();
    outlast(Duration::from_secs(8));
    drill.assert_nothing_moved();
    gate.open();
    drill.recovers().await;
    assert_calm(dispatcher, 2);
}

#[tokio::test]
async fn a_kafka_that_takes_a_second_for_each_answer_loses_and_doubles_nothing() {
    let mut drill = Drill::new(4).await;
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    gate.weather(Weather::Slow(Duration::from_secs(1)));
    drill.round();
    drill.settles_within(60).await;
    drill.round();
    gate.weather(Weather::Fair);
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_kafka_that_swallows_everything_is_waited_for() {
    let mut drill = Drill::new(3).await;
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    gate.weather(Weather::Hole);
    drill.round();
    outlast(Duration::from_secs(3));
    drill.assert_nothing_moved();
    gate.weather(Weather::Fair);
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_wrong_password_of_kafka_is_waited_for_and_not_told() {
    let mut drill = Drill::new(2).await;
    let url = Url::parse(&service("TEST_KAFKA_SASL")).unwrap();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    drill.scene.setting.set("KAFKA_BOOTSTRAP_SERVERS", &address);
    drill.scene.setting.set("KAFKA_CONFIG_SECURITY_PROTOCOL", "SASL_PLAINTEXT").set("KAFKA_CONFIG_SASL_MECHANISM", "PLAIN");
    drill.scene.setting.set("KAFKA_CONFIG_SASL_USERNAME", url.username()).set("KAFKA_CONFIG_SASL_PASSWORD", CANARY);
    let refused = drill.scene.setting.launch();
    drill.round();
    let told = refused.wait_for_event("kafka_error");
    assert!(told.to_string().contains("uthentication"), "{told}");
    outlast(Duration::from_secs(2));
    assert!(!refused.lines().iter().any(|line| line.contains(CANARY)));
    drill.assert_nothing_moved();
    assert_calm(refused, 0);
    drill.scene.setting.set("KAFKA_CONFIG_SASL_PASSWORD", url.password().unwrap());
    let dispatcher = drill.scene.setting.launch();
    drill.recovers().await;
    // Every client has the password: the dead-letter producer and the commands too.
    drill.scene.topic.send(0, b"bad");
    drill.scene.topic.flush();
    let total = drill.scene.decided(drill.sent() + 1).await;
    assert_eq!(total.invalid, 1);
    let list = drill.scene.setting.run(&["dead-letters", "list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("not_json"), "{list:?}");
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_topic_that_may_no_longer_be_read_is_waited_for() {
    let mut drill = Drill::new(3).await;
    drill.scene.setting.set("STALL_SECONDS", "2");
    let dispatcher = drill.start().await;
    let topic = drill.scene.topic.name.clone();
    Resource::Topic(&topic).deny(Operation::Read);
    wait_for("the refusal", 60, || refusals(&dispatcher).next());
    drill.round();
    // Longer than the watchdog waits: a refusal is no stall.
    outlast(Duration::from_secs(5));
    drill.assert_nothing_moved();
    Resource::Topic(&topic).allow();
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

/// The one fault that costs the group: Kafka does not let us stay in it.
#[tokio::test]
async fn a_group_that_we_may_no_longer_join_is_waited_for() {
    let mut drill = Drill::new(3).await;
    let dispatcher = drill.start().await;
    let group = drill.scene.setting.group.clone();
    Resource::Group(&group).deny(Operation::Read);
    wait_for("the refusal", 60, || refusals(&dispatcher).next());
    drill.round();
    outlast(Duration::from_secs(2));
    Resource::Group(&group).allow();
    drill.recovers().await;
    let assignments = dispatcher.events("partitions_changed").len();
    assert_calm(dispatcher, assignments);
}

fn refusals(dispatcher: &Instance) -> impl Iterator<Item = String> {
    dispatcher.lines().into_iter().filter(|line| line.contains("uthorization") || line.contains("uthorized"))
}

/// A bad record's copy is not taken: its offset stays, and so do those behind it.
async fn dead_letters_wait(begin: impl AsyncFnOnce(&Scene), mend: impl AsyncFnOnce(&Scene)) {
    let mut drill = Drill::new(2).await;
    let dispatcher = drill.start().await;
    begin(&drill.scene).await;
    let before = drill.sent();
    drill.scene.topic.send(0, b"bad");
    drill.scene.topic.send_json(0, &signal("behind", "NOBODY"));
    drill.scene.topic.flush();
    dispatcher.wait_for_event("dead_letter_failed");
    outlast(Duration::from_secs(2));
    assert_eq!(drill.scene.total().await.next_offset, Some(before));
    assert_eq!(drill.scene.topic.committed(&drill.scene.setting.group), [Some(before)]);
    mend(&drill.scene).await;
    let took = stopwatch();
    let total = drill.scene.decided(before + 2).await;
    assert!(took() < Duration::from_secs(SECONDS_TO_RECOVER), "{:?}", took());
    assert_eq!((total.invalid, total.unmatched, total.next_offset), (1, 1, Some(before + 2)));
    drill.scene.committed(before + 2);
    let letters = drill.scene.topic.dead_letters();
    assert!(letters.iter().all(|letter| letter.payload.as_deref() == Some(b"bad")) && !letters.is_empty(), "{letters:?}");
    drill.round();
    let all = drill.sent() + 2;
    wait_until("the next round", SECONDS_TO_RECOVER, async || Some(drill.scene.total().await).filter(|it| it.consumed == all))
        .await;
    assert_eq!(drill.scene.enqueued(2 * ROUND).len(), 2 * ROUND);
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_dead_letter_topic_that_takes_no_writes_holds_the_offset() {
    // A compacted topic refuses records without a key. The broker answers, and refuses: as with a full disk or too few replicas,
    // which one small broker cannot be brought to.
    dead_letters_wait(
        async |scene| scene.topic.configure_dead_letters("cleanup.policy", "compact").await,
        async |scene| scene.topic.configure_dead_letters("cleanup.policy", "delete").await,
    )
    .await;
}

#[tokio::test]
async fn a_dead_letter_topic_that_may_not_be_written_holds_the_offset() {
    dead_letters_wait(
        async |scene| Resource::Topic(&scene.topic.dead_letter_topic()).deny(Operation::Write),
        async |scene| Resource::Topic(&scene.topic.dead_letter_topic()).allow(),
    )
    .await;
}

#[tokio::test]
async fn a_kafka_whose_name_moves_to_another_address_is_found_there() {
    let mut drill = Drill::new(3).await;
    let mut first = Gate::kafka_by_name(&service("TEST_KAFKA"), free_address(), NAME);
    let mut second = Gate::beside(&first);
    let names = Names::give(&mut drill.scene.setting, NAME, *first.address.ip());
    drill.scene.setting.set("KAFKA_BOOTSTRAP_SERVERS", &format!("{NAME}:{}", first.address.port()));
    first.open();
    let dispatcher = drill.start().await;
    first.close();
    drill.round();
    outlast(Duration::from_secs(2));
    drill.assert_nothing_moved();
    second.open();
    names.point(NAME, *second.address.ip());
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_topic_that_is_made_after_the_start_is_read() {
    let mut drill = Drill::new(2).await;
    drill.scene.topic.delete().await;
    let dispatcher = drill.scene.setting.launch();
    wait_for("a word about the topic", 60, || {
        dispatcher.events("kafka_consume_failed").into_iter().chain(dispatcher.events("kafka_error")).next()
    });
    drill.scene.topic.make_anew().await;
    drill.round();
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}
