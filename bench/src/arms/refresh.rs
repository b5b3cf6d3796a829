//! What reading all pipelines again costs the flow: the same flow with a refresh every other second, and with none.
//!
//! Tickers are many more than signals speak of, so that a signal matches as few pipelines as it does where there are 1,000:
//! else the claims would hide the refresh.

use serde_json::{Value, json};

use crate::paced::Flow;
use crate::results::{median, round};
use crate::subject::{Subject, set};
use crate::suite::{Bench, Case, Tell, name};

/// The row of the flow that nothing disturbs, and of the other.
pub(crate) const VARIANTS: [&str; 2] = ["no refresh", "a refresh every 2 s"];

pub(crate) struct Refresh {
    pub(crate) flow: Flow,
}

impl Case for Refresh {
    fn arm(&self) -> &'static str {
        "refresh"
    }

    fn title(&self) -> String {
        format!("{} pipelines", self.flow.shape.pipelines)
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        for (variant, seconds) in VARIANTS.iter().zip([3_600, 2]) {
            let mut flow = self.flow.clone();
            let changes =
                [set("CACHE_REFRESH_INTERVAL_SECONDS", seconds), set("LOG_LEVEL", "info,trigger_dispatcher::store=debug")];
            flow.subject = Subject::ours().with(&changes);
            let mut measured = Value::Null;
            let log = flow.measure(&bench.services, &name(), |figures| {
                measured = figures;
                Ok(())
            })?;
            let times = refresh_times(&log);
            // The first one is at the start, with nothing else to do.
            measured["refreshes"] = json!(times.len().saturating_sub(1));
            measured["first_refresh_ms"] = json!(times.first());
            if let Some(later) = times.get(1..).filter(|later| !later.is_empty()) {
                measured["refresh_ms"] = round(median(later), 0);
            } else {
                anyhow::ensure!(seconds > 60, "the log tells of no refresh");
            }
            tell(variant, measured)?;
        }
        Ok(())
    }
}

/// Milliseconds that refreshes took, as the dispatcher logged them.
fn refresh_times(log: &str) -> Vec<f64> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let refreshed = lines.filter(|line| line.to_string().contains("rules_refreshed"));
    refreshed.filter_map(|line| find_number(&line, "milliseconds")).collect()
}

/// A number by its name, at any depth.
fn find_number(value: &Value, name: &str) -> Option<f64> {
    let object = value.as_object()?;
    object.get(name).and_then(Value::as_f64).or_else(|| object.values().find_map(|inner| find_number(inner, name)))
}
