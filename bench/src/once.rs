//! `drain` and `paced` as a person asks for them: one load of their own choice, to see what a change does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::arms::drained::{Bare, Drained};
use crate::arms::flow::Paced;
use crate::arms::watched;
use crate::ceiling::Call;
use crate::drain::Drain;
use crate::kafka::Preload;
use crate::paced::Flow;
use crate::platform::Shape;
use crate::queue::Trace;
use crate::signals::{Spread, TICKERS};
use crate::subject::{Subject, change};
use crate::suite::{Case, run_and_show};

/// What drains and flows have in common.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Measure the report's variants of this arm instead, as `scripts/bench report --only` does without writing the page.
    #[arg(long)]
    pub(crate) matrix: bool,
    /// With --matrix: less of everything.
    #[arg(long, requires = "matrix")]
    pub(crate) quick: bool,
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// The sender's compression: lz4, zstd, gzip or none.
    #[arg(long, default_value = "lz4")]
    compression: String,
    #[arg(long, default_value_t = 1_000)]
    pipelines: u32,
    /// Tickers that each pipeline watches, out of 5,000.
    #[arg(long, default_value_t = 20)]
    tickers_each: u32,
    /// How often each ticker is spoken of, and watched.
    #[arg(long, default_value = "uniform")]
    spread: Spread,
    /// The share of pipelines that has an execution running throughout.
    #[arg(long, default_value_t = 0.3)]
    busy: f64,
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Another build of the dispatcher, instead of this checkout's.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The processors that the dispatcher may use, as `taskset` reads them.
    #[arg(long)]
    cores: Option<String>,
    /// A variable of the dispatcher that is not to have its default, as NAME=VALUE; may be repeated.
    #[arg(long = "set", value_parser = change, value_name = "NAME=VALUE")]
    changes: Vec<(String, String)>,
}

impl Load {
    fn shape(&self, unmatched: f64) -> Shape {
        let Self { pipelines, tickers_each, spread, busy, seed, .. } = *self;
        let watched = if unmatched > 0.0 { watched(unmatched) } else { TICKERS };
        Shape { pipelines, tickers_each, watched, spread, busy, seed }
    }

    fn subject(&self) -> Subject {
        let subject = self.program.as_ref().map_or_else(Subject::ours, |program| Subject::build("the given build", program));
        let subject = subject.with(&self.changes);
        match &self.cores {
            Some(cores) => subject.on(cores),
            None => subject,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Signals in the topic.
    #[arg(long, default_value_t = 2_000_000)]
    signals: u64,
    /// Shares of signals that no pipeline watches; each is a variant.
    #[arg(long, value_delimiter = ',', default_values_t = [0.9, 0.0])]
    unmatched: Vec<f64>,
    /// Runs of each variant, in turn.
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: u32,
}

/// One instance, beside bare consumers that only count the same topic.
pub(crate) fn drain(options: &DrainOptions) -> anyhow::Result<()> {
    let Load { partitions, compression, spread, seed, .. } = &options.load;
    let preload = Preload {
        signals: options.signals,
        partitions: *partitions,
        compression: compression.clone(),
        spread: *spread,
        seed: *seed,
    };
    let bare = |variant: &str, call| -> Box<dyn Case> {
        Box::new(Bare { variant: variant.to_owned(), preload: preload.clone(), call, cores: None })
    };
    let mut cases = vec![bare("bare consumer", Call::Poll), bare("batch call", Call::Batch)];
    for unmatched in &options.unmatched {
        let drain = Drain::whole(&preload, options.load.shape(*unmatched), options.load.subject());
        let variant = format!("{:.0} % unmatched", unmatched * 100.0);
        cases.push(Box::new(Drained { arm: "drain", variant, drain }));
    }
    run_and_show(&cases, options.runs, *seed, "once")
}

#[derive(Debug, Args)]
pub(crate) struct PacedOptions {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Signals a second; several rates are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000])]
    rate: Vec<u64>,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds before that, at the same rate.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Milliseconds that the sender's client waits for company.
    #[arg(long, default_value_t = 2)]
    linger_ms: u64,
    /// Milliseconds that an execution takes on average, from half to one and a half of it; so long its pipeline is busy.
    #[arg(long, default_value_t = 1_000)]
    execution_ms: u64,
    /// Runs, in turn.
    #[arg(long, default_value_t = 1)]
    pub(crate) runs: u32,
}

/// One instance in a flow of signals.
pub(crate) fn paced(options: &PacedOptions) -> anyhow::Result<()> {
    let load = &options.load;
    let flow = Flow {
        rates: options.rate.clone(),
        seconds: options.seconds,
        warm_up: options.warm_up,
        partitions: load.partitions,
        compression: load.compression.clone(),
        linger_ms: options.linger_ms,
        shape: load.shape(0.0),
        execution: Duration::from_millis(options.execution_ms),
        trace: Trace::AtEnd,
        subject: load.subject(),
        patience: Duration::from_secs(300),
        profiled: false,
    };
    let case: Box<dyn Case> = Box::new(Paced { arm: "paced", variant: "as asked".to_owned(), flow });
    run_and_show(&[case], options.runs, load.seed, "once")
}
