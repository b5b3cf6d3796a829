//! One file a command, and what they share: the outlet, the summary, and the exit code of each way to fail.

mod follow;
mod mock;
mod replay;
mod topic;

use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::config::{BarsJob, Job};
use crate::csv_folder::Reading;
use crate::emitter::{EmitFailure, Emitter, Outlet};
use crate::kafka::KafkaFailure;
use crate::kafka::transactions::TransactionalProducer;
use crate::marks::Marks;
use crate::report::Report;
use crate::stop::Stop;

/// What a command has at hand.
pub struct Tools {
    /// Time.
    pub clock: Clock,
    /// Standard error.
    pub report: Report,
    /// Whether to end.
    pub stop: Stop,
}

/// Why a command ended before its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is")]
pub enum Failure {
    #[error(transparent)]
    Kafka(#[from] KafkaFailure),
    #[error("standard output: {0}")]
    Print(std::io::Error),
    #[error("{}: {error}", path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error("{}: no .csv file in this folder", .0.display())]
    EmptyFolder(PathBuf),
}

impl Failure {
    /// After `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::EmptyFolder(_) | Self::Kafka(KafkaFailure::NotCompacted { .. } | KafkaFailure::StrangeState { .. }) => 64,
            Self::Kafka(_) => 69,
            Self::Print(_) | Self::Folder { .. } => 74,
        }
    }
}

impl From<EmitFailure> for Failure {
    fn from(failure: EmitFailure) -> Self {
        match failure {
            EmitFailure::Kafka(failure) => Self::Kafka(failure),
            EmitFailure::Print(error) => Self::Print(error),
        }
    }
}

/// Runs the job to its end or until it is asked to stop.
pub fn run(job: &Job, tools: &mut Tools) -> Result<(), Failure> {
    match job {
        Job::Replay(job) => replay::run(job, tools),
        Job::Follow(job, poll) => follow::run(job, *poll, tools),
        Job::Mock(job) => mock::run(job, tools),
    }
}

fn open(job: &BarsJob, tools: &mut Tools) -> Result<Emitter, Failure> {
    let Some(sink) = &job.sink else {
        return Ok(Emitter::new(Outlet::Print, job.wanted.clone(), Marks::default()));
    };
    let (producer, marks) = TransactionalProducer::take_over(&job.kafka, &sink.topic, &sink.state_topic, &job.wanted.source)?;
    tools.report.line(&format!(
        "source {} taken over: {} marks of earlier signals in {}",
        job.wanted.source,
        marks.len(),
        sink.state_topic
    ));
    Ok(Emitter::new(Outlet::Kafka(Box::new(producer)), job.wanted.clone(), marks))
}

fn offer_all(ticker: &str, reading: &Reading, emitter: &mut Emitter, clock: Clock) -> Result<(), Failure> {
    for cross in &reading.crosses {
        emitter.offer(ticker, cross, clock.now())?;
    }
    Ok(())
}

fn summary(bars: u64, emitter: &Emitter, tools: &mut Tools) {
    let (sent, held_back, bad) = (emitter.emitted(), emitter.held_back(), tools.report.bad());
    let seconds = tools.clock.elapsed().as_secs_f64();
    tools.report.line(&format!(
        "{bars} bars read in {seconds:.1} s: {sent} signals emitted, {held_back} emitted earlier, {bad} bad lines or records"
    ));
}

fn line_of(path: &Path, line: u64) -> String {
    format!("{}, line {line}", path.display())
}
