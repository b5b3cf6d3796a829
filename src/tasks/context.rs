//! The keyword arguments of a task, made from its signals and its rule. Pure.

use std::borrow::Cow;
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
use crate::rules::{Candidate, Matches};

/// Names our ids. A new one would make every signal new, so it never changes.
const NAMESPACE: Uuid = Uuid::from_u128(0x7f3d_2c4e_51a8_5b0d_9a67_3c1e_84f0_d2b6);

/// Characters of a reasoning that a task holds at most, so that many tickers do not make a task large.
const MAX_REASONING_CHARS: usize = 1_000;

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

/// The namespace of a deployment's trigger ids. Two deployments that read the same signal start an execution each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdSpace(Uuid);

impl IdSpace {
    /// The ids of the versions that knew no deployments.
    pub const FORMER: Self = Self(NAMESPACE);

    /// The ids of a consumer group on a topic.
    pub fn of(group: &str, topic: &str) -> Self {
        let mut name = Vec::with_capacity(8 + group.len() + topic.len());
        // The length keeps group and topic apart, whatever characters they have.
        name.extend_from_slice(&(group.len() as u64).to_be_bytes());
        name.extend_from_slice(group.as_bytes());
        name.extend_from_slice(topic.as_bytes());
        Self(Uuid::new_v5(&NAMESPACE, &name))
    }

    /// The trigger that a signal makes of a slot: always the same, so that a redelivered signal finds its own.
    pub fn trigger_id(self, pipeline_id: Uuid, slot: &str, signal_id: &str) -> Uuid {
        let mut name = Vec::with_capacity(24 + slot.len() + signal_id.len());
        name.extend_from_slice(pipeline_id.as_bytes());
        // The length keeps slot and signal apart, whatever characters they have.
        name.extend_from_slice(&(slot.len() as u64).to_be_bytes());
        name.extend_from_slice(slot.as_bytes());
        name.extend_from_slice(signal_id.as_bytes());
        Uuid::new_v5(&self.0, &name)
    }
}

/// A trigger's id as the versions made it that knew no deployments.
pub fn trigger_id(pipeline_id: Uuid, slot: &str, signal_id: &str) -> Uuid {
    IdSpace::FORMER.trigger_id(pipeline_id, slot, signal_id)
}

/// What the candidate would be told. `slot` is empty for a whole pipeline.
pub fn trigger_text(
    config: &CeleryConfig,
    topic: &str,
    batch: &Batch,
    matches: &Matches,
    candidate: &Candidate,
    slot: &str,
) -> TriggerText {
    Texts::new(config, topic, IdSpace::FORMER, batch, matches).text(candidate, slot)
}

/// Tells the candidates of one batch what they need to know. One signal may lead many of them: it is read once.
#[derive(Debug)]
pub struct Texts<'a> {
    config: &'a CeleryConfig,
    topic: &'a str,
    ids: IdSpace,
    batch: &'a Batch,
    matches: &'a Matches,
    /// The signals that were read, by their positions in the batch.
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
    /// Its id and its time as JSON.
    id: String,
    time: String,
    reasoning: Vec<Option<&'a RawValue>>,
    /// For each of its mentions the entry of `signals` as JSON, once a candidate has asked for it.
    entries: Vec<Option<String>>,
}

impl<'a> Texts<'a> {
    /// Texts for a batch and what it matches.
    pub fn new(config: &'a CeleryConfig, topic: &'a str, ids: IdSpace, batch: &'a Batch, matches: &'a Matches) -> Self {
        Self { config, topic, ids, batch, matches, said: HashMap::default() }
    }

    /// What the candidate would be told. `slot` is empty for a whole pipeline.
    pub fn text(&mut self, candidate: &Candidate, slot: &str) -> TriggerText {
        let Self { config, ids, batch, matches, .. } = *self;
        let rules = &matches.rules;
        let said = self.said(candidate.signal);
        let (signal_id, room) = (said.signal_id.clone(), said.context.len() + said.metadata.len());
        let pipeline_id = rules.pipeline_id(candidate.pipeline);
        let trigger_id =
            if chaos::bug(Bug::NoConflictKey) { Uuid::new_v4() } else { ids.trigger_id(pipeline_id, slot, &signal_id) };
        let symbol = batch.text(batch.mention(candidate.first).ticker);
        let mut kwargs = Object::with_capacity(384 + room + 256 * matches.mentions(candidate).count());
        for argument in &config.arguments {
            match argument {
                Argument::PipelineId => kwargs.field("pipeline_id").json(&pipeline_id),
                Argument::UserId => kwargs.field("user_id").json(&rules.owner(candidate.pipeline)),
                Argument::ExecutionId => kwargs.field("execution_id").json(&trigger_id),
                Argument::Symbol => kwargs.field("symbol").json(symbol),
                Argument::SignalContext => self.context(candidate, kwargs.field("signal_context")),
            }
        }
        for (name, value) in &config.extra_kwargs {
            kwargs.field(name).json(value);
        }
        let kwargs = kwargs.end();
        TriggerText { trigger_id, signal_id, symbol: symbol.to_owned(), kwargs }
    }

