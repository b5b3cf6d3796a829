//! What must hold, beside what was measured. A target whose figures were not measured is not there.

use std::collections::BTreeMap;

use super::table::grouped;
use crate::arms::instances::{self, Order};
use crate::arms::{memory, refresh};
use crate::book::Document;
use crate::plan::row;
use crate::results::median;

/// A bound.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }

    fn describe(self, decimals: usize) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", grouped(bound, decimals)),
            Self::AtMost(bound) => format!("≤ {}", grouped(bound, decimals)),
        }
    }
}

/// What, its bound, its decimals, and what each turn has measured.
type Target = (&'static str, Bound, usize, Vec<(u32, f64)>);

/// Documents by arm.
pub(crate) type Documents = BTreeMap<String, Document>;

/// A head and a row for each target that was measured.
pub(crate) fn rows(documents: &Documents) -> Vec<Vec<String>> {
    let figures = |arm: &str, variant: &str, pointer: &str| {
        documents.get(arm).map(|document| document.figures(variant, pointer)).unwrap_or_default()
    };
    let paced = |budget: &str, pointer: &str| figures("paced", &format!("10,000/s, {budget}"), pointer);
    let drained = |variant: &str| figures("drain", variant, "/signals_per_s");
    let rival = |name: &str| figures("rivals", &format!("drain, {name}"), "/signals_per_s");
    let cpu = |count, order| figures("instances", &instances::variant(count, order), "/cpu_us_per_signal");
    let one = cpu(1, Order::AtOnce);
    let refreshed = |number: usize| figures("refresh", refresh::VARIANTS[number], "/latency_ms/p99");
    let percent = |figures: Vec<(u32, f64)>| figures.into_iter().map(|(turn, cores)| (turn, cores * 100.0)).collect();

    let targets: Vec<Target> = vec![
        (
            "drain rate / bare consumer, both on 1 core, 90 % unmatched",
            Bound::AtLeast(0.6),
            2,
            ratios(&drained(row::OURS_1_CORE), &drained(row::BARE_1_CORE)),
        ),
        (
            "drain rate / bare consumer, both on 2 cores, 90 % unmatched",
            Bound::AtLeast(0.6),
            2,
            ratios(&drained(row::OURS_2_CORES), &drained(row::BARE_2_CORES)),
        ),
        (
            "drain rate / Python reference as published",
            Bound::AtLeast(200.0),
            0,
            ratios(&rival(row::DISPATCHER), &rival(row::REFERENCE)),
        ),
        ("p50 at 10,000 signals/s, no statement budget, ms", Bound::AtMost(4.0), 1, paced(row::NO_BUDGET, "/latency_ms/p50")),
        ("p99 at 10,000 signals/s, no statement budget, ms", Bound::AtMost(20.0), 1, paced(row::NO_BUDGET, "/latency_ms/p99")),
        ("p99 at 10,000 signals/s, at most 30 statements/s, ms", Bound::AtMost(70.0), 1, paced(row::BUDGET, "/latency_ms/p99")),
        (
            "claims/s, 100,000 pipelines all idle again each second",
            Bound::AtLeast(40_000.0),
            0,
            figures("claims", &format!("250/s, {}", row::CLAIMS), "/claims_per_s"),
        ),
        (
            "memory for each 1,000 pipelines of 20 tickers, at 100,000, MB",
            Bound::AtMost(0.5),
            2,
            figures("memory", &memory::variant(100_000), "/mb_per_1000"),
        ),
        (
            "resident memory, idle, 1,000 pipelines, MB",
            Bound::AtMost(40.0),
            0,
            figures("memory", &memory::variant(1_000), "/resident_mb"),
        ),
        ("CPU at 10,000 signals/s, % of a core", Bound::AtMost(20.0), 0, percent(paced(row::BUDGET, "/dispatcher_cpu_cores"))),
        ("1 → 2 instances, of linear (CPU a signal), all at once", Bound::AtLeast(0.9), 2, ratios(&one, &cpu(2, Order::AtOnce))),
        ("1 → 4 instances, of linear (CPU a signal), all at once", Bound::AtLeast(0.9), 2, ratios(&one, &cpu(4, Order::AtOnce))),
        ("1 → 2 instances, the same, one after the other", Bound::AtLeast(0.9), 2, ratios(&one, &cpu(2, Order::InTurn))),
        ("1 → 4 instances, the same, one after the other", Bound::AtLeast(0.9), 2, ratios(&one, &cpu(4, Order::InTurn))),
        (
            "duplicates among 4 instances",
            Bound::AtMost(0.0),
            0,
            figures("instances", &instances::variant(4, Order::AtOnce), "/duplicates"),
        ),
        ("p99 while 100,000 pipelines are read again / without", Bound::AtMost(2.0), 2, ratios(&refreshed(1), &refreshed(0))),
    ];
    let head = ["what", "must be", "measured", "holds"].map(str::to_owned).to_vec();
    let row = |(what, bound, decimals, figures): Target| {
        let numbers: Vec<f64> = figures.into_iter().map(|(_, figure)| figure).collect();
        let (least, most) = (numbers.iter().copied().reduce(f64::min)?, numbers.iter().copied().reduce(f64::max)?);
        let middle = median(&numbers);
        let [shown, least, most] = [middle, least, most].map(|number| grouped(number, decimals));
        let shown = if least == most { shown } else { format!("{shown} ({least}–{most})") };
        let bound_decimals = usize::from(bound.describe(0).ends_with(['0', '1']) && decimals == 2);
        Some(vec![
            what.to_owned(),
            bound.describe(bound_decimals),
            shown,
            if bound.holds(middle) { "yes" } else { "**no**" }.to_owned(),
        ])
    };
    let rows: Vec<_> = targets.into_iter().filter_map(row).collect();
    if rows.is_empty() { rows } else { [head].into_iter().chain(rows).collect() }
}

/// Each figure by the other of the same turn: both saw about the same machine.
fn ratios(figures: &[(u32, f64)], others: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let other = |turn: u32| others.iter().find(|(other, figure)| *other == turn && *figure > 0.0).map(|(_, figure)| *figure);
    figures.iter().filter_map(|(turn, figure)| Some((*turn, figure / other(*turn)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::book::Run;

    fn paced(p99: f64) -> Documents {
        let run = Run {
            variant: format!("10,000/s, {}", row::BUDGET),
            turn: 1,
            at: String::new(),
            load_after: String::new(),
            figures: json!({"latency_ms": {"p99": p99}}),
        };
        [("paced".to_owned(), Document { arm: "paced".to_owned(), context: Value::Null, runs: vec![run] })].into()
    }

    #[test]
    fn a_target_holds_up_to_its_bound_and_not_beyond() {
        for (p99, word) in [(70.0, "yes"), (70.1, "**no**")] {
            let rows = rows(&paced(p99));
            assert_eq!(rows.len(), 2, "{rows:?}");
            assert_eq!(rows[1][3], word);
        }
    }

    #[test]
    fn only_what_was_measured_in_the_same_turn_is_compared() {
        assert_eq!(ratios(&[(1, 6.0), (2, 8.0), (3, 9.0)], &[(3, 3.0), (1, 2.0), (2, 0.0)]), vec![(1, 3.0), (3, 3.0)]);
        assert!(rows(&Documents::new()).is_empty());
    }
}
