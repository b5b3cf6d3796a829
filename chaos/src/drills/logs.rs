//! What the instances said while something was broken.

use std::collections::BTreeMap;

use serde_json::Value;

use super::history::Window;
use crate::evidence::Evidence;
use crate::platform::Platform;

/// Warnings and errors within a stretch of time.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// The most that one instance said.
    pub(super) most: u64,
    /// By event, over all instances.
    pub(super) events: BTreeMap<String, u64>,
}

impl Complaints {
    pub(super) fn read(evidence: &Evidence, platform: &Platform, window: Window) -> anyhow::Result<Self> {
        let (from, to) = (timestamp(platform, window.from)?, timestamp(platform, window.to)?);
        let mut found = Self::default();
        for entry in std::fs::read_dir(evidence.folder())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let mut said = 0;
            for line in std::fs::read_to_string(&path)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                let text = |name: &str| line[name].as_str().unwrap_or_default();
                if matches!(text("level"), "warn" | "error") && (from.as_str()..=to.as_str()).contains(&text("timestamp")) {
                    said += 1;
                    *found.events.entry(text("event").to_owned()).or_default() += 1;
                }
            }
            found.most = found.most.max(said);
        }
        Ok(found)
    }

    pub(super) fn words(&self) -> String {
        let words: Vec<_> = self.events.iter().map(|(event, count)| format!("{event} {count}")).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    }
}

/// A time as log lines have it, which sorts as text.
fn timestamp(platform: &Platform, at: i64) -> anyhow::Result<String> {
    let text = "select to_char(to_timestamp($1::bigint / 1000000.0) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
    Ok(platform.connect_in_time()?.query_one(text, &[&at])?.try_get(0)?)
}
