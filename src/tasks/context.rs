//! The keyword arguments of a task, made from its signals and its rule. Pure.

mod pieces;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use self::pieces::Pieces;
use super::celery::iso8601;
use crate::chaos::{self, Bug};
use crate::config::{Argument, CeleryConfig};
use crate::intake::{Batch, Details, Signal};
use crate::rules::{Candidate, Matches};
use crate::trigger_ids::{IdSpace, NAMESPACE};

/// Characters of a reasoning that a task holds at most, so that many tickers do not make a task large.
const MAX_REASONING_CHARS: usize = 1_000;

/// What a candidate would be told, and under which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerText {
    /// The trigger's id.
    pub trigger_id: Uuid,
    /// The signal's id.
    pub signal_id: Arc<str>,
    /// The first ticker that matched.
    pub symbol: String,
    /// The beginning of the keyword arguments, a JSON object: the arguments that only this trigger has.
    pub head: String,
    /// The numbers of the pieces that end it.
    pub pieces: Box<[u32]>,
}

impl TriggerText {
    /// The keyword arguments, as a JSON object.
    pub fn kwargs(&self, pieces: &Pieces) -> String {
        let mut kwargs = String::with_capacity(self.kwargs_len(pieces));
        kwargs.push_str(&self.head);
        self.pieces.iter().for_each(|number| kwargs.push_str(pieces.get(*number)));
        kwargs
    }

    /// Bytes of the keyword arguments.
    pub fn kwargs_len(&self, pieces: &Pieces) -> usize {
        self.head.len() + self.pieces.iter().map(|number| pieces.get(*number).len()).sum::<usize>()
    }
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

/// What the candidate would be told, all of it in the text's head. `slot` is empty for a whole pipeline.
pub fn trigger_text<'a>(
    config: &'a CeleryConfig,
    topic: &'a str,
    batch: &'a Batch,
    matches: &'a Matches,
    candidate: &'a Candidate,
    slot: &str,
) -> TriggerText {
    let mut texts = Texts::new(config, topic, IdSpace::FORMER, batch, matches);
    let text = texts.text(candidate, slot);
    let head = text.kwargs(&texts.into_pieces());
    TriggerText { head, pieces: Box::default(), ..text }
}

/// Tells the candidates of one batch what they need to know. One signal may lead many of them: it is read once.
#[derive(Debug)]
pub struct Texts<'a> {
    config: &'a CeleryConfig,
    topic: &'a str,
    ids: IdSpace,
    batch: &'a Batch,
    matches: &'a Matches,
    /// Whether a candidate is told only what its leading signal says, and nothing of the signals that joined it.
    own_words: bool,
    /// The signals that were read, by their positions in the batch.
    said: HashMap<u32, Said<'a>, foldhash::fast::RandomState>,
    /// The pieces of what mentions say, by their positions in the batch.
    mentions: HashMap<u32, Mention, foldhash::fast::RandomState>,
    pieces: Pieces,
    comma: u32,
    end: u32,
}

/// What a signal tells each of its candidates.
#[derive(Debug)]
struct Said<'a> {
    signal_id: Arc<str>,
    /// Its id and its time as JSON.
    id: String,
    time: String,
    reasoning: Vec<Option<&'a RawValue>>,
    /// The piece with the signal context up to its tickers, which hang on who is told.
    beginning: u32,
    /// The piece after its `signals`: the signal's own object, and the end of the arguments.
    end: u32,
}

/// The pieces of what a mention tells its candidates.
#[derive(Debug, Clone, Copy)]
struct Mention {
    ticker: u32,
    /// The end of the tickers, and what stands for the whole signal if this mention comes first.
    summary: u32,
    /// Its entry of `signals`.
    entry: u32,
}

impl<'a> Texts<'a> {
    /// Texts for a batch and what it matches.
    pub fn new(config: &'a CeleryConfig, topic: &'a str, ids: IdSpace, batch: &'a Batch, matches: &'a Matches) -> Self {
        let (said, mentions, mut pieces) = (HashMap::default(), HashMap::default(), Pieces::default());
        let (comma, end) = (pieces.add(","), pieces.add("}"));
        Self { config, topic, ids, batch, matches, own_words: false, said, mentions, pieces, comma, end }
    }

    /// Texts that hold nothing of the signals that joined a candidate: one of them has a text that the store cannot hold.
    #[must_use]
    pub fn in_own_words(self, own_words: bool) -> Self {
        Self { own_words, ..self }
    }

    /// The pieces that the candidates' texts name.
    pub fn into_pieces(self) -> Pieces {
        self.pieces
    }

    /// Bytes of a text's keyword arguments.
    pub fn len_of(&self, text: &TriggerText) -> usize {
        text.kwargs_len(&self.pieces)
    }

