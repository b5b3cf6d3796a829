//! Runs cases side by side: all of them in turn, then all of them again, so that each turn saw about the same machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use crate::book::{Book, Document};
use crate::clock::now;
use crate::kafka::{Preload, Topic};
use crate::report::table;
use crate::results::{complain, say};
use crate::services::Services;
use crate::subject;

/// Takes the figures of a variant.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(&str, Value) -> anyhow::Result<()>;

/// Something that can be measured again and again.
pub(crate) trait Case {
    /// The arm whose document it goes to.
    fn arm(&self) -> &'static str;

    /// What it is, for people.
    fn title(&self) -> String;

    /// Measures it once, and tells the figures of each variant of it.
    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()>;
}

/// What all cases share.
pub(crate) struct Bench {
    pub(crate) services: Services,
    topics: Vec<(Preload, Topic)>,
    python: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { services: Services::from_environment()?, topics: Vec::new(), python: None })
    }

    /// The topic that is filled so; filled once for all cases.
    pub(crate) fn topic(&mut self, preload: &Preload) -> anyhow::Result<&Topic> {
        let position = match self.topics.iter().position(|(other, _)| other == preload) {
            Some(position) => position,
            None => {
                let topic = Topic::filled(&self.services, &name(), preload)?;
                self.topics.push((preload.clone(), topic));
                self.topics.len() - 1
            }
        };
        Ok(&self.topics[position].1)
    }

    /// The Python of the contenders.
    pub(crate) fn python(&mut self) -> anyhow::Result<&Path> {
        let python = match self.python.take() {
            Some(python) => python,
            None => subject::python()?,
        };
        Ok(self.python.insert(python))
    }
}

/// A name that nothing else has: of a topic, a database, a list, a group.
pub(crate) fn name() -> String {
    format!("bench_{}", &Uuid::new_v4().simple().to_string()[..12])
}

/// Measures every case `turns` times; gives a document for each arm. What fails is told, and fails the whole in the end: the
/// others are measured all the same.
pub(crate) fn run(cases: &[Box<dyn Case>], turns: u32, seed: u64, prefix: &str) -> anyhow::Result<(Vec<Document>, Vec<String>)> {
    let mut bench = Bench::new()?;
    let mut books: BTreeMap<&str, Book> = BTreeMap::new();
    let mut failures = Vec::new();
    for turn in 1..=turns {
        for (position, case) in cases.iter().enumerate() {
            say(&format!("turn {turn} of {turns}, {} of {}: {}: {}", position + 1, cases.len(), case.arm(), case.title()));
            let book = match books.remove(case.arm()) {
                Some(book) => book,
                None => Book::begin(&prefixed(prefix, case.arm()), seed, &bench.services)?,
            };
            let book = books.entry(case.arm()).or_insert(book);
            let began = now();
            let measured = case.measure(&mut bench, &mut |variant, figures| book.add(variant, turn, figures));
            say(&format!("    took {:.1} s", (now() - began).as_secs_f64()));
            // A person who interrupts it wants all of it to end.
            crate::stop::check()?;
            if let Err(error) = measured {
                let failure = format!("{}: {}: {error:#}", case.arm(), case.title());
                complain(&failure);
                failures.push(failure);
            }
        }
    }
    let documents = books.into_values().map(|book| book.document).collect();
    Ok((documents, failures))
}

/// The same, with a table on stdout for each arm.
pub(crate) fn run_and_show(cases: &[Box<dyn Case>], turns: u32, seed: u64, prefix: &str) -> anyhow::Result<()> {
    let (documents, failures) = run(cases, turns, seed, prefix)?;
    for document in &documents {
        table::print(document);
    }
    anyhow::ensure!(failures.is_empty(), "{} cases failed: {}", failures.len(), failures.join("; "));
    Ok(())
}

/// The document of an arm: runs of a person's own choice must not stand where the report's do.
fn prefixed(prefix: &str, arm: &str) -> String {
    if prefix.is_empty() { arm.to_owned() } else { format!("{prefix}-{arm}") }
}
