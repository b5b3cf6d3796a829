//! The command line as typed. Values stay text here, so that [`crate::config`] can report all mistakes at once.

use clap::{Args, Parser, Subcommand};

/// Trading signals for Kafka.
#[derive(Debug, Parser)]
#[command(
    name = "signal-generator",
    version,
    about = "Golden crosses of daily bars, or mock signals, to Kafka",
    after_help = "Exit codes: 0 all well; 64 the configuration is wrong; 65 some lines or records were bad (the rest was done); \
                  69 Kafka cannot be reached or refused us; 74 a folder, file or standard output failed.\n\
                  KAFKA_CONFIG_<PROPERTY> passes any librdkafka property on: KAFKA_CONFIG_SECURITY_PROTOCOL=sasl_ssl."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read all bars there are, emit, end
    Replay(ReplayArgs),
    /// Read all bars there are, emit, and go on with those that come
    Follow(FollowArgs),
    /// Send random signals at a steady rate
    Mock(MockArgs),
}

/// Where signals go.
#[derive(Debug, Args)]
pub struct SinkArgs {
    /// Kafka brokers, host:port,… [env: `KAFKA_BOOTSTRAP_SERVERS`]
    #[arg(long, value_name = "HOSTS")]
    pub brokers: Option<String>,
    /// Topic of the signals [env: `KAFKA_SIGNAL_TOPIC`; default: trading-signals]
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// `source` of the signals; part of their ids, and one running generator each [default: signal-generator]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

/// What both readers of bars need.
#[derive(Debug, Args)]
pub struct BarsArgs {
    /// Where signals go.
    #[command(flatten)]
    pub sink: SinkArgs,
    /// Folder of CSV files, one a ticker: date,open,high,low,close,volume
    #[arg(long, value_name = "FOLDER")]
    pub csv: Option<String>,
    /// Kafka topic of bars in JSON, keyed by ticker
    #[arg(long, value_name = "TOPIC")]
    pub bars_topic: Option<String>,
    /// Emit death crosses (BEARISH) too
    #[arg(long)]
    pub death_cross: bool,
    /// Compacted topic that remembers what was emitted [env: `KAFKA_STATE_TOPIC`; default: TOPIC.generator-state]
    #[arg(long, value_name = "TOPIC")]
    pub state_topic: Option<String>,
    /// Time of a signal: `bar`, the end of its bar's day, or `now`, its emission [default: bar]
    #[arg(long, value_name = "bar|now")]
    pub stamp: Option<String>,
}

/// `replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The bars.
    #[command(flatten)]
    pub bars: BarsArgs,
    /// Made-up bars instead: this many for each ticker
    #[arg(long, value_name = "BARS")]
    pub random_walk: Option<String>,
    /// Which made-up bars
    #[command(flatten)]
    pub random: RandomArgs,
    /// Print the signals instead of sending them; needs no Kafka
    #[arg(long)]
    pub print: bool,
}

/// `follow`
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// The bars.
    #[command(flatten)]
    pub bars: BarsArgs,
    /// Seconds between two looks at the folder [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub poll: Option<String>,
}

/// `mock`
#[derive(Debug, Args)]
pub struct MockArgs {
    /// Where signals go.
    #[command(flatten)]
    pub sink: SinkArgs,
    /// Signals per second
    #[arg(long, value_name = "N")]
    pub rate: Option<String>,
    /// End after this many seconds
    #[arg(long, value_name = "S")]
    pub seconds: Option<String>,
    /// End after this many signals
    #[arg(long, value_name = "N")]
    pub count: Option<String>,
    /// Which random signals
    #[command(flatten)]
    pub random: RandomArgs,
}

/// What random bars and signals depend on.
#[derive(Debug, Args)]
pub struct RandomArgs {
    /// Tickers by name: AAPL,MSFT
    #[arg(long, value_name = "A,B,…")]
    pub tickers: Option<String>,
    /// Or this many made-up tickers [default: 10]
    #[arg(long, value_name = "N")]
    pub ticker_count: Option<String>,
    /// Same seed, same bars and signals [default: another one each time for mock, 1 for a walk]
    #[arg(long, value_name = "S")]
    pub seed: Option<String>,
}
