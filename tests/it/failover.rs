//! Instances that die, come back, come and go: how long each partition stands still meanwhile. The figures of a machine at rest
//! are in docs/performance.md (`scripts/bench failover`); here the bounds are generous, for tests run side by side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::support::dispatcher::Instance;
use super::support::drill::outlast;
use super::support::partitions::{output, reaches, send};
use super::support::scene::{Scene, signal};
use super::support::{wait_for, wait_until};

const PARTITIONS: i32 = 4;
/// How long the partitions of instances that live may stand still.
const LIVING: Duration = Duration::from_secs(3);
/// How long those of a dead one may, if it does not come back.
const DEAD: Duration = Duration::from_secs(14);
/// How long those of a dead one may, if it is back at once under its name.
const RESTARTED: Duration = Duration::from_secs(6);

/// A scene under steady load, and how long each partition has stood still at most.
struct Load {
    scene: Scene,
    /// When each partition's progress last moved, how far, and its longest standstill.
    moved: BTreeMap<i32, (Instant, i64, Duration)>,
}

impl Load {
    async fn new() -> Self {
        let scene = Scene::new(PARTITIONS).await;
        // The progress is looked at from the beginning.
        output(&scene, &["migrate"]);
        Self { scene, moved: BTreeMap::new() }
    }

    fn named(&self, name: &str) -> Instance {
        let mut setting = self.scene.setting.clone();
        setting.set("KAFKA_GROUP_INSTANCE_ID", name);
        setting.launch()
    }

    /// Looks, with a signal for each partition at each look, until the condition holds and all partitions have just moved.
    async fn flows_once(&mut self, what: &str, condition: impl Fn() -> bool) {
        let mut number = 0;
        wait_until(what, 60, async || {
            for partition in 0..PARTITIONS {
                self.scene.topic.send_json(partition, &signal(&format!("{what}-{number}-{partition}"), "NOBODY"));
            }
            self.scene.topic.flush();
            number += 1;
            // What moves must have moved after the condition held.
            let held = condition();
            self.look().await;
            let flows = self.moved.values().filter(|(moved, ..)| moved.elapsed() < Duration::from_millis(300)).count();
            (held && flows == PARTITIONS as usize).then_some(())
        })
        .await;
    }

    async fn look(&mut self) {
        let rows = self
            .scene
            .database
            .rows("select partition, consumed from dispatcher.progress where consumer_group = $1", &[&self.scene.setting.group])
            .await;
        let now = Instant::now();
        for row in rows {
            let (partition, consumed): (i32, i64) = (row.get(0), row.get(1));
            let (moved, before, longest) = self.moved.entry(partition).or_insert((now, consumed, Duration::ZERO));
            *longest = (*longest).max(now - *moved);
            if consumed > *before {
                (*moved, *before) = (now, consumed);
            }
        }
    }

    /// Begins to measure anew.
    fn begin(&mut self) {
        let now = Instant::now();
        self.moved.values_mut().for_each(|(moved, _, longest)| (*moved, *longest) = (now, Duration::ZERO));
    }

    fn longest(&self) -> BTreeMap<i32, Duration> {
        self.moved.iter().map(|(partition, (_, _, longest))| (*partition, *longest)).collect()
    }

    /// Everything that was sent is decided once.
    async fn adds_up(&self) {
        let sum = async || {
            let ends = output(&self.scene, &["offsets", "list"]);
            let ends: i64 =
                ends.lines().skip(1).map(|line| line.split_whitespace().nth(4).unwrap().parse::<i64>().unwrap()).sum();
            let total = self.scene.total().await;
            (total.consumed == ends && total.reasons() == ends).then_some(())
        };
        wait_until("all that was sent", 60, sum).await;
    }
}

/// The partitions that an instance has by its last word.
fn partitions_of(instance: &Instance) -> Vec<i32> {
    let Some(assigned) = instance.events("partitions_changed").pop() else { return Vec::new() };
    serde_json::from_value(assigned["assigned"].clone()).unwrap()
}

/// Two instances under load, two partitions each; the first of them is named as given.
async fn two(load: &mut Load, names: [Option<&str>; 2]) -> [Instance; 2] {
    let launch = |load: &Load, name: Option<&str>| name.map_or_else(|| load.scene.setting.launch(), |name| load.named(name));
    let first = launch(load, names[0]);
    load.flows_once("the first instance", || true).await;
    let second = launch(load, names[1]);
    load.flows_once("two instances", || partitions_of(&first).len() == 2 && partitions_of(&second).len() == 2).await;
    load.begin();
    [first, second]
}

fn assert_within(load: &Load, partitions: &[i32], bound: Duration) {
    let longest = load.longest();
    let pauses: BTreeMap<_, _> = longest.iter().filter(|(partition, _)| partitions.contains(partition)).collect();
    assert!(pauses.values().all(|pause| **pause < bound), "{pauses:?} of {longest:?}, and {bound:?} is the bound");
}

