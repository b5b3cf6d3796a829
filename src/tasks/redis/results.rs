//! What Celery's result backend in Redis says of tasks. Does IO.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use uuid::Uuid;

use super::{Error, RedisLink};
use crate::config::RedisAddress;
use crate::telemetry::Seldom;

/// Bytes of a result that are read. Celery writes the status first; the rest may be megabytes.
const HEAD: isize = 1_024;

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

/// Celery's result backend in Redis.
#[derive(Debug)]
pub struct Results {
    link: RedisLink,
    key_prefix: String,
    seldom: Seldom,
}

impl Results {
    /// Prepares a connection; Redis need not be reachable yet. `global_prefix` as in Celery's `result_backend_transport_options`.
    ///
    /// # Errors
    /// See [`RedisLink::new`].
    pub fn new(address: &RedisAddress, global_prefix: &str) -> Result<Self, Error> {
        Ok(Self { link: RedisLink::new(address)?, key_prefix: key_prefix(global_prefix), seldom: Seldom::default() })
    }

    /// What the result backend says of these tasks; nothing of those that it does not know.
    ///
    /// # Errors
    /// Redis does not answer or refuses.
    pub async fn of(&mut self, tasks: &[Uuid]) -> Result<Vec<(Uuid, TaskResult)>, Error> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut heads = redis::pipe();
        for task in tasks {
            heads.getrange(format!("{}{task}", self.key_prefix), 0, HEAD - 1);
        }
        let heads: Vec<Vec<u8>> = self.link.run(async |connection| heads.query_async(connection).await).await?;
        let known = tasks.iter().zip(&heads).filter(|(_, head)| !head.is_empty());
        let results: Vec<_> = known.map(|(task, head)| (*task, status(head))).collect();
        if let Some((task_id, _)) = results.iter().find(|(_, status)| status.is_none())
            && self.seldom.now("result_unreadable")
        {
            tracing::warn!(
                event = "result_unreadable",
                %task_id,
                text = "the result is not JSON, or its status does not come first, so slots are freed without it: set Celery's \
                    result_serializer to json, and no result compression"
            );
        }
        Ok(results
            .into_iter()
            .map(|(task, status)| (task, status.map_or(TaskResult::Unfinished, |status| meaning(&status))))
            .collect())
    }
}

/// What stands before a task's id. Celery puts an underscore behind a prefix that does not end in a separator.
fn key_prefix(global_prefix: &str) -> String {
    let separator = if global_prefix.is_empty() || global_prefix.ends_with([':', '_', '-', '.']) { "" } else { "_" };
    format!("{global_prefix}{separator}celery-task-meta-")
}

fn meaning(status: &str) -> TaskResult {
    match status {
        "SUCCESS" | "FAILURE" => TaskResult::Ended,
        "REVOKED" => TaskResult::Revoked,
        _ => TaskResult::Unfinished,
    }
}

/// The status in a result of which only the head is there; `None` if it has none that can be read.
fn status(head: &[u8]) -> Option<String> {
    let mut status = Status(None);
    // Where the head ends the reading fails, and what was found by then counts.
    serde_json::Deserializer::from_slice(head).deserialize_map(&mut status).ok();
    status.0
}

struct Status(Option<String>);

impl<'de> Visitor<'de> for &mut Status {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result of Celery")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "status" {
                self.0 = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_head_of_a_result_whatever_follows() {
        let long = format!(r#"{{"status": "SUCCESS", "result": "{}"#, "x".repeat(2_000));
        for (result, expected) in [
            (r#"{"status": "SUCCESS", "result": {"status": "FAILURE"}}"#, Some("SUCCESS")),
            (long.as_str(), Some("SUCCESS")),
            (r#"{"result": {"status": "SUCCESS"}, "status": "STARTED"}"#, Some("STARTED")),
            // The result's own word is not the task's.
            (r#"{"result": {"status": "SUCCESS"#, None),
            (r#"{"status": "SUCC"#, None),
            (r#"{"status": 7}"#, None),
            (r#"["status", "SUCCESS"]"#, None),
            ("\u{80}\u{4}status SUCCESS", None),
        ] {
            assert_eq!(status(result.as_bytes()).as_deref(), expected, "{result}");
        }
        assert_eq!(status(b"\x80\x04\x95}\x94(\x8c\x06status\x94\x8c\x07SUCCESS\x94u."), None, "pickle");
    }

    #[test]
    fn keys_have_the_prefix_that_celery_makes_of_the_global_one() {
        for (global, expected) in [
            ("", ""),
            ("app", "app_"),
            ("app:", "app:"),
            ("app_", "app_"),
            ("app-", "app-"),
            ("app.", "app."),
            ("{app}", "{app}_"),
        ] {
            assert_eq!(key_prefix(global), format!("{expected}celery-task-meta-"), "{global}");
        }
    }
}
