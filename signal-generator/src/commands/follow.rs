//! `follow`: every bar there is, then those that come, until asked to stop.

use std::path::Path;
use std::time::Duration;

use super::{Failure, Tools, line_of, offer_all, open, summary, topic};
use crate::config::{BarSource, BarsJob};
use crate::csv_folder::{self, Watch};
use crate::emitter::Emitter;

pub(super) fn run(job: &BarsJob, poll: Duration, tools: &mut Tools) -> Result<(), Failure> {
    let mut emitter = open(job, tools)?;
    let bars = match &job.source {
        BarSource::Csv(folder) => csv(folder, poll, &mut emitter, tools)?,
        BarSource::Topic(name) => topic::read(&job.kafka, name, topic::Until::AskedToStop, &mut emitter, tools)?,
        BarSource::Walk { .. } => unreachable!("`follow` has no option for a walk"),
    };
    emitter.flush()?;
    summary(bars, &emitter, tools);
    Ok(())
}

fn csv(folder: &Path, poll: Duration, emitter: &mut Emitter, tools: &mut Tools) -> Result<u64, Failure> {
    let mut watch = Watch::default();
    let (mut bars, mut told) = (0, false);
    while !tools.stop.is_asked() {
        let changed = look(folder, &mut watch, emitter, tools)?;
        bars += changed;
        emitter.flush()?;
        if !told {
            told = true;
            tools.report.line(&format!("{bars} bars read, now following {}", folder.display()));
        }
        tools.stop.wait(poll);
    }
    Ok(bars)
}

/// One look at the whole folder; the number of bars read from changed files.
fn look(folder: &Path, watch: &mut Watch, emitter: &mut Emitter, tools: &mut Tools) -> Result<u64, Failure> {
    let failure = |error| Failure::Folder { path: folder.to_owned(), error };
    let listing = csv_folder::list(folder).map_err(failure)?;
    for (path, reason) in &listing.bad {
        complain_once(watch, tools, &path.display().to_string(), reason);
    }
    let mut bars = 0;
    for (ticker, path) in &listing.files {
        if tools.stop.is_asked() {
            break;
        }
        match watch.read_changed(path) {
            Ok(Some(reading)) => {
                bars += reading.bars;
                for (line, bad) in &reading.bad {
                    complain_once(watch, tools, &line_of(path, *line), bad);
                }
                offer_all(ticker, &reading, emitter, tools.clock)?;
            }
            Ok(None) => {}
            // A file that goes away between the listing and the reading is a file that went away.
            Err(error) => complain_once(watch, tools, &path.display().to_string(), &error),
        }
    }
    Ok(bars)
}

fn complain_once(watch: &mut Watch, tools: &mut Tools, place: &str, reason: &impl std::fmt::Display) {
    if watch.is_news(format!("{place}: {reason}")) {
        tools.report.complain(place, reason);
    }
}