#[tokio::test]
async fn the_partitions_of_a_dead_instance_go_on_elsewhere_and_those_of_the_living_never_stop() {
    let mut load = Load::new().await;
    let [living, dead] = two(&mut load, [None, None]).await;
    let (of_living, of_dead) = (partitions_of(&living), partitions_of(&dead));
    dead.kill();
    load.flows_once("the dead one's partitions", || partitions_of(&living).len() == 4).await;
    assert_within(&load, &of_living, LIVING);
    assert_within(&load, &of_dead, DEAD);
    load.adds_up().await;
    assert!(living.stop().success());
}

#[tokio::test]
async fn a_killed_instance_without_a_name_that_is_started_again_stops_the_others_for_no_longer_than_its_session() {
    let mut load = Load::new().await;
    let [living, dead] = two(&mut load, [None, None]).await;
    dead.kill();
    // For Kafka it is a new member, and the group waits for the dead one before it shares the partitions out.
    let again = load.scene.setting.launch();
    load.flows_once("the dead one's partitions", || partitions_of(&again).len() == 2).await;
    assert_within(&load, &[0, 1, 2, 3], DEAD);
    load.adds_up().await;
    assert!(living.stop().success() && again.stop().success());
}

#[tokio::test]
async fn a_named_instance_that_is_killed_and_started_again_at_once_has_its_partitions_back_and_nobody_notices() {
    let mut load = Load::new().await;
    let [living, dead] = two(&mut load, [Some("dispatcher-0"), Some("dispatcher-1")]).await;
    let (of_living, of_dead) = (partitions_of(&living), partitions_of(&dead));
    let changes = living.events("partitions_changed").len();
    dead.kill();
    let again = load.named("dispatcher-1");
    load.flows_once("the dead one's partitions", || partitions_of(&again).len() == 2).await;
    assert_within(&load, &of_living, LIVING);
    assert_within(&load, &of_dead, RESTARTED);
    assert_eq!(partitions_of(&again), of_dead);
    assert_eq!(living.events("partitions_changed").len(), changes, "the group was shared out anew");
    load.adds_up().await;
    assert!(living.stop().success() && again.stop().success());
}

#[tokio::test]
async fn instances_that_come_and_go_in_order_stop_nothing_for_long() {
    let mut load = Load::new().await;
    let [first, second] = two(&mut load, [None, None]).await;
    let more = [load.scene.setting.launch(), load.scene.setting.launch()];
    load.flows_once("four instances", || more.iter().all(|one| partitions_of(one).len() == 1)).await;
    for instance in more.into_iter().chain([first]) {
        assert!(instance.stop().success());
        load.flows_once("one less", || true).await;
    }
    load.flows_once("one", || partitions_of(&second).len() == 4).await;
    assert_within(&load, &[0, 1, 2, 3], LIVING);
    load.adds_up().await;
    assert!(second.stop().success());
}

/// Two processes with one name: the group knows one of them only.
#[tokio::test]
async fn an_instance_whose_name_another_one_takes_says_so_and_ends() {
    let mut load = Load::new().await;
    let first = load.named("dispatcher-0");
    load.flows_once("the first instance", || true).await;
    let second = load.named("dispatcher-0");
    let log = first.log();
    assert_eq!(first.ended(60).code(), Some(1));
    assert_eq!(log.events("group_instance_fenced").len(), 1, "{:?}", log.lines());
    load.flows_once("the second instance", || partitions_of(&second).len() == 4).await;
    load.adds_up().await;
    assert!(second.stop().success());
}

/// Both partitions are paused, for nothing is decided; then one goes to another instance, and comes back.
#[tokio::test]
async fn partitions_that_were_paused_when_a_rebalance_took_them_are_read_when_they_come_back() {
    let scene = Scene::new(2).await;
    let first = scene.setting.start();
    send(&scene, 0, 1);
    send(&scene, 1, 1);
    reaches(&scene, [1, 1]).await;
    let lock = scene.database.another().await;
    lock.batch_execute("begin; lock table dispatcher.progress in access exclusive mode").await.unwrap();
    let padding = "x".repeat(10_000);
    let each = 3_000;
    for number in 0..each {
        for partition in 0..2 {
            let mut signal = signal(&format!("{number}-{partition}"), "NOBODY");
            signal["padding"] = padding.as_str().into();
            scene.topic.send_json(partition, &signal);
        }
    }
    scene.topic.flush();
    // Time to fill up and to pause: 60 MB wait, and 32 are taken.
    outlast(Duration::from_secs(4));
    let second = scene.setting.launch();
    wait_for("a partition each", 60, || (partitions_of(&first).len() == 1 && partitions_of(&second).len() == 1).then_some(()));
    lock.batch_execute("commit").await.unwrap();
    reaches(&scene, [1 + each, 1 + each]).await;
    assert!(second.stop().success());
    send(&scene, 0, 1);
    send(&scene, 1, 1);
    reaches(&scene, [2 + each, 2 + each]).await;
    assert!(first.stop().success());
}
