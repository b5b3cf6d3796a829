//! A fault under load, as all tests of `faults` play it: signals before, during and after it, each for a pipeline of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::dispatcher::Instance;
use super::scene::{Scene, signal};
use super::{stopwatch, wait_for, wait_until};

/// Signals, and so pipelines, of one round.
pub(crate) const ROUND: usize = 20;
/// How soon everything must be as if nothing had been, once a fault is over.
pub(crate) const SECONDS_TO_RECOVER: u64 = 10;

pub(crate) struct Drill {
    pub(crate) scene: Scene,
    pipelines: Vec<Uuid>,
    sent: usize,
}

impl Drill {
    /// Room for so many rounds.
    pub(crate) async fn new(rounds: usize) -> Self {
        Self::on(Scene::new(1).await, rounds).await
    }

    pub(crate) async fn on(scene: Scene, rounds: usize) -> Self {
        let sql = "insert into pipelines (id, user_id, name, scanner_tickers)
            select gen_random_uuid(), gen_random_uuid(), 'watches', jsonb_build_array('T' || number)
            from generate_series(0, $1::bigint - 1) as number returning id";
        let pipelines = scene.database.rows(sql, &[&((rounds * ROUND) as i64)]).await;
        Self { pipelines: pipelines.iter().map(|row| row.get(0)).collect(), scene, sent: 0 }
    }

    /// Starts an instance that has shown that it works.
    pub(crate) async fn start(&mut self) -> Instance {
        let instance = self.scene.setting.start();
        self.round();
        self.settles_within(60).await;
        instance
    }

    /// One round of signals, in several batches.
    pub(crate) fn round(&mut self) {
        assert!(self.sent + ROUND <= self.pipelines.len(), "no room for another round");
        for number in self.sent..self.sent + ROUND {
            self.scene.topic.send_json(0, &signal(&format!("signal-{number}"), &format!("T{number}")));
            if number % 5 == 0 {
                self.scene.topic.flush();
            }
        }
        self.scene.topic.flush();
        self.sent += ROUND;
    }

    /// Signals sent so far.
    pub(crate) fn sent(&self) -> i64 {
        self.sent as i64
    }

    /// Everything that was sent has started its pipeline, once, and its offset has moved.
    pub(crate) async fn settles_within(&mut self, seconds: u64) {
        let (took, sent) = (stopwatch(), self.sent);
        let total = wait_until(&format!("{sent} decided signals"), 60, async || {
            Some(self.scene.total().await).filter(|total| total.consumed >= sent as i64)
        })
        .await;
        wait_for(&format!("{sent} tasks"), 60, || Some(self.scene.queue.len()).filter(|tasks| *tasks >= sent));
        self.scene.committed(sent as i64);
        let unconfirmed = "select count(*) from dispatcher.publications where enqueued_at is null";
        wait_until("confirmed publications", 60, async || {
            Some(self.scene.database.number(unconfirmed).await).filter(|count| *count == 0)
        })
        .await;
        assert!(took() < Duration::from_secs(seconds), "it took {:?}", took());
        assert_eq!((total.triggered, total.consumed), (sent as i64, sent as i64), "{total:?}");
        let tasks = self.scene.queue.pipelines();
        assert_eq!(tasks.len(), sent, "a task is there twice");
        let expected: BTreeSet<_> = self.pipelines[..sent].iter().copied().collect();
        assert_eq!(tasks.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    /// The fault is over: what came during it, and what comes now, arrives soon and once.
    pub(crate) async fn recovers(&mut self) {
        self.settles_within(SECONDS_TO_RECOVER).await;
        self.round();
        self.settles_within(SECONDS_TO_RECOVER).await;
    }

    /// Nothing has moved since the last round but one: neither offset nor task.
    pub(crate) fn assert_nothing_moved(&mut self) {
        let before = self.sent - ROUND;
        assert_eq!(self.scene.queue.len(), before, "a task left during the fault");
        let committed: i64 = self.scene.topic.committed(&self.scene.setting.group).iter().flatten().sum();
        assert_eq!(committed, before as i64, "the offset moved during the fault");
    }
}

/// Waits until something has lasted: a fault must outlive the patience that it is to try.
pub(crate) fn outlast(duration: Duration) {
    let took = stopwatch();
    wait_for(&format!("{duration:?} to pass"), duration.as_secs() + 60, || (took() >= duration).then_some(()));
}

/// Ends the instance: in order, with `assignments` of partitions in all, and with few words about the fault.
#[track_caller]
pub(crate) fn assert_calm(dispatcher: Instance, assignments: usize) {
    let (log, age) = (dispatcher.log(), dispatcher.age());
    assert!(dispatcher.stop().success(), "{:?}", log.lines());
    let changes = log.events("partitions_changed").iter().filter(|line| line["assigned"] != "None").count();
    assert_eq!(changes, assignments, "the group was left");
    // Whoever meets the fault says so once a minute.
    let mut complaints = BTreeMap::<String, u64>::new();
    for line in log.lines().iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        if line["level"] == "warn" || line["level"] == "error" {
            *complaints.entry(format!("{} {} {}", line["event"], line["facility"], line["client"])).or_default() += 1;
        }
    }
    let most = 1 + age.as_secs() / 60;
    assert!(
        complaints.values().all(|lines| *lines <= most),
        "more than a line a minute: {complaints:?}\n{}",
        log.lines().join("\n")
    );
    assert!(complaints.len() <= 8, "one fault, and so many say so: {complaints:?}");
}
