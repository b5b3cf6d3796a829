//! Celery's message protocol 2. Pure.
//!
//! Written by hand (docs/adr/0001): the published crates send messages that current workers lose or die of.
//! Every field that a worker requires is always there; golden tests run these bytes on real workers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Task;
use crate::config::CeleryConfig;

/// Headers that the protocol owns; nobody else may set them.
pub const OWN_HEADERS: [&str; 19] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
];

/// Characters of the arguments that workers show in their logs.
const SHOWN: usize = 1024;

/// Makes messages for one kind of task.
#[derive(Debug, Clone)]
pub struct Encoder {
    task_name: String,
    queue: String,
    priority: u8,
    origin: String,
    headers: Map<String, Value>,
}

impl Encoder {
    /// An encoder for the configured task and queue.
    pub fn new(config: &CeleryConfig) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
        Self {
            task_name: config.task_name.clone(),
            queue: config.task_queue.clone(),
            priority: config.priority,
            origin: format!("trigger-dispatcher@{host}"),
            headers: config.headers.clone(),
        }
    }

    /// The body: positional arguments, keyword arguments, and what to do afterwards.
    pub fn body(task: &Task) -> String {
        format!(r#"[[], {}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#, task.kwargs)
    }

    /// The headers, the same for every transport.
    pub fn headers(&self, task: &Task, expires: Timestamp) -> Map<String, Value> {
        let id = task.trigger_id.to_string();
        let shown: String = task.kwargs.chars().take(SHOWN).collect();
        let own = json!({
            "lang": "py",
            "task": self.task_name,
            "id": id,
            "shadow": null,
            "eta": null,
            "expires": iso8601(expires),
            "group": null,
            "group_index": null,
            "retries": 0,
            "timelimit": [null, null],
            "root_id": id,
            "parent_id": null,
            "argsrepr": "()",
            "kwargsrepr": shown,
            "origin": self.origin,
            "ignore_result": null,
            "replaced_task_nesting": 0,
            "stamped_headers": null,
            "stamps": {},
        });
        let mut headers = self.headers.clone();
        if let Value::Object(own) = own {
            headers.extend(own);
        }
        headers
    }

    /// The whole message as kombu's Redis transport keeps it in a list.
    pub fn redis_message(&self, task: &Task, expires: Timestamp) -> String {
        let id = task.trigger_id.to_string();
        json!({
            "body": BASE64.encode(Self::body(task)),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": self.headers(task, expires),
            "properties": {
                "correlation_id": id,
                "reply_to": Uuid::nil().to_string(),
                "delivery_mode": 2,
                // The real queue, through the nameless exchange: else a restored message is lost (kombu).
                "delivery_info": {"exchange": "", "routing_key": self.queue},
                "priority": self.priority,
                "body_encoding": "base64",
                "delivery_tag": id,
            },
        })
        .to_string()
    }
}

/// The list in which kombu's Redis transport keeps tasks of a priority.
pub fn redis_list(config: &CeleryConfig) -> String {
    let step = config.priority_steps.iter().rev().find(|step| **step <= config.priority).copied().unwrap_or(0);
    let name = &config.task_queue;
    let prefix = &config.global_keyprefix;
    if step == 0 { format!("{prefix}{name}") } else { format!("{prefix}{name}{}{step}", config.priority_separator) }
}

/// ISO 8601 with an offset and at most six decimals, as every supported Celery and Python reads it.
pub fn iso8601(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests;
