//! What a task is told: the keyword arguments, made from the signal and the rule. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::celery::iso8601;
use crate::chaos::{self, Bug};
use crate::config::{Argument, CeleryConfig};
use crate::intake::{Batch, Details, Signal};
use crate::rules::{Candidate, RuleSet};

/// Names our ids. A new one would make every signal new, so it never changes.
const NAMESPACE: Uuid = Uuid::from_u128(0x7f3d_2c4e_51a8_5b0d_9a67_3c1e_84f0_d2b6);

/// What a candidate would be told, and under which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerText {
    /// The trigger's id.
    pub trigger_id: Uuid,
    /// The signal's id.
    pub signal_id: String,
    /// The first ticker that matched.
    pub symbol: String,
    /// The keyword arguments, as a JSON object.
    pub kwargs: String,
}

/// The id that a signal states, or one made from where and when it stands in the topic. Its time is part of it, for a
/// topic that is made anew starts its offsets again.
pub fn signal_id(topic: &str, batch: &Batch, signal: &Signal) -> String {
    let stated = batch.text(signal.stated_id);
    if !stated.is_empty() {
        return stated.to_owned();
    }
    id_of_place(topic, signal.partition, signal.offset, signal.record_time_ms)
}

/// The id of a signal that states none: made from its topic, its place there, and its time in milliseconds since 1970.
pub fn id_of_place(topic: &str, partition: i32, offset: i64, time_ms: i64) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{topic}|{partition}|{offset}|{time_ms}").as_bytes()).to_string()
}

/// The trigger that a signal makes of a slot: always the same, so that a redelivered signal finds its own.
pub fn trigger_id(pipeline_id: Uuid, slot: &str, signal_id: &str) -> Uuid {
    let mut name = Vec::with_capacity(24 + slot.len() + signal_id.len());
    name.extend_from_slice(pipeline_id.as_bytes());
    // The length keeps slot and signal apart, whatever characters they have.
    name.extend_from_slice(&(slot.len() as u64).to_be_bytes());
    name.extend_from_slice(slot.as_bytes());
    name.extend_from_slice(signal_id.as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// What the candidate would be told. `slot` is empty for a whole pipeline.
pub fn trigger_text(
    config: &CeleryConfig,
    topic: &str,
    batch: &Batch,
    rules: &RuleSet,
    candidate: &Candidate,
    slot: &str,
) -> TriggerText {
    Texts::new(config, topic, batch, rules).text(candidate, slot)
}

/// Tells the candidates of one batch what they need to know. One signal may lead many of them: it is read once.
#[derive(Debug)]
pub struct Texts<'a> {
    config: &'a CeleryConfig,
    topic: &'a str,
    batch: &'a Batch,
    rules: &'a RuleSet,
    said: HashMap<u32, Said<'a>, foldhash::fast::RandomState>,
}

/// What a signal tells each of its candidates.
#[derive(Debug)]
struct Said<'a> {
    signal_id: String,
    /// The signal context as JSON, up to its tickers, which hang on who is told.
    context: String,
    /// The signal's own object as JSON; an empty one when there is none.
    metadata: &'a str,
}

impl<'a> Texts<'a> {
    /// Texts for a batch that was matched with these rules.
    pub fn new(config: &'a CeleryConfig, topic: &'a str, batch: &'a Batch, rules: &'a RuleSet) -> Self {
        Self { config, topic, batch, rules, said: HashMap::default() }
    }

