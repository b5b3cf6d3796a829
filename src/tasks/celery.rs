//! Celery's message protocol 2. Pure.
//!
//! Written by hand (docs/adr/0001): the published crates send messages that current workers lose or die of.
//! Every field that a worker requires is always there; golden tests run these bytes on real workers.

mod template;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::template::{Gaps, Template};
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
    origin: String,
    headers: Map<String, Value>,
    redis: Template,
}

impl Encoder {
    /// An encoder for the configured task and queue.
    pub fn new(config: &CeleryConfig) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
        let mut encoder = Self {
            task_name: config.task_name.clone(),
            origin: format!("trigger-dispatcher@{host}"),
            headers: config.headers.clone(),
            redis: Template::default(),
        };
        encoder.redis = Template::cut(|gaps| encoder.redis_message_of(config, gaps));
        encoder
    }

    /// The body: positional arguments, keyword arguments, and what to do afterwards.
    pub fn body(task: &Task) -> String {
        ["[[], ", &task.kwargs, r#", {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#].concat()
    }

    /// The headers, the same for every transport.
    pub fn headers(&self, task: &Task, expires: Timestamp) -> Map<String, Value> {
        self.headers_of(&task.trigger_id.to_string(), &iso8601(expires), shown(&task.kwargs))
    }

    fn headers_of(&self, id: &str, expires: &str, kwargs: &str) -> Map<String, Value> {
        let own = json!({
            "lang": "py",
            "task": self.task_name,
            "id": id,
            "shadow": null,
            "eta": null,
            "expires": expires,
            "group": null,
            "group_index": null,
            "retries": 0,
            "timelimit": [null, null],
            "root_id": id,
            "parent_id": null,
            "argsrepr": "()",
            "kwargsrepr": kwargs,
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

    /// The whole messages of a publication, as kombu's Redis transport keeps them in a list.
    pub fn redis_messages<'a>(&self, tasks: impl IntoIterator<Item = &'a Task>, expires: Timestamp) -> Vec<String> {
        let expires = iso8601(expires);
        tasks.into_iter().map(|task| self.redis.fill(task, &expires)).collect()
    }

    /// What every such message says, as one JSON object.
    fn redis_message_of(&self, config: &CeleryConfig, gaps: &Gaps) -> Value {
        json!({
            "body": gaps.body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": self.headers_of(&gaps.id, &gaps.expires, &gaps.kwargs),
            "properties": {
                "correlation_id": gaps.id,
                "reply_to": Uuid::nil().to_string(),
                "delivery_mode": 2,
                // The real queue, through the nameless exchange: else a restored message is lost (kombu).
                "delivery_info": {"exchange": "", "routing_key": config.task_queue},
                "priority": config.priority,
                "body_encoding": "base64",
                "delivery_tag": gaps.id,
            },
        })
    }
}

/// As much of the arguments as workers show in their logs.
fn shown(kwargs: &str) -> &str {
    // So many bytes are at most so many characters.
    let end = if kwargs.len() <= SHOWN { None } else { kwargs.char_indices().nth(SHOWN) };
    end.map_or(kwargs, |(end, _)| &kwargs[..end])
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
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    let mut text = PRINTER.timestamp_to_string(&time);
    // The same as Z, which Python read only from 3.11 on.
    text.truncate(text.len() - 1);
    text.push_str("+00:00");
    text
}

#[cfg(test)]
mod tests;
