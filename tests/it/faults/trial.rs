//! What every fault of a broker has to show: a dispatcher that worked before, feels the fault, and works after.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;

use crate::support::dispatcher::{Instance, Setting};
use crate::support::queue::TestQueue;
use crate::support::scene::{Scene, signal};
use crate::support::{stopwatch, wait_until};

/// `LOG_LEVEL` at which each failure has a line, whatever the minute has told already.
pub(super) const EACH_FAILURE: &str = "info,trigger_dispatcher::retry=debug";
/// A password that must be in no log line.
pub(super) const CANARY: &str = "canary-secret";
/// How soon after the fault everything is there.
const RECOVERY: Duration = Duration::from_secs(10);
/// A pipeline for each ticker `T0`, `T1`, …
const PIPELINES: i64 = 400;

/// Where the tasks can be seen, past the dispatcher's own way there.
pub(super) trait Tasks {
    /// The ids of all tasks that ever arrived, in any order.
    async fn arrived(&mut self) -> Vec<Uuid>;
}

/// A list in Redis.
pub(super) struct List {
    pub(super) url: String,
    pub(super) name: String,
}

impl Tasks for List {
    async fn arrived(&mut self) -> Vec<Uuid> {
        TestQueue::at(&self.url, &self.name).tasks().iter().map(|task| task.id).collect()
    }
}

pub(super) struct Trial<T> {
    pub(super) scene: Scene,
    pub(super) tasks: T,
    /// Signals that were sent. Each leads a trigger.
    sent: i64,
    /// The offset at which the fault struck.
    before: i64,
}

impl<T: Tasks> Trial<T> {
    /// Nothing runs yet.
    pub(super) async fn new(broker: &str, tasks: impl AsyncFnOnce(&Setting) -> T) -> Self {
        let mut scene = Scene::new(1).await;
        scene.setting.set("CELERY_BROKER_URL", broker).set("LOG_LEVEL", EACH_FAILURE);
        let sql = "insert into pipelines (id, user_id, name, scanner_tickers)
            select gen_random_uuid(), gen_random_uuid(), 'watches', jsonb_build_array('T' || n) from generate_series(0, $1 - 1) n";
        scene.database.client.execute(sql, &[&i32::try_from(PIPELINES).unwrap()]).await.unwrap();
        let tasks = tasks(&scene.setting).await;
        Self { scene, tasks, sent: 0, before: 0 }
    }

    /// So many signals, a few at a time: they arrive in several batches.
    pub(super) fn send(&mut self, signals: i64) {
        let numbers: Range<i64> = self.sent..self.sent + signals;
        assert!(numbers.end <= PIPELINES);
        self.sent = numbers.end;
        let signals: Vec<_> = numbers.map(|number| signal(&format!("signal-{number}"), &format!("T{number}"))).collect();
        for some in signals.chunks(10) {
            self.scene.send(some);
        }
    }

    /// Everything that was sent is there and committed, within a deadline.
    pub(super) async fn arrived(&mut self) {
        let sent = usize::try_from(self.sent).unwrap();
        let tasks = &mut self.tasks;
        wait_until(&format!("{sent} tasks"), 60, async || {
            let mut ids = tasks.arrived().await;
            ids.sort_unstable();
            ids.dedup();
            Some(()).filter(|()| ids.len() >= sent)
        })
        .await;
        self.scene.committed(self.sent);
    }

    /// The dispatcher works, then `fault` strikes. Signals that come meanwhile are felt to fail, and no offset moves.
    pub(super) async fn struck(&mut self, dispatcher: &Instance, fault: impl AsyncFnOnce()) {
        self.send(3);
        self.arrived().await;
        self.before = self.sent;
        let felt = dispatcher.events("enqueue_failed").len();
        fault().await;
        self.send(20);
        wait_until("a failure to be felt", 60, async || Some(()).filter(|()| dispatcher.events("enqueue_failed").len() > felt))
            .await;
        self.assert_offset_stands();
    }

    /// Waits until something has been unpublished for longer than sweepers wait.
    pub(super) async fn swept_over(&self) {
        let waits =
            "select count(*) from dispatcher.publications where enqueued_at is null and claimed_at < now() - interval '13 s'";
        let database = &self.scene.database;
        wait_until("an entry that is due", 60, async || Some(database.number(waits).await).filter(|count| *count > 0)).await;
    }

    /// The offset has not moved since `struck`; then `heal` ends the fault, and everything is there soon.
    pub(super) async fn healed(&mut self, heal: impl AsyncFnOnce()) {
        self.assert_offset_stands();
        heal().await;
        let since = stopwatch();
        self.arrived().await;
        assert!(since() <= RECOVERY, "recovered only after {:?}", since());
    }

    /// The offset stands where it stood before the fault.
    pub(super) fn assert_offset_stands(&self) {
        let committed = self.scene.topic.committed(&self.scene.setting.group)[0].unwrap_or(0);
        assert_eq!(committed, self.before, "the offset moved during the fault");
    }

    /// What was claimed is what arrived: each once, or at least once.
    pub(super) async fn assert_tasks(&mut self, is_once: bool) {
        let total = self.scene.decided(self.sent).await;
        assert_eq!((total.consumed, total.triggered), (self.sent, self.sent), "{total:?}");
        let unconfirmed = "select count(*) from dispatcher.publications where enqueued_at is null";
        let database = &self.scene.database;
        wait_until("confirmed publications", 40, async || Some(database.number(unconfirmed).await).filter(|count| *count == 0))
            .await;
        let claimed = database.rows("select trigger_id from dispatcher.triggers order by trigger_id", &[]).await;
        let claimed: Vec<Uuid> = claimed.iter().map(|row| row.get(0)).collect();
        let mut arrived = self.tasks.arrived().await;
        arrived.sort_unstable();
        if !is_once {
            arrived.dedup();
        }
        assert_eq!(arrived.len(), claimed.len(), "a task is there twice, or lost");
        assert_eq!(arrived, claimed);
    }

    /// Nobody left the group, complaints were few, no secret was told, and the end is in order.
    pub(super) fn assert_calm(dispatcher: Instance, faults: usize) {
        let (log, age) = (dispatcher.log(), dispatcher.age());
        assert!(dispatcher.stop().success());
        let assigned = log.events("partitions_changed").iter().filter(|line| line["assigned"] != "None").count();
        assert_eq!(assigned, 1, "the group was left");
        let mut complaints: BTreeMap<String, usize> = BTreeMap::new();
        for line in log.lines() {
            assert!(!line.contains(CANARY), "{line}");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["level"] == "warn" || line["level"] == "error" {
                *complaints.entry(line["event"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        // A line for each event and fault; what is waited for has one a minute, however many the faults.
        let minutes = usize::try_from(1 + age.as_secs() / 60).unwrap();
        let most = |event: &str| if event.ends_with("_failed") { faults.min(minutes) } else { faults };
        assert!(complaints.iter().all(|(event, count)| *count <= most(event)), "{complaints:?}");
        assert!(complaints.len() <= 4, "{complaints:?}");
    }
}
