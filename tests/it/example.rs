//! The published example: two tickers, two pipelines, one of them running; and a real Celery worker.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::support::amqp::AmqpTestQueue;
use super::support::dispatcher::{Instance, Log};
use super::support::scene::Scene;
use super::support::worker::Worker;
use super::support::{service, wait_for, wait_until};

/// The example's scene, with `pipeline_123` idle and `pipeline_456` running.
struct Example {
    scene: Scene,
    pipeline_123: Uuid,
    pipeline_456: Uuid,
}

/// As published: without a signal id.
fn published(ticker: &str, bias: &str, confidence: u32) -> Value {
    json!({"tickers": [{"ticker": ticker, "signal": bias, "confidence": confidence, "reasoning": "a cross"}]})
}

impl Example {
    async fn new(partitions: i32) -> Self {
        let scene = Scene::new(partitions).await;
        let pipeline_123 = scene.database.pipeline("pipeline_123", &["AAPL"]).await;
        let pipeline_456 = scene.database.pipeline("pipeline_456", &["MSFT"]).await;
        scene.database.execution(pipeline_456, "RUNNING").await;
        Self { scene, pipeline_123, pipeline_456 }
    }

    /// AAPL at 0.0 s, MSFT at 0.1, AAPL at 0.2.
    async fn send_at_their_times(&self, partitions: [i32; 3]) {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        let signals = [published("AAPL", "BULLISH", 85), published("MSFT", "BULLISH", 70), published("AAPL", "BEARISH", 65)];
        for (partition, signal) in partitions.into_iter().zip(signals) {
            pace.tick().await;
            self.scene.topic.send_json(partition, &signal);
            self.scene.topic.flush();
        }
    }

    /// One task, the rest skipped, and Kafka knows.
    fn assert_told(&self, logs: &[Log]) {
        let sum = |field: &str| logs.iter().map(|log| log.sum("batch_enqueue_completed", field)).sum::<u64>();
        wait_for("three accounted signals", 30, || Some(sum("enqueued") + sum("skipped_running")).filter(|sum| *sum == 3));
        assert_eq!((sum("enqueued"), sum("skipped_running")), (1, 2));
        self.scene.committed(3);
    }

    /// A worker runs the one task, which sees what the first signal said. The worker is handed back alive: one that is
    /// ended before it has acknowledged its task gives it back.
    async fn assert_a_worker_runs_it(&self) -> Worker {
        let worker = Worker::start(&self.scene.setting);
        let database = &self.scene.database;
        let sql = "select id, result from executions where pipeline_id = $1 and status = 'COMPLETED'";
        let what = format!("a completed execution; the worker: {:#?}", worker.lines());
        let row = wait_until(&what, 60, async || database.rows(sql, &[&self.pipeline_123]).await.pop()).await;
        let (execution_id, result): (Uuid, Value) = (row.get(0), row.get(1));
        assert_eq!((result["bias"].clone(), result["confidence"].clone()), (json!("BULLISH"), json!(85.0)));
        assert_eq!((result["symbol"].clone(), result["action"].clone()), (json!("AAPL"), json!("BUY")));
        let triggers = database.rows("select trigger_id, pipeline_id from dispatcher.triggers", &[]).await;
        assert_eq!(triggers.len(), 1);
        assert_eq!((triggers[0].get::<_, Uuid>(0), triggers[0].get::<_, Uuid>(1)), (execution_id, self.pipeline_123));
        let untouched = "select count(*) from executions where pipeline_id = $1 and status = 'RUNNING'";
        assert_eq!(database.rows(untouched, &[&self.pipeline_456]).await[0].get::<_, i64>(0), 1);
        assert_eq!(database.number("select count(*) from executions").await, 2, "one run, and the one that ran before");
        worker
    }
}

async fn the_example_on_redis(flush: &str) {
    let mut example = Example::new(1).await;
    example.scene.setting.set("BATCH_FLUSH", flush).set("CELERY_RESULT_BACKEND", &service("TEST_REDIS_URL"));
    let dispatcher = example.scene.setting.start();
    example.send_at_their_times([0, 0, 0]).await;
    example.assert_told(&[dispatcher.log()]);
    assert_eq!(example.scene.queue.pipelines(), [example.pipeline_123]);
    let _worker = example.assert_a_worker_runs_it().await;
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn the_published_example_starts_one_task_with_eager_batches() {
    the_example_on_redis("eager").await;
}

#[tokio::test]
async fn the_published_example_starts_one_task_with_windowed_batches() {
    the_example_on_redis("window").await;
}

#[tokio::test]
async fn the_published_example_starts_one_task_on_rabbitmq() {
    let mut example = Example::new(1).await;
    example.scene.setting.set("CELERY_BROKER_URL", &service("TEST_AMQP_URL"));
    let queue = AmqpTestQueue::declare(&example.scene.setting.queue).await;
    let dispatcher = example.scene.setting.start();
    example.send_at_their_times([0, 0, 0]).await;
    example.assert_told(&[dispatcher.log()]);
    assert_eq!(queue.len().await, 1);
    let _worker = example.assert_a_worker_runs_it().await;
    assert_eq!(queue.len().await, 0);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn without_a_queue_in_rabbitmq_the_dispatcher_waits_and_loses_nothing() {
    let mut example = Example::new(1).await;
    example.scene.setting.set("CELERY_BROKER_URL", &service("TEST_AMQP_URL"));
    let dispatcher = example.scene.setting.start();
    example.scene.send(&[published("AAPL", "BULLISH", 85)]);
    let failed = dispatcher.wait_for_event("enqueue_failed");
    assert!(failed["error"].as_str().unwrap().contains(&example.scene.setting.queue), "{failed}");
    assert_eq!(example.scene.topic.committed(&example.scene.setting.group), [None], "not before the broker has the task");
    // The worker declares the queue.
    let _worker = example.assert_a_worker_runs_it().await;
    example.scene.committed(1);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn the_published_example_starts_one_task_while_one_of_three_instances_restarts() {
    let mut example = Example::new(4).await;
    let mut instances: Vec<Instance> = (0..3).map(|_| example.scene.setting.start()).collect();
    let mut logs: Vec<Log> = instances.iter().map(Instance::log).collect();
    let all_started = || {
        let progress = logs.iter().filter_map(|log| log.events("partitions_started").pop()).count();
        Some(progress).filter(|started| *started == 3)
    };
    wait_for("three instances that read", 60, all_started);
    // As a producer that keys by ticker does. The instance that reads AAPL is the one that restarts.
    let reads_aapl = logs.iter().position(|log| {
        log.events("partitions_started")
            .pop()
            .is_some_and(|last| last["partitions"].as_array().is_some_and(|list| list.iter().any(|started| started[0] == 0)))
    });
    let sending = async { example.send_at_their_times([0, 1, 0]).await };
    let restarting = async {
        let stopped = instances.remove(reads_aapl.unwrap()).stop();
        instances.push(example.scene.setting.launch());
        stopped
    };
    let ((), stopped) = tokio::join!(sending, restarting);
    assert!(stopped.success());
    logs.push(instances[2].log());
    example.assert_told(&logs);
    assert_eq!(example.scene.queue.pipelines(), [example.pipeline_123]);
    let _worker = example.assert_a_worker_runs_it().await;
    for instance in instances {
        assert!(instance.stop().success());
    }
}
