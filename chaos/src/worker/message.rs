//! A Celery message, read as strictly as a worker reads it: what is missing here would kill one.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

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
    pub(crate) fn read(message: &[u8]) -> anyhow::Result<Self> {
        let envelope: Envelope = serde_json::from_slice(message).context("the envelope")?;
        let Envelope { body, content_type, headers, properties } = envelope;
        anyhow::ensure!(content_type == "application/json" && properties.body_encoding == "base64", "the encodings");
        anyhow::ensure!(properties.delivery_info.exchange.is_empty(), "the exchange");
        anyhow::ensure!(headers.task == "app.orchestration.tasks.execute_pipeline", "the task's name");
        let body = BASE64.decode(body).context("the body's base64")?;
        let (arguments, kwargs, _): (Vec<Value>, Kwargs, Value) = serde_json::from_slice(&body).context("the body")?;
        anyhow::ensure!(arguments.is_empty(), "positional arguments");
        anyhow::ensure!(kwargs.execution_id == headers.id, "the execution's id is not the task's");
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        Ok(Self {
            trigger_id: headers.id,
            pipeline_id: kwargs.pipeline_id,
            user_id: kwargs.user_id,
            symbol: kwargs.symbol,
            expires: headers.expires,
            signal_id: kwargs.signal_context.signal_id,
            tickers: kwargs.signal_context.tickers,
            number: kwargs.signal_context.metadata.number,
            digest: hasher.finish(),
        })
    }
}
