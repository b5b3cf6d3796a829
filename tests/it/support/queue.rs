//! A Celery queue in Redis, seen as a worker would see it. Nothing is taken out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use redis::Commands as _;
use serde_json::Value;
use uuid::Uuid;

use super::service;

pub(crate) struct TestQueue {
    connection: redis::Connection,
    list: String,
}

/// A task as its message says it.
#[derive(Debug, Clone)]
pub(crate) struct SentTask {
    pub(crate) id: Uuid,
    pub(crate) pipeline_id: Uuid,
    pub(crate) kwargs: Value,
    /// When workers throw it away.
    pub(crate) expires: jiff::Timestamp,
}

impl SentTask {
    fn read(message: &str) -> Self {
        let message: Value = serde_json::from_str(message).unwrap();
        let body = BASE64.decode(message["body"].as_str().unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let kwargs = body[1].clone();
        let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
        let expires = message["headers"]["expires"].as_str().unwrap().parse().unwrap();
        let task = Self { id: id(&message["headers"]["id"]), pipeline_id: id(&kwargs["pipeline_id"]), kwargs, expires };
        assert_eq!(id(&task.kwargs["execution_id"]), task.id, "execution and task have one id");
        task
    }

    pub(crate) fn symbol(&self) -> &str {
        self.kwargs["symbol"].as_str().unwrap()
    }

    pub(crate) fn context(&self) -> &Value {
        &self.kwargs["signal_context"]
    }
}

impl TestQueue {
    pub(crate) fn new(list: &str) -> Self {
        Self::at(&service("TEST_REDIS_URL"), list)
    }

    /// In a Redis of the test's own.
    pub(crate) fn at(url: &str, list: &str) -> Self {
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        Self { connection, list: list.to_owned() }
    }

    pub(crate) fn len(&mut self) -> usize {
        self.connection.llen(&self.list).unwrap()
    }

    /// The tasks, oldest first.
    pub(crate) fn tasks(&mut self) -> Vec<SentTask> {
        let messages: Vec<String> = self.connection.lrange(&self.list, 0, -1).unwrap();
        messages.iter().rev().map(|message| SentTask::read(message)).collect()
    }

    /// Whose tasks there are, oldest first.
    pub(crate) fn pipelines(&mut self) -> Vec<Uuid> {
        self.tasks().iter().map(|task| task.pipeline_id).collect()
    }

    /// What Celery's result backend says of a task.
    pub(crate) fn put_result(&mut self, task: Uuid, status: &str) {
        let meta = serde_json::json!({"status": status, "result": null, "traceback": null, "children": [], "task_id": task});
        let () = self.connection.set_ex(format!("celery-task-meta-{task}"), meta.to_string(), 3600).unwrap();
    }
}
