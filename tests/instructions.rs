//! What `scripts/bench instructions` makes of a difference. The counting itself is `benches/instructions`.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../benches/instructions/baseline.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod baseline;

use std::collections::BTreeMap;

use baseline::{Baseline, Tools};

fn tools(rustc: &str) -> Tools {
    let text = format!(r#"{{"rustc": "{rustc}", "valgrind": "valgrind-3.19.0", "processor": "x86-64 with AVX2"}}"#);
    serde_json::from_str(&text).unwrap()
}

fn counts(cases: &[(&str, f64)]) -> BTreeMap<String, f64> {
    cases.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn a_count_passes_within_the_tolerance_and_fails_beyond_it_in_both_directions() {
    let baseline = Baseline::new(tools("rustc 1"), counts(&[("decode", 1_000.0)]));
    for (now, passes) in [(1_000.0, true), (1_049.0, true), (951.0, true), (1_051.0, false), (949.0, false), (10.0, false)] {
        let judgement = baseline.judge(&tools("rustc 1"), &counts(&[("decode", now)]));
        assert_eq!(judgement.passes(), passes, "{now}");
        assert_eq!(judgement.conclusions().is_empty(), passes, "a failure says what to do: {now}");
    }
}

#[test]
fn with_another_compiler_only_what_is_gross_fails_and_it_is_said() {
    let baseline = Baseline::new(tools("rustc 1"), counts(&[("decode", 1_000.0)]));
    for (now, passes) in [(500.0, true), (1_149.0, true), (1_151.0, false)] {
        let judgement = baseline.judge(&tools("rustc 2"), &counts(&[("decode", now)]));
        assert_eq!(judgement.passes(), passes, "{now}");
        assert!(judgement.conclusions()[0].contains("other tools"));
    }
}

#[test]
fn a_case_that_is_only_in_the_file_or_only_in_the_code_fails() {
    let baseline = Baseline::new(tools("rustc 1"), counts(&[("decode", 1_000.0)]));
    for now in [counts(&[]), counts(&[("decode", 1_000.0), ("new", 1.0)])] {
        let judgement = baseline.judge(&tools("rustc 1"), &now);
        assert!(!judgement.passes() && judgement.table(&BTreeMap::new()).contains("UNKNOWN"), "{now:?}");
    }
}

#[test]
fn the_committed_counts_can_be_read() {
    Baseline::read(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json")).unwrap();
}
