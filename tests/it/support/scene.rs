//! Everything that most tests need: a topic, a database, a queue and the variables that name them.

use serde_json::{Value, json};
use uuid::Uuid;

use super::database::TestDatabase;
use super::dispatcher::Setting;
use super::queue::TestQueue;
use super::topic::TestTopic;
use super::{PATIENCE, wait_until};

pub(crate) struct Scene {
    pub(crate) topic: TestTopic,
    pub(crate) database: TestDatabase,
    pub(crate) setting: Setting,
    pub(crate) queue: TestQueue,
}

/// What became of the records of one partition, as `dispatcher.progress` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) next_offset: Option<i64>,
    pub(crate) consumed: i64,
    pub(crate) triggered: i64,
    pub(crate) busy: i64,
    pub(crate) redelivered: i64,
    pub(crate) merged: i64,
    pub(crate) unmatched: i64,
    pub(crate) stale: i64,
    pub(crate) invalid: i64,
}

impl Progress {
    /// Every record has one reason.
    pub(crate) fn reasons(&self) -> i64 {
        self.triggered + self.busy + self.redelivered + self.merged + self.unmatched + self.stale + self.invalid
    }
}

/// A signal with an id, for one ticker.
pub(crate) fn signal(id: &str, ticker: &str) -> Value {
    json!({"signal_id": id, "signal_type": "golden_cross", "source": "test", "tickers": [{"ticker": ticker, "signal": "BULLISH", "confidence": 85.0}]})
}

impl Scene {
    pub(crate) async fn new(partitions: i32) -> Self {
        Self::with(TestDatabase::create().await, partitions).await
    }

    /// With a database that is unlike the others.
    pub(crate) async fn with(database: TestDatabase, partitions: i32) -> Self {
        let topic = TestTopic::create(partitions).await;
        let setting = Setting::new(&topic, &database);
        let queue = TestQueue::new(&setting.queue);
        Self { topic, database, setting, queue }
    }

    /// Has changes of the rules told at once, as the owner of the platform's tables.
    pub(crate) fn install_notify(&self) -> String {
        let output = self.setting.run(&["migrate", "--install-notify"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The value of a variable.
    pub(crate) fn variable(&self, name: &str) -> String {
        self.setting.variables.iter().find(|(known, _)| known == name).unwrap().1.clone()
    }

    /// Sends signals to partition 0 and waits until Kafka has them.
    pub(crate) fn send(&self, signals: &[Value]) {
        for signal in signals {
            self.topic.send_json(0, signal);
        }
        self.topic.flush();
    }

    /// The progress of each partition; empty before anything was decided.
    pub(crate) async fn progress(&self) -> Vec<Progress> {
        if self.database.number("select count(*) from pg_tables where schemaname = 'dispatcher' and tablename = 'progress'").await
            == 0
        {
            return Vec::new();
        }
        let sql = "select next_offset, consumed, triggered, busy, redelivered, merged, unmatched, stale, invalid
            from dispatcher.progress where consumer_group = $1 and topic = $2 order by partition";
        let rows = self.database.rows(sql, &[&self.setting.group, &self.topic.name]).await;
        let read = |row: &tokio_postgres::Row| Progress {
            next_offset: row.get(0),
            consumed: row.get(1),
            triggered: row.get(2),
            busy: row.get(3),
            redelivered: row.get(4),
            merged: row.get(5),
            unmatched: row.get(6),
            stale: row.get(7),
            invalid: row.get(8),
        };
        rows.iter().map(read).collect()
    }

    /// The progress of the whole topic; its offset is the sum.
    pub(crate) async fn total(&self) -> Progress {
        self.progress().await.iter().fold(Progress::default(), |sum, one| Progress {
            next_offset: Some(sum.next_offset.unwrap_or(0) + one.next_offset.unwrap_or(0)),
            consumed: sum.consumed + one.consumed,
            triggered: sum.triggered + one.triggered,
            busy: sum.busy + one.busy,
            redelivered: sum.redelivered + one.redelivered,
            merged: sum.merged + one.merged,
            unmatched: sum.unmatched + one.unmatched,
            stale: sum.stale + one.stale,
            invalid: sum.invalid + one.invalid,
        })
    }

    /// Waits until so many records are decided, and says what became of them.
    pub(crate) async fn decided(&self, records: i64) -> Progress {
        let what = format!("{records} decided records");
        wait_until(&what, PATIENCE, async || Some(self.total().await).filter(|total| total.consumed >= records)).await
    }

    /// Waits until Kafka's committed offsets add up to so many records.
    pub(crate) fn committed(&self, records: i64) {
        let sum = || self.topic.committed(&self.setting.group).iter().flatten().sum::<i64>();
        super::wait_for(&format!("{records} committed records"), PATIENCE, || Some(sum()).filter(|sum| *sum == records));
    }

    /// Waits until the queue holds so many tasks, and gives their pipelines.
    pub(crate) fn enqueued(&mut self, tasks: usize) -> Vec<Uuid> {
        super::wait_for(&format!("{tasks} tasks"), PATIENCE, || Some(self.queue.len()).filter(|length| *length >= tasks));
        self.queue.pipelines()
    }
}
