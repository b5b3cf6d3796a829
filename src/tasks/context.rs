//! The keyword arguments of a task, made from its signals and its rule. Pure.

mod json;
mod pieces;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;
use uuid::Uuid;

use self::json::Json;
pub use self::pieces::{List, Pieces};
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
    pub symbol: Arc<str>,
    /// The beginning of the keyword arguments, a JSON object: the arguments that only this trigger has.
    pub head: String,
    /// The pieces that end it.
    pub pieces: List,
}

impl TriggerText {
    /// The keyword arguments, as a JSON object.
    pub fn kwargs(&self, pieces: &Pieces) -> String {
        let mut kwargs = Vec::with_capacity(self.kwargs_len(pieces));
        kwargs.extend_from_slice(self.head.as_bytes());
        self.numbers(pieces).for_each(|number| kwargs.extend_from_slice(pieces.get(number)));
        String::from_utf8(kwargs).expect("head and pieces are texts")
    }

    /// Bytes of the keyword arguments.
    pub fn kwargs_len(&self, pieces: &Pieces) -> usize {
        self.head.len() + self.numbers(pieces).map(|number| pieces.get(number).len()).sum::<usize>()
    }

    fn numbers(&self, pieces: &Pieces) -> impl Iterator<Item = u32> {
        pieces.lists()[self.pieces.positions()].iter().copied()
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
    TriggerText { head, pieces: List::default(), ..text }
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
    /// For each mention that is not the first one of a task: the pieces of its ticker and of its entry, each with a comma in front.
    further: HashMap<u32, (u32, u32), foldhash::fast::RandomState>,
    pieces: Pieces,
    /// The list that ends arguments without a signal context.
    no_context: List,
    /// The mentions of the candidate in hand.
    in_hand: Vec<u32>,
}

/// What a signal tells each of its candidates.
#[derive(Debug)]
struct Said<'a> {
    signal_id: Arc<str>,
    /// Where its id and its time stand in the pieces' text, as JSON.
    id: Range<usize>,
    time: Range<usize>,
    reasoning: Vec<Option<&'a RawValue>>,
    /// The piece with the signal context up to its tickers, which hang on who is told.
    beginning: u32,
    /// The piece after its `signals`: the signal's own object, and the end of the arguments.
    end: u32,
    /// If the signal has one mention: that mention, and the list with the whole context for candidates that no other signal joined.
    single: Option<(Mention, List)>,
}

/// The pieces of what a mention tells its candidates.
#[derive(Debug, Clone)]
struct Mention {
    symbol: Arc<str>,
    ticker: u32,
    /// The end of the tickers, and what stands for the whole signal if this mention comes first.
    summary: u32,
    /// Its entry of `signals`.
    entry: u32,
}

