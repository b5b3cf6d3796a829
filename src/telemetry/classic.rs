//! Metrics in the text format that Prometheus had before OpenMetrics (version 0.0.4), for clients that do not ask for the newer one. Pure.

use std::collections::HashSet;
use std::fmt::Write as _;

/// The same metrics in the classic format: a counter's name ends in `_total` in its description too, and there are no units and no end mark.
pub(super) fn classic(openmetrics: &str) -> String {
    let counters: HashSet<&str> =
        openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].iter().find_map(|word| Some((word, line.strip_prefix(word)?.split_once(' ')?)));
        match described {
            Some((word, (name, rest))) if counters.contains(name) => writeln!(out, "{word}{name}_total {rest}"),
            _ => writeln!(out, "{line}"),
        }
        .expect("a text takes whatever is written");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_their_whole_name_and_the_rest_stays() {
        let openmetrics = "# HELP signals Records decided.\n# TYPE signals counter\nsignals_total 5\n# HELP age_seconds Age.\n\
            # TYPE age_seconds gauge\n# UNIT age_seconds seconds\nage_seconds 7\n# EOF\n";
        let expected = "# HELP signals_total Records decided.\n# TYPE signals_total counter\nsignals_total 5\n# HELP age_seconds Age.\n\
            # TYPE age_seconds gauge\nage_seconds 7\n";
        assert_eq!(classic(openmetrics), expected);
    }

    #[test]
    fn every_sample_of_ours_has_a_type_of_its_own_name() {
        let text = classic(&crate::telemetry::Metrics::default().text().unwrap());
        let types: HashSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ').map(|(name, _)| name)).collect();
        let parts = ["_bucket", "_sum", "_count"];
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap();
            let family = parts.iter().find_map(|part| name.strip_suffix(part)).filter(|family| types.contains(family));
            assert!(types.contains(name) || family.is_some(), "{sample}");
        }
        assert!(!types.is_empty() && !text.contains("# EOF"));
    }
}