    /// What the candidate would be told. `slot` is empty for a whole pipeline.
    pub fn text(&mut self, candidate: &Candidate, slot: &str) -> TriggerText {
        let Self { config, topic, batch, rules, .. } = *self;
        let said = self.said.entry(candidate.signal).or_insert_with(|| Said::new(topic, batch, candidate.signal));
        let pipeline_id = rules.pipeline_id(candidate.pipeline);
        let signal_id = said.signal_id.clone();
        let trigger_id = if chaos::bug(Bug::NoConflictKey) { Uuid::new_v4() } else { trigger_id(pipeline_id, slot, &signal_id) };
        let symbol = batch.text(batch.mention(candidate.mentions[0]).ticker);
        let mut kwargs = Object::with_capacity(384 + said.context.len() + said.metadata.len());
        for argument in &config.arguments {
            match argument {
                Argument::PipelineId => kwargs.field("pipeline_id").json(&pipeline_id),
                Argument::UserId => kwargs.field("user_id").json(&rules.owner(candidate.pipeline)),
                Argument::ExecutionId => kwargs.field("execution_id").json(&trigger_id),
                Argument::Symbol => kwargs.field("symbol").json(symbol),
                Argument::SignalContext => said.tell(candidate, batch, kwargs.field("signal_context")),
            }
        }
        for (name, value) in &config.extra_kwargs {
            kwargs.field(name).json(value);
        }
        let kwargs = kwargs.end();
        TriggerText { trigger_id, signal_id, symbol: symbol.to_owned(), kwargs }
    }
}

impl<'a> Said<'a> {
    fn new(topic: &str, batch: &'a Batch, position: u32) -> Self {
        let signal = &batch.signals()[position as usize];
        let signal_id = signal_id(topic, batch, signal);
        let details = Details::read(batch.text(signal.payload));
        let context = format!(
            r#"{{"signal_id":{},"signal_type":{},"source":{},"timestamp":{}"#,
            json(&signal_id),
            json(&some(batch.text(signal.signal_type))),
            json(&details.source),
            json(&timestamp(details.timestamp, signal.record_time_ms)),
        );
        Self { signal_id, context, metadata: details.metadata.map_or("{}", RawValue::get) }
    }

    /// Writes the whole signal context for one candidate.
    fn tell(&self, candidate: &Candidate, batch: &Batch, out: &mut Object) {
        out.raw(&self.context);
        out.raw(r#","tickers":"#);
        for (position, mention) in candidate.mentions.iter().enumerate() {
            out.raw(if position == 0 { "[" } else { "," });
            out.json(batch.text(batch.mention(*mention).ticker));
        }
        let first = batch.mention(candidate.mentions[0]);
        out.raw(r#"],"bias":"#);
        out.json(&some(batch.text(first.bias)));
        out.raw(r#","confidence":"#);
        out.json(&first.confidence);
        out.raw(r#","metadata":"#);
        out.raw(self.metadata);
        out.raw("}");
    }
}

/// A JSON object that is being written, without a text for each of its values.
struct Object(Vec<u8>);

impl Object {
    fn with_capacity(bytes: usize) -> Self {
        let mut object = Vec::with_capacity(bytes);
        object.push(b'{');
        Self(object)
    }

    /// Begins a field, whose value comes next.
    fn field(&mut self, name: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.raw(", ");
        }
        self.json(name);
        self.raw(": ");
        self
    }

    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.0, value).expect("texts, numbers and maps with text keys always have a JSON form");
    }

    fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    fn end(mut self) -> String {
        self.raw("}");
        String::from_utf8(self.0).expect("every piece was a text")
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("texts, numbers and maps with text keys always have a JSON form")
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// When the signal says it was made, in UTC; when it does not say so readably, when Kafka got it.
fn timestamp(stated: Option<&RawValue>, record_time_ms: i64) -> String {
    let stated = stated.and_then(|raw| match serde_json::from_str::<serde_json::Value>(raw.get()).ok()? {
        serde_json::Value::String(text) => {
            let text = text.trim();
            // Python's `utcnow().isoformat()` has no offset: it is UTC.
            text.parse()
                .ok()
                .or_else(|| text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp()))
        }
        serde_json::Value::Number(number) => epoch(number.as_f64()?),
        _ => None,
    });
    iso8601(stated.or_else(|| Timestamp::from_millisecond(record_time_ms).ok()).unwrap_or_default())
}

/// Seconds since 1970, or milliseconds if that would lie beyond the year 5000.
fn epoch(number: f64) -> Option<Timestamp> {
    let seconds = if number.abs() > 1e11 { number / 1e3 } else { number };
    #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and what is out of range is refused next")]
    Timestamp::from_microsecond((seconds * 1e6).round() as i64).ok()
}

#[cfg(test)]
mod tests;
