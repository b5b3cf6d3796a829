//! The program itself, against a real Kafka (`TEST_KAFKA`).

mod bars_topic;
mod cli;
mod follow;
mod kafka;
mod mock;
mod program;
mod replay;
mod restart;
mod samples;
