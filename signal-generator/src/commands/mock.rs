//! `mock`: random signals at a steady rate, until a number, a time or a request to stop.

use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::{Failure, Tools};
use crate::config::MockJob;
use crate::kafka::SignalProducer;
use crate::mock::MockSignals;
use crate::pace::Pace;

/// How long the last signals may take to be acknowledged: librdkafka gives up on a record after five minutes.
const LAST_REPORTS: Duration = Duration::from_secs(310);
/// Asked to stop, one waits less.
const LAST_REPORTS_WHEN_STOPPED: Duration = Duration::from_secs(10);
/// Signals between two looks at the clock, at most.
const BURST: u64 = 1_000;
/// Longest sleep, so that a request to stop is noticed, and shortest: below it a sleep costs more than it is worth.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

pub(super) fn run(job: &MockJob, tools: &mut Tools) -> Result<(), Failure> {
    let seed = job.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    let mut signals = MockSignals::new(seed, job.tickers.clone()).with_source(&job.source);
    let producer = SignalProducer::new(&job.kafka, &job.topic)?;
    let pace = Pace::new(job.rate);
    let last = job.count.unwrap_or(u64::MAX);
    let begin = tools.clock.elapsed();
    let mut sent = 0;
    while sent < last && !tools.stop.is_asked() {
        let elapsed = tools.clock.elapsed().saturating_sub(begin);
        let time_over = job.time.is_some_and(|time| elapsed >= time);
        // What was due before the end still leaves, however late the last sleep woke up.
        let due = pace.due(job.time.map_or(elapsed, |time| elapsed.min(time.saturating_sub(Duration::from_nanos(1)))));
        let now = tools.clock.now();
        let now_due = due.min(last).min(sent + BURST);
        while sent < now_due && !tools.stop.is_asked() {
            let (ticker, payload) = signals.next(now);
            producer.send(&ticker, &payload)?;
            sent += 1;
        }
        if time_over && sent >= due.min(last) {
            break;
        }
        let acknowledged = producer.acknowledged();
        tools.report.progress(elapsed, || format!("{sent} signals sent, {acknowledged} acknowledged"));
        let wait = pace.wait(sent, tools.clock.elapsed().saturating_sub(begin));
        if sent < last && !wait.is_zero() {
            thread::sleep(wait.clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
        }
    }
    let seconds = tools.clock.elapsed().saturating_sub(begin).as_secs_f64();
    let patience = if tools.stop.is_asked() { LAST_REPORTS_WHEN_STOPPED } else { LAST_REPORTS };
    let acknowledged = producer.finish(patience)?;
    let rate = sent as f64 / seconds;
    tools.report.line(&format!("{acknowledged} signals acknowledged, sent in {seconds:.1} s: {rate:.0}/s, seed {seed}"));
    Ok(())
}
