//! The rules of this house, as checks. Each says what to do instead; exceptions stand here with their reason.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MOST_LINES: usize = 400;

/// Crates that talk to the world.
const IO_CRATES: [&str; 6] = ["rdkafka", "kafka_batch", "tokio_postgres", "redis", "lapin", "axum"];

/// Where IO crates may be used, as beginnings of paths.
const IO_PLACES: [&str; 18] = [
    "src/intake/kafka/",
    "src/store/postgres",
    "src/store/deployment.rs",
    "src/store/migrate.rs",
    "src/store/rules.rs",
    "src/store/refresh.rs",
    "src/store/sweep/",
    "src/store/tls.rs",
    "src/store/catalog.rs",
    "src/store/database.rs",
    "src/tasks/redis",
    "src/tasks/amqp",
    "src/web/",
    "src/commands/",
    "src/app.rs",
    "src/cli.rs",
    "src/supervise.rs",
    "src/main.rs",
];

/// Folder or file, and the modules of our own that it must not use: data walks one way, and what serves all knows none of them.
const FLOW: [(&str, &[&str]); 11] = [
    ("src/clock.rs", &["config", "intake", "rules", "store", "tasks", "telemetry", "web", "dispatch", "app", "cli", "commands"]),
    ("src/config/", &["intake", "rules", "store", "tasks", "telemetry", "web", "dispatch", "app", "cli", "commands"]),
    ("src/retry.rs", &["intake", "rules", "store", "tasks", "web", "dispatch", "app", "cli", "commands"]),
    ("src/supervise.rs", &["intake", "rules", "store", "tasks", "web", "dispatch", "app", "cli", "commands"]),
    ("src/intake/", &["rules", "store", "tasks", "web", "dispatch", "app", "cli", "commands"]),
    ("src/rules/", &["store", "tasks", "telemetry", "web", "dispatch", "app", "cli", "commands"]),
    ("src/store/", &["tasks", "web", "dispatch", "app", "cli", "commands"]),
    ("src/tasks/", &["store", "web", "dispatch", "app", "cli", "commands"]),
    ("src/telemetry/", &["web", "dispatch", "app", "cli", "commands"]),
    ("src/dispatch.rs", &["web", "app", "cli", "commands"]),
    ("src/dispatch/", &["web", "app", "cli", "commands"]),
];

/// File or folder, module, and why it may use it all the same.
const AGAINST_THE_FLOW: [(&str, &str, &str); 4] = [
    ("src/config/celery.rs", "tasks", "the names of Celery's own headers stand beside the encoder that writes them"),
    ("src/store/mod.rs", "tasks", "the ledger is the outbox: it keeps the text of each task"),
    (
        "src/store/sweep/",
        "tasks",
        "the sweeper is a second loop: it publishes what the first could not, and asks the result backend",
    ),
    ("src/store/memory/sweep.rs", "tasks", "the same sweeper in memory"),
];

struct Source {
    /// From the root on, with slashes.
    path: String,
    /// Without tests: those beside the code end the file.
    code: String,
}

impl Source {
    /// Its lines of code with their numbers: comments and texts in quotes are blank.
    fn lines(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        (1..).zip(self.code.lines().map(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
        }))
    }

    /// Where a line of code has what is looked for.
    fn find(&self, has: impl Fn(&str) -> bool) -> Vec<String> {
        self.lines()
            .filter(|(_, line)| has(line))
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

/// Every Rust source of ours that is not a test.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    for folder in folders {
        collect(&Path::new(ROOT).join(folder), "rs", &mut files);
    }
    assert!(files.len() > 10, "only {} files under {folders:?}", files.len());
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        Source { path: path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned(), code }
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, kind: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, kind, files);
        } else if path.extension().is_some_and(|extension| extension == kind)
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            files.push(path);
        }
    }
}

fn ours() -> Vec<Source> {
    sources(&["src", "signal-generator/src"])
}

/// Whether `line` uses `name::` from the outside, not a module of that name within another one.
fn uses(line: &str, name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line.as_bytes()[..at], &line[at + name.len()..]);
        let begins = before.last().is_none_or(|byte| !is_word(*byte) && *byte != b':');
        let ends = after.starts_with("::") || (after.starts_with(';') && line.trim_start().starts_with("use "));
        begins && ends
    })
}

#[track_caller]
fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn a_file_fits_in_the_head() {
    let long =
        ours().into_iter().map(|source| (source.code.lines().count(), source.path)).filter(|(lines, _)| *lines > MOST_LINES);
    let long: Vec<_> = long.map(|(lines, path)| format!("{path}: {lines} lines")).collect();
    none(&long, "more than 400 lines without tests: give what can stand alone a file of its own");
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<_> = ours().into_iter().filter(|source| !source.code.starts_with("//!")).map(|source| source.path).collect();
    none(&silent, "the first line is `//!`: what the module owns, and what it must never do");
}

#[test]
fn io_crates_stay_in_their_places() {
    for source in sources(&["src"]) {
        let is_io_place = IO_PLACES.iter().any(|place| source.path.starts_with(place));
        for name in IO_CRATES {
            let has_own = source.code.contains(&format!("mod {name};"));
            if !is_io_place && !has_own {
                none(&source.find(|line| uses(line, name)), "pure code: move the IO to where IO is");
            }
        }
    }
}

