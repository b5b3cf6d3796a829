//! Tests on real services, which `scripts/services env` names. One binary: services are shared, names are not.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_wrap,
    clippy::type_complexity,
    clippy::needless_pass_by_value,
    reason = "a test may fail by panicking, reads its own clock, and counts little"
)]

mod amqp_queue;
mod bad_input;
mod commands;
mod configuration;
mod conformance;
mod crowd;
mod deployments;
mod example;
mod failover;
mod fan_out;
mod faults;
mod golden;
mod late;
mod ledger;
mod log_reader;
mod logs;
mod monitoring;
mod outages;
mod platform;
mod positions;
mod redis_queue;
mod rules;
mod shutdown;
mod signals;
mod slow_claim;
mod statuses;
mod support;
mod take_up;
