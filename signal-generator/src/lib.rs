//! Trading signals for Kafka: golden and death crosses of daily bars, and mock signals.
//!
//! # Layout
//!
//! ```text
//! csv, kafka::bars, walk   bars, one ticker's in order of date
//! bar, series              what a good bar is; a bad one is a value with a reason
//! cross                    SMA 50/200, the moment one passes the other
//! signal                   the JSON that leaves, its id and its confidence
//! marks, emitter           what has left already
//! kafka                    the only module that talks to Kafka
//! commands                 replay · follow · mock
//! ```
//!
//! Everything outside of [`kafka`], [`csv_folder`], [`emitter`], [`clock`], [`stop`], [`report`] and
//! [`commands`] is pure.
//! The dispatcher's demo uses [`CrossDetector`], [`RandomWalk`], [`MockSignals`] and [`SignalProducer`] in its own process.

pub mod bar;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod cross;
pub mod csv;
pub mod csv_folder;
pub mod emitter;
pub mod kafka;
pub mod marks;
pub mod mock;
pub mod pace;
pub mod report;
pub mod series;
pub mod signal;
pub mod stop;
pub mod ticker;
pub mod walk;

pub use bar::{BadBar, Bar};
pub use cross::{Cross, CrossDetector, Direction};
pub use kafka::{KafkaConfig, SignalProducer};
pub use mock::MockSignals;
pub use signal::{Signal, signal_json};
pub use walk::RandomWalk;
