//! What the service says about itself: log lines and metrics. Must never hold a secret, nor slow the flow.

mod events;
mod logs;
mod metrics;
mod seldom;
mod shared_ids;

pub use events::Events;
pub use logs::{json, start as start_logs};
pub use metrics::{Latency, Metrics};
pub use seldom::Seldom;
