//! `replay`: every bar there is, once, then the end.

use std::path::Path;

use jiff::civil::date;

use super::{Failure, Tools, line_of, offer_all, open, summary, topic};
use crate::config::{BarSource, BarsJob};
use crate::csv::Tail;
use crate::csv_folder;
use crate::emitter::Emitter;
use crate::series::Series;
use crate::walk::RandomWalk;

pub(super) fn run(job: &BarsJob, tools: &mut Tools) -> Result<(), Failure> {
    let mut emitter = open(job, tools)?;
    let bars = match &job.source {
        BarSource::Csv(folder) => csv(folder, &mut emitter, tools)?,
        BarSource::Topic(name) => topic::read(&job.kafka, name, topic::Until::CaughtUp, &mut emitter, tools)?,
        BarSource::Walk { seed, tickers, bars } => walk(*seed, tickers, *bars, &mut emitter, tools)?,
    };
    emitter.flush()?;
    summary(bars, &emitter, tools);
    Ok(())
}

fn csv(folder: &Path, emitter: &mut Emitter, tools: &mut Tools) -> Result<u64, Failure> {
    let failure = |error| Failure::Folder { path: folder.to_owned(), error };
    let listing = csv_folder::list(folder).map_err(failure)?;
    if listing.files.is_empty() && listing.bad.is_empty() {
        return Err(Failure::EmptyFolder(folder.to_owned()));
    }
    for (path, reason) in &listing.bad {
        tools.report.complain(&path.display().to_string(), reason);
    }
    let (mut bars, count) = (0, listing.files.len());
    for (done, (ticker, path)) in listing.files.iter().enumerate() {
        if tools.stop.is_asked() {
            tools.report.line(&format!("asked to stop after {done} of {count} files"));
            break;
        }
        match csv_folder::read_file(path, Tail::Take) {
            Ok(reading) => {
                bars += reading.bars;
                for (line, bad) in &reading.bad {
                    tools.report.complain(&line_of(path, *line), bad);
                }
                offer_all(ticker, &reading, emitter, tools.clock)?;
            }
            Err(error) => tools.report.complain(&path.display().to_string(), &error),
        }
        let sent = emitter.emitted();
        tools.report.progress(tools.clock.elapsed(), || format!("{done} of {count} files, {bars} bars, {sent} signals"));
    }
    Ok(bars)
}

fn walk(seed: u64, tickers: &[String], count: usize, emitter: &mut Emitter, tools: &mut Tools) -> Result<u64, Failure> {
    let mut bars = 0;
    for (done, ticker) in tickers.iter().enumerate() {
        let mut series = Series::default();
        for bar in RandomWalk::new(seed, ticker, date(2000, 1, 3)).take(count) {
            if tools.stop.is_asked() {
                return Ok(bars);
            }
            let cross = series.push(&bar).expect("a walk's bars are good and in order: its tests say so");
            if let Some(cross) = cross {
                emitter.offer(ticker, &cross, tools.clock.now())?;
            }
            bars += 1;
        }
        let (total, sent) = (tickers.len(), emitter.emitted());
        tools.report.progress(tools.clock.elapsed(), || format!("{done} of {total} tickers, {bars} bars, {sent} signals"));
    }
    Ok(bars)
}
