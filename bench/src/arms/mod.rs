//! The arms: what is measured, each in a file of its own.

pub(crate) mod drained;
pub(crate) mod failover;
pub(crate) mod flow;
pub(crate) mod instances;
pub(crate) mod memory;
pub(crate) mod refresh;
pub(crate) mod startup;

use crate::platform::Shape;
use crate::signals::{Spread, TICKERS};

/// Pipelines of 20 tickers, 30 % of them busy throughout, as the platform has them.
pub(crate) fn shape(pipelines: u32, seed: u64) -> Shape {
    Shape { pipelines, tickers_each: 20, watched: TICKERS, spread: Spread::Uniform, busy: 0.3, seed }
}

/// How many tickers pipelines choose from, so that about a share of the signals is unmatched.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 5,000")]
pub(crate) fn watched(unmatched: f64) -> u32 {
    ((f64::from(TICKERS) * (1.0 - unmatched)).round() as u32).clamp(1, TICKERS)
}
