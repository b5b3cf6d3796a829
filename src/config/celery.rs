//! Where tasks go, and what they look like.

use serde_json::{Map, Value};

use super::broker_url::{Broker, RedisAddress};
use super::environment::{Reader, shape};

/// A keyword argument of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The pipeline.
    PipelineId,
    /// The pipeline's owner.
    UserId,
    /// The trigger's id, which is the task's and the execution's.
    ExecutionId,
    /// The first ticker that matched.
    Symbol,
    /// What the signal said.
    SignalContext,
}

impl Argument {
    const ALL: [(&'static str, Self); 5] = [
        ("pipeline_id", Self::PipelineId),
        ("user_id", Self::UserId),
        ("execution_id", Self::ExecutionId),
        ("symbol", Self::Symbol),
        ("signal_context", Self::SignalContext),
    ];
}

/// Where Celery keeps results, as far as we can ask it.
#[derive(Debug, Clone)]
pub enum ResultBackend {
    /// Keys `celery-task-meta-<id>`, which tell that a task is over.
    Redis(RedisAddress),
    /// None, or one we cannot read: `executions` and the lease tell that a task is over.
    Unseen,
}

/// Where tasks go, and what they look like.
#[derive(Debug, Clone)]
pub struct CeleryConfig {
    /// The broker.
    pub broker: Broker,
    /// The result backend.
    pub result_backend: ResultBackend,
    /// The task's registered name.
    pub task_name: String,
    /// The queue.
    pub task_queue: String,
    /// Which keyword arguments the task takes.
    pub arguments: Vec<Argument>,
    /// Constants added to the keyword arguments.
    pub extra_kwargs: Map<String, Value>,
    /// Constants added to the message's headers.
    pub headers: Map<String, Value>,
    /// 0 to 255. On Redis the lowest runs first, on RabbitMQ the highest: so are the brokers.
    pub priority: u8,
    /// Redis: the priorities that have a list of their own, ascending.
    pub priority_steps: Vec<u8>,
    /// Redis: what stands between queue and step in a list's name.
    pub priority_separator: String,
    /// Redis: prefix of every key of the broker.
    pub global_keyprefix: String,
    /// Prefix of every key of the result backend.
    pub result_key_prefix: String,
}

impl CeleryConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let broker = reader.required("CELERY_BROKER_URL").and_then(|url| match Broker::parse(url) {
            Ok(broker) => Some(broker),
            Err(text) => {
                reader.problem("CELERY_BROKER_URL", format!("{text}; got {}", shape(url)));
                None
            }
        });
        let result_backend = result_backend(reader);
        let task_name = reader.required("CELERY_TASK_NAME");
        let task_queue = reader.required("CELERY_TASK_QUEUE");
        let arguments = arguments(reader);
        let extra_kwargs = object(reader, "CELERY_TASK_EXTRA_KWARGS");
        for (name, _) in Argument::ALL {
            if extra_kwargs.as_ref().is_some_and(|extra| extra.contains_key(name)) {
                reader.problem("CELERY_TASK_EXTRA_KWARGS", format!("{name} is an argument of the service's own"));
            }
        }
        let headers = object(reader, "CELERY_TASK_HEADERS");
        for name in crate::tasks::celery::OWN_HEADERS {
            if headers.as_ref().is_some_and(|headers| headers.contains_key(name)) {
                reader.problem("CELERY_TASK_HEADERS", format!("{name} is one of Celery's own headers"));
            }
        }
        let priority = reader.number("CELERY_TASK_PRIORITY", 0, u8::MAX);
        let priority_steps = priority_steps(reader);
        Some(Self {
            broker: broker?,
            result_backend: result_backend?,
            task_name: task_name?.to_owned(),
            task_queue: task_queue?.to_owned(),
            arguments: arguments?,
            extra_kwargs: extra_kwargs?,
            headers: headers?,
            priority: priority?,
            priority_steps: priority_steps?,
            priority_separator: reader.optional("CELERY_PRIORITY_SEPARATOR").unwrap_or("\u{6}\u{16}").to_owned(),
            global_keyprefix: reader.optional("CELERY_GLOBAL_KEYPREFIX").unwrap_or_default().to_owned(),
            result_key_prefix: reader.optional("CELERY_RESULT_GLOBAL_KEYPREFIX").unwrap_or_default().to_owned(),
        })
    }
}

impl CeleryConfig {
    /// The broker and the queue, without credentials: who publishes to another target belongs to another deployment.
    pub fn target(&self) -> String {
        let queue = &self.task_queue;
        match &self.broker {
            Broker::Redis(address) => format!("{} {}{queue}", address.redacted(), self.global_keyprefix),
            Broker::Amqp(address) => format!("{} {queue}", address.redacted),
        }
    }
}

fn result_backend(reader: &mut Reader<'_>) -> Option<ResultBackend> {
    let Some(url) = reader.optional("CELERY_RESULT_BACKEND") else { return Some(ResultBackend::Unseen) };
    if !["redis://", "rediss://", "redis+socket://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Some(ResultBackend::Unseen);
    }
    match RedisAddress::parse(url) {
        Ok(address) => Some(ResultBackend::Redis(address)),
        Err(text) => {
            reader.problem("CELERY_RESULT_BACKEND", format!("{text}; got {}", shape(url)));
            None
        }
    }
}

fn arguments(reader: &mut Reader<'_>) -> Option<Vec<Argument>> {
    let list = reader.required("CELERY_TASK_ARGUMENTS")?;
    let mut arguments = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Argument::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, argument)) if !arguments.contains(argument) => arguments.push(*argument),
            Some(_) => {}
            None => {
                let known: Vec<_> = Argument::ALL.iter().map(|(name, _)| *name).collect();
                reader.problem("CELERY_TASK_ARGUMENTS", format!("expected some of {}, got {}", known.join(","), shape(name)));
                return None;
            }
        }
    }
    Some(arguments)
}

fn object(reader: &mut Reader<'_>, name: &str) -> Option<Map<String, Value>> {
    let text = reader.required(name)?;
    let object = serde_json::from_str(text).ok();
    if object.is_none() {
        reader.problem(name, format!("expected a JSON object such as {{\"mode\": \"paper\"}}, got {}", shape(text)));
    }
    object
}

fn priority_steps(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let list = reader.required("CELERY_PRIORITY_STEPS")?;
    let steps: Option<Vec<u8>> = list.split(',').map(|step| step.trim().parse().ok()).collect();
    let steps = steps.filter(|steps| steps.is_sorted_by(|a, b| a < b) && steps.first() == Some(&0));
    if steps.is_none() {
        reader.problem(
            "CELERY_PRIORITY_STEPS",
            format!("expected ascending numbers from 0 on such as 0,3,6,9, got {}", shape(list)),
        );
    }
    steps
}

#[cfg(test)]
impl CeleryConfig {
    /// What holds where nothing is set that need not be.
    pub(crate) fn of_defaults() -> Self {
        let environment = super::Environment::from([
            ("KAFKA_BOOTSTRAP_SERVERS", "unused:1"),
            ("CELERY_BROKER_URL", "redis://unused/0"),
            ("POSTGRES_USER", "unused"),
            ("POSTGRES_PASSWORD", "unused"),
            ("POSTGRES_HOST", "localhost"),
            ("POSTGRES_DB", "unused"),
        ]);
        super::Config::read(&environment).unwrap().celery
    }
}