#[test]
fn time_is_read_by_the_clock_only() {
    for source in ours().iter().filter(|source| !source.path.ends_with("src/clock.rs")) {
        let reads = |line: &str| {
            ["Instant::now", "Timestamp::now", "SystemTime::now", "Zoned::now"].iter().any(|call| line.contains(call))
        };
        none(&source.find(reads), "take the time as an argument, or from clock.rs");
    }
}

#[test]
fn tasks_are_started_by_supervise_only() {
    for source in sources(&["src"]).iter().filter(|source| source.path != "src/supervise.rs") {
        let spawns =
            |line: &str| ["tokio::spawn", "task::spawn", "JoinSet", ".spawn_blocking"].iter().any(|call| line.contains(call));
        none(&source.find(spawns), "a detached task loses its error: use supervise.rs");
    }
}

#[test]
fn nothing_is_left_for_later() {
    for source in ours() {
        let words = ["TODO", "FIXME", "XXX", "unimplemented!", "todo!"];
        let lines = (1..).zip(source.code.lines()).filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        let found: Vec<_> = lines.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())).collect();
        none(&found, "do it, or make it an issue");
    }
}

/// A platform's database may have an encoding that knows little more than ASCII, and a statement goes there with its comments.
#[test]
fn statements_are_ascii() {
    let mut files = Vec::new();
    collect(&Path::new(ROOT).join("src"), "sql", &mut files);
    assert!(files.len() > 5, "only {files:?}");
    files.retain(|file| !fs::read_to_string(file).unwrap().is_ascii());
    let found: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    none(&found, "write it in ASCII");
}

#[test]
fn stages_do_not_import_against_the_flow() {
    let mut used = BTreeSet::new();
    for source in sources(&["src"]) {
        let forbidden = FLOW.iter().filter(|(place, _)| source.path.starts_with(place)).flat_map(|(_, modules)| *modules);
        for module in forbidden {
            let found = source.find(|line| imports(line, module));
            let exception = AGAINST_THE_FLOW.iter().find(|(path, name, _)| source.path.starts_with(path) && name == module);
            match exception {
                Some(exception) if !found.is_empty() => _ = used.insert(*exception),
                _ => none(&found, "data walks one way: return it, and let the loop hand it on"),
            }
        }
    }
    let needless: Vec<_> = AGAINST_THE_FLOW
        .iter()
        .filter(|exception| !used.contains(exception))
        .map(|(path, module, _)| format!("{path}: {module}"))
        .collect();
    none(&needless, "no longer needed: remove the exception");
}

/// Whether `line` uses the module `name` of our own, alone or in a list.
fn imports(line: &str, name: &str) -> bool {
    let listed = line.split_once("crate::{").is_some_and(|(_, list)| {
        list.split([',', '{', '}']).any(|item| item.trim() == name || item.trim().starts_with(&format!("{name}::")))
    });
    let direct = line.split("crate::").skip(1).any(|rest| {
        rest.strip_prefix(name).is_some_and(|after| !after.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    });
    listed || direct
}

#[test]
fn every_variable_is_in_the_env_example() {
    let file = fs::read_to_string(Path::new(ROOT).join(".env.example")).unwrap_or_default();
    let missing: Vec<_> = trigger_dispatcher::config::VARIABLES
        .iter()
        .filter(|variable| !file.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{}=", variable.name))))
        .map(|variable| variable.name.to_owned())
        .collect();
    none(&missing, "not in .env.example: cargo run -- variables > .env.example");
}

#[test]
fn the_readme_tells_the_two_commands() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README.md at the root");
    for command in ["cargo run --release -- demo", "scripts/test"] {
        assert!(readme.contains(command), "README.md does not tell of `{command}`");
    }
}

/// These checks must be able to fail.
#[test]
fn the_checks_see_what_they_look_for() {
    let source = |code: &str| Source { path: "x.rs".to_owned(), code: code.to_owned() };
    for (line, name, expected) in [
        ("use redis::Client;", "redis", true),
        ("    Redis(Box<redis::RedisQueue>),", "redis", true),
        ("use rdkafka;", "rdkafka", true),
        ("use crate::tasks::redis::RedisLink;", "redis", false),
        ("my_redis::connect()", "redis", false),
        ("redis_list(queue)", "redis", false),
    ] {
        assert_eq!(uses(line, name), expected, "{line}");
    }
    for (line, name, expected) in [
        ("use crate::tasks::Task;", "tasks", true),
        ("use crate::{app, tasks};", "tasks", true),
        ("use crate::{app, tasks::redis};", "tasks", true),
        ("for name in crate::tasks::celery::OWN_HEADERS {", "tasks", true),
        ("use crate::tasks_of_old::Task;", "tasks", false),
        ("use crate::rules::tasks;", "tasks", false),
    ] {
        assert_eq!(imports(line, name), expected, "{line}");
    }
    let code = source("let now = Instant::now(); // why\n// Instant::now\nlet text = \"Instant::now\";");
    assert_eq!(code.find(|line| line.contains("Instant::now")), ["x.rs:1: let now = Instant::now();"]);
}