    /// What the candidate would be told. `slot` is empty for a whole pipeline.
    pub fn text(&mut self, candidate: &'a Candidate, slot: &str) -> TriggerText {
        let Self { config, ids, batch, matches, .. } = *self;
        let rules = &matches.rules;
        let signal_id = self.said(candidate.signal).signal_id.clone();
        let pipeline_id = rules.pipeline_id(candidate.pipeline);
        let trigger_id =
            if chaos::bug(Bug::NoConflictKey) { Uuid::new_v4() } else { ids.trigger_id(pipeline_id, slot, &signal_id) };
        let symbol = batch.text(batch.mention(candidate.first).ticker);
        let mut head = Object::with_capacity(256);
        for argument in &config.arguments {
            match argument {
                Argument::PipelineId => head.field("pipeline_id").json(&pipeline_id),
                Argument::UserId => head.field("user_id").json(&rules.owner(candidate.pipeline)),
                Argument::ExecutionId => head.field("execution_id").json(&trigger_id),
                Argument::Symbol => head.field("symbol").json(symbol),
                // Last, for it is the part that others share.
                Argument::SignalContext => {}
            }
        }
        for (name, value) in &config.extra_kwargs {
            head.field(name).json(value);
        }
        let pieces = if config.arguments.contains(&Argument::SignalContext) {
            head.field("signal_context");
            self.context(candidate)
        } else {
            [self.end].into()
        };
        TriggerText { trigger_id, signal_id, symbol: symbol.to_owned(), head: head.text(), pieces }
    }

    /// A signal, read at most once, by its position.
    fn said(&mut self, position: u32) -> &Said<'a> {
        let Self { topic, batch, said, pieces, .. } = self;
        said.entry(position).or_insert_with(|| Said::new(topic, batch, &batch.signals()[position as usize], pieces))
    }

    /// A mention, written at most once, by its position.
    fn mention(&mut self, position: u32) -> Mention {
        let Self { topic, batch, said, mentions, pieces, .. } = self;
        *mentions.entry(position).or_insert_with(|| {
            let number = batch.signal_of(position);
            let signal = &batch.signals()[number as usize];
            let said = said.entry(number).or_insert_with(|| Said::new(topic, batch, signal, pieces));
            said.mention(batch, signal, position, pieces)
        })
    }

    /// The mentions that a candidate is told, one for each ticker.
    fn mentions(&self, candidate: &'a Candidate) -> impl Iterator<Item = u32> + use<'a> {
        let Self { batch, matches, own_words, .. } = *self;
        matches.mentions(candidate).filter_map(move |mention| {
            if !own_words || batch.signal_of(mention) == candidate.signal {
                return Some(mention);
            }
            let leader = &batch.signals()[candidate.signal as usize];
            let ticker = |position: u32| batch.text(batch.mention(position).ticker);
            let mut own = (leader.first_mention..).take(batch.mentions(leader).len());
            own.find(|position| ticker(*position) == ticker(mention))
        })
    }

    /// The signal context of a candidate, and the end of its arguments.
    fn context(&mut self, candidate: &'a Candidate) -> Box<[u32]> {
        let (comma, mentions) = (self.comma, self.mentions(candidate).count());
        let mut numbers = Vec::with_capacity(4 * mentions + 1);
        numbers.push(self.said(candidate.signal).beginning);
        for (position, mention) in self.mentions(candidate).enumerate() {
            if position > 0 {
                numbers.push(comma);
            }
            numbers.push(self.mention(mention).ticker);
        }
        numbers.push(self.mention(candidate.first).summary);
        for (position, mention) in self.mentions(candidate).enumerate() {
            if position > 0 {
                numbers.push(comma);
            }
            numbers.push(self.mention(mention).entry);
        }
        numbers.push(self.said(candidate.signal).end);
        numbers.into_boxed_slice()
    }
}

impl<'a> Said<'a> {
    fn new(topic: &str, batch: &'a Batch, signal: &Signal, pieces: &mut Pieces) -> Self {
        let signal_id: Arc<str> = signal_id(topic, batch, signal).into();
        let details = Details::with_reasoning(batch.text(signal.payload));
        let (id, time) = (json(&*signal_id), json(&timestamp(details.timestamp, signal.record_time_ms)));
        let mut context = Object::with_capacity(256);
        context.raw(r#""signal_id":"#);
        context.raw(&id);
        context.raw(r#","signal_type":"#);
        context.json(&some(batch.text(signal.signal_type)));
        context.raw(r#","source":"#);
        context.json(&details.source);
        context.raw(r#","timestamp":"#);
        context.raw(&time);
        context.raw(r#","tickers":["#);
        let beginning = pieces.add(&context.text());
        let metadata = details.metadata.map_or("{}", RawValue::get);
        let end = pieces.add(&[r#"],"metadata":"#, metadata, "}}"].concat());
        Self { signal_id, id, time, reasoning: details.reasoning, beginning, end }
    }

    /// The pieces for one mention of this signal.
    fn mention(&self, batch: &Batch, signal: &Signal, position: u32, pieces: &mut Pieces) -> Mention {
        let mention = batch.mention(position);
        let (ticker, bias) = (json(batch.text(mention.ticker)), json(&some(batch.text(mention.bias))));
        let confidence = json(&mention.confidence);
        let reasoning = self.reasoning.get((position - signal.first_mention) as usize).copied().flatten();
        let mut entry = Object::with_capacity(256);
        entry.raw(r#""ticker":"#);
        entry.raw(&ticker);
        entry.raw(r#","signal":"#);
        entry.raw(&bias);
        entry.raw(r#","confidence":"#);
        entry.raw(&confidence);
        entry.raw(r#","reasoning":"#);
        entry.raw(&reasoning.map_or("null".into(), beginning));
        entry.raw(r#","signal_id":"#);
        entry.raw(&self.id);
        entry.raw(r#","timestamp":"#);
        entry.raw(&self.time);
        let summary = [r#"],"bias":"#, &bias, r#","confidence":"#, &confidence, r#","signals":["#].concat();
        Mention { ticker: pieces.add(&ticker), summary: pieces.add(&summary), entry: pieces.add(&entry.end()) }
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
