//! One value at a time: checks it, or notes the mistake and goes on.

use std::ops::RangeInclusive;

use super::{Environment, kafka};
use crate::kafka::KafkaConfig;
use crate::ticker;

/// Collects mistakes while values are read.
pub(super) struct Checked<'a> {
    environment: &'a Environment,
    mistakes: Vec<String>,
}

impl<'a> Checked<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self { environment, mistakes: Vec::new() }
    }

    /// The value, if there was no mistake at all.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<String>> {
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => Err(self.mistakes),
        }
    }

    pub(super) fn mistake(&mut self, text: &str) {
        self.mistakes.push(text.to_owned());
    }

    /// A number within the range; whole ones as well.
    pub(super) fn number(&mut self, option: &str, text: Option<&str>, range: RangeInclusive<f64>) -> Option<f64> {
        let number = text?.trim().parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.mistakes.push(format!("{option} is not a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// From the option, else the variable, else the default.
    pub(super) fn topic(&mut self, option: &str, text: Option<&str>, variable: &str, default: &str) -> Option<String> {
        let topic = text.or_else(|| self.variable(variable)).unwrap_or(default);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=249).contains(&topic.len()) && topic.chars().all(allowed) && topic != "." && topic != ".." {
            return Some(topic.to_owned());
        }
        self.mistakes.push(format!("{option} {variable}: a topic is 1 to 249 of a-z A-Z 0-9 . _ -"));
        None
    }

    pub(super) fn source(&mut self, text: Option<&str>) -> Option<String> {
        let source = text.unwrap_or("signal-generator").trim();
        if (1..=100).contains(&source.len()) && !source.contains(char::is_control) {
            return Some(source.to_owned());
        }
        self.mistake("--source is not 1 to 100 bytes without control characters");
        None
    }

    pub(super) fn tickers(&mut self, list: &str) -> Option<Vec<String>> {
        let tickers: Result<Vec<_>, _> = list.split(',').map(ticker::normalize).collect();
        tickers.map_err(|bad| self.mistakes.push(format!("--tickers: {bad}"))).ok()
    }

    pub(super) fn kafka(&mut self, brokers: Option<&str>) -> Option<KafkaConfig> {
        let properties = kafka::properties(self.environment, &mut self.mistakes);
        let brokers = brokers.or_else(|| self.variable("KAFKA_BOOTSTRAP_SERVERS"));
        let Some(brokers) = brokers.map(str::trim).filter(|brokers| !brokers.is_empty()) else {
            self.mistake("--brokers or KAFKA_BOOTSTRAP_SERVERS is missing: host:port, several with commas");
            return None;
        };
        Some(KafkaConfig { brokers: brokers.to_owned(), properties })
    }

    fn variable(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// A number that was checked to be in a range of whole numbers; a fraction is cut off.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
pub(super) fn whole(number: f64) -> usize {
    number as usize
}