    /// A signal, read at most once, by its position.
    fn said(&mut self, position: u32) -> &mut Said<'a> {
        let Self { topic, batch, .. } = *self;
        self.said.entry(position).or_insert_with(|| Said::new(topic, batch, &batch.signals()[position as usize]))
    }

    /// Writes the whole signal context of one candidate.
    fn context(&mut self, candidate: &Candidate, out: &mut Object) {
        let Self { batch, matches, .. } = *self;
        out.raw(&self.said(candidate.signal).context);
        for (position, mention) in matches.mentions(candidate).enumerate() {
            out.raw(if position == 0 { r#","tickers":["# } else { "," });
            out.json(batch.text(batch.mention(mention).ticker));
        }
        let first = batch.mention(candidate.first);
        out.raw(r#"],"bias":"#);
        out.json(&some(batch.text(first.bias)));
        out.raw(r#","confidence":"#);
        out.json(&first.confidence);
        for (position, mention) in matches.mentions(candidate).enumerate() {
            out.raw(if position == 0 { r#","signals":["# } else { "," });
            let signal = batch.signal_of(mention);
            out.raw(self.said(signal).entry(batch, &batch.signals()[signal as usize], mention));
        }
        out.raw(r#"],"metadata":"#);
        out.raw(self.said(candidate.signal).metadata);
        out.raw("}");
    }
}

impl<'a> Said<'a> {
    fn new(topic: &str, batch: &'a Batch, signal: &Signal) -> Self {
        let signal_id = signal_id(topic, batch, signal);
        let details = Details::with_reasoning(batch.text(signal.payload));
        let (id, time) = (json(&signal_id), json(&timestamp(details.timestamp, signal.record_time_ms)));
        let mut context = Object::with_capacity(256);
        context.raw(r#""signal_id":"#);
        context.raw(&id);
        context.raw(r#","signal_type":"#);
        context.json(&some(batch.text(signal.signal_type)));
        context.raw(r#","source":"#);
        context.json(&details.source);
        context.raw(r#","timestamp":"#);
        context.raw(&time);
        let entries = vec![None; batch.mentions(signal).len()];
        let metadata = details.metadata.map_or("{}", RawValue::get);
        Self { signal_id, context: context.text(), metadata, id, time, reasoning: details.reasoning, entries }
    }

    /// The entry of `signals` for one mention of this signal.
    fn entry(&mut self, batch: &Batch, signal: &Signal, position: u32) -> &str {
        let index = (position - signal.first_mention) as usize;
        let Self { id, time, reasoning, entries, .. } = self;
        entries[index].get_or_insert_with(|| {
            let mention = batch.mention(position);
            let mut entry = Object::with_capacity(256);
            entry.raw(r#""ticker":"#);
            entry.json(batch.text(mention.ticker));
            entry.raw(r#","signal":"#);
            entry.json(&some(batch.text(mention.bias)));
            entry.raw(r#","confidence":"#);
            entry.json(&mention.confidence);
            entry.raw(r#","reasoning":"#);
            entry.raw(&reasoning.get(index).copied().flatten().map_or("null".into(), beginning));
            entry.raw(r#","signal_id":"#);
            entry.raw(id);
            entry.raw(r#","timestamp":"#);
            entry.raw(time);
            entry.end()
        })
    }
}

/// The beginning of a reasoning, as JSON; `null` if it is no text.
fn beginning(reasoning: &RawValue) -> Cow<'_, str> {
    let raw = reasoning.get();
    // Nearly always it has fewer bytes than it may have characters, and stays as it is written.
    if raw.starts_with('"') && raw.len() <= MAX_REASONING_CHARS {
        return raw.into();
    }
    let Ok(mut text) = serde_json::from_str::<String>(raw) else { return "null".into() };
    if let Some((end, _)) = text.char_indices().nth(MAX_REASONING_CHARS) {
        text.truncate(end);
    }
    json(&text).into()
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
        self.text()
    }

    /// What is written so far.
    fn text(self) -> String {
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
