//! docs/performance.md and its plots: the prose of bench/performance.md with the figures filled in.
//!
//! The prose holds no figure of its own. A line `{{table ARM}}`, `{{plot NAME}}`, `{{context ARM}}` or `{{targets}}` is filled
//! in; what stands between `{{if ARM}}` and `{{end}}` is left out when the arm was not measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use super::targets::{self, Documents};
use super::{plots, table};
use crate::book::Document;
use crate::plan::ARMS;

/// Writes the page and the plots from what is in bench/results.
pub(crate) fn write() -> anyhow::Result<PathBuf> {
    let mut documents = Documents::new();
    for arm in ARMS.into_iter().chain(["against"]) {
        if let Some(document) = Document::read(arm)? {
            documents.insert(arm.to_owned(), document);
        }
    }
    anyhow::ensure!(!documents.is_empty(), "nothing is measured yet");
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = fs::read_to_string(bench.join("performance.md")).context("bench/performance.md")?;
    let docs = bench.parent().context("the folder of the checkout")?.join("docs");
    let folder = docs.join("performance");
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    for name in plots::NAMES {
        let file = folder.join(format!("{name}.svg"));
        match documents.get(plots::arm(name)).and_then(|document| plots::draw(name, document)) {
            Some(svg) => fs::write(&file, svg).with_context(|| format!("{}", file.display()))?,
            // Of an earlier run: it would show what this one did not measure.
            None if file.exists() => fs::remove_file(&file).with_context(|| format!("{}", file.display()))?,
            None => {}
        }
    }
    let page = docs.join("performance.md");
    fs::write(&page, fill(&template, &documents)?).with_context(|| format!("{}", page.display()))?;
    Ok(page)
}

fn fill(template: &str, documents: &Documents) -> anyhow::Result<String> {
    let mut page = String::new();
    let mut left_out = false;
    for line in template.lines() {
        let order = line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}"));
        let (word, argument) = order.map_or(("", ""), |order| order.split_once(' ').unwrap_or((order, "")));
        match word {
            "if" => left_out = !documents.contains_key(argument),
            "end" => left_out = false,
            _ if left_out => {}
            "" => {
                anyhow::ensure!(!line.contains("{{"), "bench/performance.md: an order is a line of its own: {line}");
                page.push_str(line);
                page.push('\n');
            }
            "targets" => page.push_str(&table::markdown_of(&targets::rows(documents))),
            "table" => page.push_str(&documents.get(argument).map(table::markdown).unwrap_or_default()),
            "context" => page.push_str(&documents.get(argument).map(context).unwrap_or_default()),
            "plot" => {
                let drawn = documents.get(plots::arm(argument)).and_then(|document| plots::draw(argument, document));
                if drawn.is_some() {
                    page.extend(["![", argument, "](performance/", argument, ".svg)\n"]);
                }
            }
            other => anyhow::bail!("bench/performance.md: no such order: {other}"),
        }
    }
    Ok(page)
}

/// How an arm was measured, in a line.
fn context(document: &Document) -> String {
    let text = |pointer: &str| match document.context.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "?".to_owned(),
    };
    let turns = document.runs.iter().map(|run| run.turn).max().unwrap_or_default();
    let changed =
        if document.context.pointer("/versions/changed_since_commit") == Some(&Value::Bool(true)) { " with changes" } else { "" };
    format!(
        "`{}`, {turns} {}, {}; commit {}{changed}; seed {}; {} × {}, {}, Linux {}; {}, librdkafka {}, PostgreSQL {}, Redis {}; load before and after: {} and {}.\n",
        text("/command"),
        if turns == 1 { "turn" } else { "turns" },
        text("/began").get(..16).unwrap_or_default().replace('T', " "),
        text("/versions/commit"),
        text("/seed"),
        text("/machine/processors"),
        text("/machine/processor"),
        text("/machine/memory"),
        text("/machine/kernel"),
        text("/versions/rustc"),
        text("/versions/librdkafka"),
        text("/versions/postgresql"),
        text("/versions/redis"),
        text("/load"),
        document.runs.last().map(|run| run.load_after.clone()).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::book::Run;

    fn documents() -> Documents {
        let run = Run {
            variant: "ours".into(),
            turn: 1,
            at: String::new(),
            load_after: String::new(),
            figures: json!({"ready_ms": 5}),
        };
        [("startup".to_owned(), Document { arm: "startup".to_owned(), context: Value::Null, runs: vec![run] })].into()
    }

    #[test]
    fn prose_stays_and_orders_are_filled_in() {
        let page = fill("prose\n{{table startup}}\nmore\n", &documents()).unwrap();
        assert_eq!(page, "prose\n|  | first partition, ms |\n| --- | ---: |\n| ours | 5 |\nmore\n");
    }

    #[test]
    fn what_was_not_measured_is_left_out_with_its_prose() {
        let page = fill("a\n{{if drain}}\nb\n{{table drain}}\n{{plot drain}}\n{{end}}\nc\n", &documents()).unwrap();
        assert_eq!(page, "a\nc\n");
    }

    #[test]
    fn an_order_that_there_is_not_is_an_error() {
        assert!(fill("{{tabel startup}}\n", &documents()).is_err());
        assert!(fill("see {{table startup}}\n", &documents()).is_err());
    }
}
