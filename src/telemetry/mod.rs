//! What the service says about itself: log lines and metrics. Must never hold a secret, nor slow the flow.

mod classic;
mod events;
mod gauges;
mod health;
mod lag;
mod lines;
mod logs;
mod metrics;
mod seldom;
mod shared_ids;

pub use events::Events;
pub use gauges::{Figures, Partitions};
pub use health::{Dependency, Health, Trouble};
pub use lag::{Behind, Lag};
pub use logs::{finish as finish_logs, json, start as start_logs};
pub use metrics::{ALL_STOPPED, Latency, Metrics, NO_PARTITIONS, OPENING, TAKEN_AWAY};
pub use seldom::Seldom;
