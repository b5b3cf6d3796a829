//! 2: what it means. Which pipelines accept a signal. Pure: nothing here does IO or can fail.
//!
//! Owns the rules and the index over them. Must never ask whether a pipeline is idle: that is the store's.

mod direction;
mod index;
mod matching;
mod names;
mod rule;
mod skips;

pub use index::{Owner, RuleSet, Rules};
pub use matching::{Candidate, Matches, PartitionCounts, WHOLE};
pub use rule::{Rule, RuleRow, Subscription, UnknownKeys};
pub use skips::{Skip, Skips};
