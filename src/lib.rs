//! Turns streams of trading signals into Celery tasks: once, at once, and for a reason that can be looked up.
//!
//! # Layout
//!
//! ```text
//! intake   Kafka record ─▶ Signal | Rejected(reason) ─▶ Batch          own OS thread
//! rules    Batch × RuleSet ─▶ Matches                                  pure
//! store    Matches ─▶ Claimed + skipped, progress                      one statement, one transaction
//! tasks    Claimed ─▶ Celery messages ─▶ broker                        one round trip
//! intake   progress ─▶ Kafka offsets committed                         last, always
//! ```
//!
//! Data walks one way. [`dispatch`] is the loop through these stages; [`app`] builds it from a [`config`].

pub mod app;
pub mod chaos;
pub mod cli;
pub mod clock;
mod commands;
pub mod config;
pub mod dispatch;
pub mod intake;
pub mod retry;
pub mod rules;
pub mod store;
pub mod supervise;
pub mod tasks;
pub mod telemetry;
pub mod trigger_ids;
pub mod web;
