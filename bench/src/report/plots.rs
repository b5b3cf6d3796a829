//! Which plots the page has, made from what was measured.

use super::svg::{Bar, Line, bars, lines};
use crate::book::Document;
use crate::plan::row;
use crate::results::median;

/// A plot of an arm by its name; `None` when nothing was measured that it could show.
pub(super) fn draw(name: &str, document: &Document) -> Option<String> {
    match name {
        "drain" => bar_plot(document, "A topic that is full already", "signals/s", "/signals_per_s", false),
        "cpu" => bar_plot(document, "What a signal costs", "µs of CPU", "/cpu_us_per_signal", false),
        "latency" => latency(document),
        "rivals" => bar_plot(document, "The same topic, by what people use today", "signals/s", "/signals_per_s", true),
        "instances" => bar_plot(document, "Work divided among instances", "µs of CPU a signal", "/cpu_us_per_signal", false),
        _ => None,
    }
}

/// Names of the plots that there are.
pub(super) const NAMES: [&str; 5] = ["drain", "cpu", "latency", "rivals", "instances"];

/// The arm that a plot is made from.
pub(super) fn arm(name: &str) -> &'static str {
    match name {
        "latency" => "paced",
        "rivals" => "rivals",
        "instances" => "instances",
        _ => "drain",
    }
}

fn bar_plot(document: &Document, title: &str, unit: &str, pointer: &str, logarithmic: bool) -> Option<String> {
    let bar = |variant: &&str| {
        let numbers: Vec<f64> = document.figures(variant, pointer).into_iter().map(|(_, number)| number).collect();
        let (least, most) = (numbers.iter().copied().reduce(f64::min)?, numbers.iter().copied().reduce(f64::max)?);
        let kind = usize::from(variant.contains("bare") || variant.contains("batch call") || variant.contains("reference"));
        let kind = if variant.contains("contender") { 2 } else { kind };
        Some(Bar { name: (*variant).to_owned(), least, middle: median(&numbers), most, kind })
    };
    let drawn: Vec<Bar> = document.variants().iter().filter_map(bar).collect();
    (!drawn.is_empty()).then(|| bars(&format!("{title} ({unit}; whiskers: least to most)"), unit, &drawn, logarithmic))
}

fn latency(document: &Document) -> Option<String> {
    let quantiles = [("p50", "/latency_ms/p50", true), ("p99", "/latency_ms/p99", false)];
    let series = [row::BUDGET, row::NO_BUDGET]
        .into_iter()
        .enumerate()
        .flat_map(|(kind, series)| quantiles.map(|quantile| (kind, series, quantile)));
    let line = |(kind, series, (name, pointer, dashed)): (usize, &str, (&str, &str, bool))| {
        let end = format!("/s, {series}");
        let point = |variant: &&str| {
            let middle = |pointer| {
                Some(median(&document.figures(variant, pointer).into_iter().map(|(_, number)| number).collect::<Vec<_>>()))
                    .filter(|number| *number > 0.0)
            };
            Some((middle("/rate")?, middle(pointer)?))
        };
        let points: Vec<_> = document.variants().iter().filter(|variant| variant.ends_with(&end)).filter_map(point).collect();
        (!points.is_empty()).then(|| Line { name: format!("{name}, {series}"), points, kind, dashed })
    };
    let drawn: Vec<Line> = series.filter_map(line).collect();
    (!drawn.is_empty()).then(|| lines("From when a signal was due to its task in a reader's hands", ("signals/s", "ms"), &drawn))
}
