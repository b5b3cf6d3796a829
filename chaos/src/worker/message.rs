//! A Celery message, read as strictly as a worker reads it: what is missing here would kill one.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::queue::Message;

/// What a message asks for.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) trigger_id: Uuid,
    pub(crate) pipeline_id: Uuid,
    pub(crate) user_id: String,
    pub(crate) symbol: String,
    /// When it must not be started any more, as PostgreSQL reads a time.
    pub(crate) expires: String,
    pub(crate) signal_id: String,
    pub(crate) tickers: Vec<String>,
    /// The record that the signal says it came with.
    pub(crate) number: u64,
    /// Tells apart messages with the same trigger.
    pub(crate) digest: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Envelope {
    body: String,
    content_type: String,
    headers: Headers,
    properties: Properties,
}

#[derive(Deserialize)]
struct Headers {
    task: String,
    id: Uuid,
    expires: String,
}

#[derive(Deserialize)]
struct Properties {
    body_encoding: String,
    #[serde(rename = "delivery_tag")]
    _delivery_tag: String,
    delivery_info: Info,
}

#[derive(Deserialize)]
struct Info {
    exchange: String,
    #[serde(rename = "routing_key")]
    _routing_key: String,
}

#[derive(Deserialize)]
struct Kwargs {
    pipeline_id: Uuid,
    user_id: String,
    execution_id: Uuid,
    symbol: String,
    signal_context: Context,
}

#[derive(Deserialize)]
struct Context {
    signal_id: String,
    tickers: Vec<String>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    number: u64,
}

impl Delivery {
    pub(super) fn read(message: &Message) -> anyhow::Result<Self> {
        match message {
            Message::Redis(bytes) => Self::from_redis(bytes),
            Message::Rabbitmq(message) => Self::from_rabbitmq(&message.properties, &message.data),
        }
    }

    fn from_redis(message: &[u8]) -> anyhow::Result<Self> {
        let envelope: Envelope = serde_json::from_slice(message).context("the envelope")?;
        let Envelope { body, content_type, headers, properties } = envelope;
        anyhow::ensure!(content_type == "application/json" && properties.body_encoding == "base64", "the encodings");
        anyhow::ensure!(properties.delivery_info.exchange.is_empty(), "the exchange");
        Self::new(headers, &BASE64.decode(body).context("the body's base64")?, digest(message))
    }

    fn from_rabbitmq(properties: &BasicProperties, body: &[u8]) -> anyhow::Result<Self> {
        let is = |property: &Option<ShortString>, wanted: &str| property.as_ref().is_some_and(|found| found.as_str() == wanted);
        anyhow::ensure!(
            is(properties.content_type(), "application/json") && is(properties.content_encoding(), "utf-8"),
            "the encodings"
        );
        anyhow::ensure!(*properties.delivery_mode() == Some(2), "a broker that restarts would forget it");
        let header = |name: &str| {
            let headers = properties.headers().as_ref()?.inner();
            match headers.iter().find(|(key, _)| key.as_str() == name)?.1 {
                AMQPValue::LongString(text) => Some(text.to_string()),
                _ => None,
            }
        };
        let header = |name: &str| header(name).with_context(|| format!("the header {name}"));
        let id = header("id")?;
        anyhow::ensure!(is(properties.correlation_id(), &id), "the correlation id is not the task's");
        let headers = Headers { task: header("task")?, id: id.parse().context("the id")?, expires: header("expires")? };
        let digest = digest(&[id.as_bytes(), headers.expires.as_bytes(), body].concat());
        Self::new(headers, body, digest)
    }

    fn new(headers: Headers, body: &[u8], digest: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(headers.task == "app.orchestration.tasks.execute_pipeline", "the task's name");
        let (arguments, kwargs, _): (Vec<Value>, Kwargs, Value) = serde_json::from_slice(body).context("the body")?;
        anyhow::ensure!(arguments.is_empty(), "positional arguments");
        anyhow::ensure!(kwargs.execution_id == headers.id, "the execution's id is not the task's");
        Ok(Self {
            trigger_id: headers.id,
            pipeline_id: kwargs.pipeline_id,
            user_id: kwargs.user_id,
            symbol: kwargs.symbol,
            expires: headers.expires,
            signal_id: kwargs.signal_context.signal_id,
            tickers: kwargs.signal_context.tickers,
            number: kwargs.signal_context.metadata.number,
            digest,
        })
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldTable;

    const ID: &str = "6f1d6a3e-7d0a-4c5e-9a53-0c3f2f7f8a11";

    fn body() -> String {
        format!(
            r#"[[],{{"pipeline_id":"{ID}","user_id":"u","execution_id":"{ID}","symbol":"T001",
            "signal_context":{{"signal_id":"s","tickers":["T001"],"metadata":{{"number":7}}}}}},{{}}]"#
        )
    }

    fn properties(mode: u8) -> BasicProperties {
        let mut headers = FieldTable::default();
        let expires = "2030-01-01T00:00:00+00:00";
        for (name, value) in [("task", "app.orchestration.tasks.execute_pipeline"), ("id", ID), ("expires", expires)] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(mode)
            .with_correlation_id(ID.into())
            .with_headers(headers)
    }

    #[test]
    fn a_message_of_rabbitmq_is_read() {
        let delivery = Delivery::from_rabbitmq(&properties(2), body().as_bytes()).unwrap();
        assert_eq!((delivery.trigger_id.to_string().as_str(), delivery.number), (ID, 7));
    }

    #[test]
    fn a_message_that_a_restart_forgets_or_that_no_worker_could_read_is_refused() {
        assert!(Delivery::from_rabbitmq(&properties(1), body().as_bytes()).is_err());
        let unnamed = properties(2).with_headers(FieldTable::default());
        assert!(Delivery::from_rabbitmq(&unnamed, body().as_bytes()).is_err());
        assert!(Delivery::from_rabbitmq(&properties(2), body().replace("[[],", "[[1],").as_bytes()).is_err());
    }
}