impl<'a> Texts<'a> {
    /// Texts for a batch and what it matches.
    pub fn new(config: &'a CeleryConfig, topic: &'a str, ids: IdSpace, batch: &'a Batch, matches: &'a Matches) -> Self {
        let (said, mentions, further) = (HashMap::default(), HashMap::default(), HashMap::default());
        let mut pieces = Pieces::default();
        let end = pieces.add("}");
        let no_context = pieces.list([end]);
        let in_hand = Vec::new();
        Self { config, topic, ids, batch, matches, own_words: false, said, mentions, further, pieces, no_context, in_hand }
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
        let Self { config, ids, matches, .. } = *self;
        let rules = &matches.rules;
        let signal_id = self.said(candidate.signal).signal_id.clone();
        let pipeline_id = rules.pipeline_id(candidate.pipeline);
        let trigger_id =
            if chaos::bug(Bug::NoConflictKey) { Uuid::new_v4() } else { ids.trigger_id(pipeline_id, slot, &signal_id) };
        let symbol = Arc::clone(&self.mention(candidate.first).symbol);
        let mut head = Json::with_capacity(256);
        head.raw("{");
        for argument in &config.arguments {
            match argument {
                Argument::PipelineId => head.field(r#""pipeline_id""#).value(&pipeline_id),
                Argument::UserId => head.field(r#""user_id""#).value(&rules.owner(candidate.pipeline)),
                Argument::ExecutionId => head.field(r#""execution_id""#).value(&trigger_id),
                Argument::Symbol => head.field(r#""symbol""#).value(&*symbol),
                // Last, for it is the part that others share.
                Argument::SignalContext => continue,
            };
        }
        for (name, value) in &config.extra_kwargs {
            head.field(&json(name)).value(value);
        }
        let pieces = if config.arguments.contains(&Argument::SignalContext) {
            head.field(r#""signal_context""#);
            self.context(candidate)
        } else {
            self.no_context
        };
        TriggerText { trigger_id, signal_id, symbol, head: head.into_text(), pieces }
    }

    /// A signal, read at most once, by its position.
    fn said(&mut self, position: u32) -> &Said<'a> {
        let Self { topic, batch, said, pieces, .. } = self;
        said.entry(position).or_insert_with(|| Said::new(topic, batch, &batch.signals()[position as usize], pieces))
    }

    /// A mention, written at most once, by its position.
    fn mention(&mut self, position: u32) -> &Mention {
        let Self { topic, batch, said, mentions, pieces, .. } = self;
        let number = batch.signal_of(position);
        let signal = &batch.signals()[number as usize];
        let said = said.entry(number).or_insert_with(|| Said::new(topic, batch, signal, pieces));
        match &said.single {
            Some((mention, _)) => mention,
            None => mentions.entry(position).or_insert_with(|| {
                let reasoning = said.reasoning.get((position - signal.first_mention) as usize).copied().flatten();
                Mention::new(batch, position, reasoning, (&said.id, &said.time), pieces)
            }),
        }
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
    fn context(&mut self, candidate: &'a Candidate) -> List {
        let mut mentions = std::mem::take(&mut self.in_hand);
        mentions.clear();
        mentions.extend(self.mentions(candidate));
        let list = match (&mentions[..], &self.said(candidate.signal).single) {
            (&[mention], Some((_, whole))) if mention == candidate.first => *whole,
            _ => self.joined(candidate, &mentions),
        };
        self.in_hand = mentions;
        list
    }

    /// The same where several mentions are told.
    fn joined(&mut self, candidate: &Candidate, mentions: &[u32]) -> List {
        let mut numbers = Vec::with_capacity(2 * mentions.len() + 3);
        numbers.push(self.said(candidate.signal).beginning);
        let (first, others) = mentions.split_first().unwrap_or((&candidate.first, &[]));
        numbers.push(self.mention(*first).ticker);
        numbers.extend(others.iter().map(|mention| self.further(*mention).0));
        numbers.push(self.mention(candidate.first).summary);
        numbers.push(self.mention(*first).entry);
        numbers.extend(others.iter().map(|mention| self.further(*mention).1));
        numbers.push(self.said(candidate.signal).end);
        self.pieces.list(numbers)
    }

    /// The pieces of a mention that is not the first one of a task: its ticker and its entry, each with a comma in front.
    fn further(&mut self, position: u32) -> (u32, u32) {
        if let Some(pieces) = self.further.get(&position) {
            return *pieces;
        }
        let &Mention { ticker, entry, .. } = self.mention(position);
        let pieces = (self.pieces.add_behind(",", ticker), self.pieces.add_behind(",", entry));
        self.further.insert(position, pieces);
        pieces
    }
}

impl<'a> Said<'a> {
    fn new(topic: &str, batch: &'a Batch, signal: &Signal, pieces: &mut Pieces) -> Self {
        let signal_id: Arc<str> = signal_id(topic, batch, signal).into();
        let details = Details::with_reasoning(batch.text(signal.payload));
        let (mut id, mut time) = (0..0, 0..0);
        let beginning = pieces.write(|text| {
            text.raw(r#"{"signal_id":"#);
            id = text.value(&*signal_id);
            text.raw(r#","signal_type":"#);
            text.value(&some(batch.text(signal.signal_type)));
            text.raw(r#","source":"#);
            text.value(&details.source);
            text.raw(r#","timestamp":"#);
            time = text.value(&timestamp(details.timestamp, signal.record_time_ms));
            text.raw(r#","tickers":["#);
        });
        // Written between the beginning and the end, so that the three together are one piece.
        let single = (batch.mentions(signal).len() == 1).then(|| {
            let reasoning = details.reasoning.first().copied().flatten();
            Mention::new(batch, signal.first_mention, reasoning, (&id, &time), pieces)
        });
        let end = pieces.write(|text| {
            text.raw(r#"],"metadata":"#);
            text.raw(details.metadata.map_or("{}", RawValue::get));
            text.raw("}}");
        });
        let single = single.map(|mention| {
            let whole = pieces.join(beginning, end);
            (mention, pieces.list([whole]))
        });
        Self { signal_id, id, time, reasoning: details.reasoning, beginning, end, single }
    }
}

impl Mention {
    /// `id` and `time` are where those of its signal stand in the pieces' text.
    fn new(
        batch: &Batch,
        position: u32,
        reasoning: Option<&RawValue>,
        (id, time): (&Range<usize>, &Range<usize>),
        pieces: &mut Pieces,
    ) -> Self {
        let mention = batch.mention(position);
        let symbol = batch.text(mention.ticker);
        let (mut name, mut bias, mut confidence) = (0..0, 0..0, 0..0);
        let ticker = pieces.write(|text| name = text.value(symbol));
        let summary = pieces.write(|text| {
            text.raw(r#"],"bias":"#);
            bias = text.value(&some(batch.text(mention.bias)));
            text.raw(r#","confidence":"#);
            confidence = text.value(&mention.confidence);
            text.raw(r#","signals":["#);
        });
        let entry = pieces.write(|text| {
            text.raw(r#"{"ticker":"#);
            text.again(&name);
            text.raw(r#","signal":"#);
            text.again(&bias);
            text.raw(r#","confidence":"#);
            text.again(&confidence);
            text.raw(r#","reasoning":"#);
            text.raw(&reasoning.map_or("null".into(), beginning));
            text.raw(r#","signal_id":"#);
            text.again(id);
            text.raw(r#","timestamp":"#);
            text.again(time);
            text.raw("}");
        });
        Self { symbol: symbol.into(), ticker, summary, entry }
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

fn json(value: &str) -> String {
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
