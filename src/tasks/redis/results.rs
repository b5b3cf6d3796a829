//! What Celery's result backend in Redis says of tasks. Does IO.

use uuid::Uuid;

use super::{Error, RedisLink};

/// What Celery's result backend says of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskResult {
    /// It ran to its end, whether it succeeded or failed.
    Ended,
    /// It was revoked, or expired in the queue.
    Revoked,
    /// Anything else: it has left a trace of a start, and may still run.
    Unfinished,
}

/// What Celery's result backend says of these tasks; nothing of those that it does not know.
///
/// # Errors
/// Redis does not answer or refuses.
pub async fn results(link: &mut RedisLink, tasks: &[Uuid]) -> Result<Vec<(Uuid, TaskResult)>, Error> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = tasks.iter().map(|task| format!("celery-task-meta-{task}")).collect();
    let results: Vec<Option<String>> =
        link.run(async |connection| redis::cmd("MGET").arg(&keys).query_async(connection).await).await?;
    Ok(tasks.iter().zip(results).filter_map(|(task, result)| Some((*task, read_result(&result?)))).collect())
}

/// A result that cannot be read is not final.
fn read_result(result: &str) -> TaskResult {
    #[derive(serde::Deserialize)]
    struct Meta {
        status: String,
    }
    match serde_json::from_str::<Meta>(result).as_ref().map(|meta| meta.status.as_str()) {
        Ok("SUCCESS" | "FAILURE") => TaskResult::Ended,
        Ok("REVOKED") => TaskResult::Revoked,
        _ => TaskResult::Unfinished,
    }
}
