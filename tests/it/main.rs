//! Tests on real services, which `scripts/services env` names. One binary: services are shared, names are not.
#![expect(missing_docs, reason = "tests are sentences")]

mod amqp_queue;
mod bad_input;
mod configuration;
mod conformance;
mod crowd;
mod example;
mod golden;
mod logs;
mod outages;
mod redis_queue;
mod rules;
mod shutdown;
mod signals;
mod statuses;
mod support;
mod take_up;
