//! Bars from Kafka, for `replay` (to the end that the topic has now) and `follow` (for ever).

use std::collections::HashMap;
use std::time::Duration;

use super::{Failure, Tools};
use crate::bar::{BadBar, Bar};
use crate::cross::Cross;
use crate::emitter::Emitter;
use crate::kafka::KafkaConfig;
use crate::kafka::bars::{BarTopic, Look};
use crate::series::Series;

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    CaughtUp,
    AskedToStop,
}

/// Signals leave when there is nothing to read for so long.
const QUIET: Duration = Duration::from_millis(100);
/// How often the number of partitions is checked, and a lasting trouble told.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// The number of good bars read.
pub(super) fn read(
    kafka: &KafkaConfig,
    topic: &str,
    until: Until,
    emitter: &mut Emitter,
    tools: &mut Tools,
) -> Result<u64, Failure> {
    let mut records = BarTopic::open(kafka, topic)?;
    let mut tickers: HashMap<String, Series> = HashMap::new();
    let mut bars = 0;
    let (mut next_check, mut next_trouble) = (CHECK_EVERY, Duration::ZERO);
    let mut caught_up = false;
    while !tools.stop.is_asked() {
        let look = records.look(QUIET);
        let elapsed = tools.clock.elapsed();
        match look {
            Look::Record(place, record) => match record.and_then(|record| push(&mut tickers, record)) {
                Ok((ticker, cross)) => {
                    bars += 1;
                    if let Some(cross) = cross {
                        emitter.offer(&ticker, &cross, tools.clock.now())?;
                    }
                }
                Err(bad) => tools.report.complain(&place, &bad),
            },
            Look::Quiet => emitter.flush()?,
            Look::CaughtUp => {
                emitter.flush()?;
                if until == Until::CaughtUp {
                    break;
                }
                if !std::mem::replace(&mut caught_up, true) {
                    tools.report.line(&format!("{bars} bars read, now following topic {topic}"));
                }
            }
            Look::Trouble(text) => {
                if elapsed >= next_trouble {
                    next_trouble = elapsed + CHECK_EVERY;
                    tools.report.line(&format!("topic {topic}: {text}; going on"));
                }
            }
        }
        if until == Until::AskedToStop && elapsed >= next_check {
            next_check = elapsed + CHECK_EVERY;
            records.check_partitions()?;
        }
        if !caught_up {
            let sent = emitter.emitted();
            tools.report.progress(elapsed, || format!("{bars} bars, {sent} signals"));
        }
    }
    Ok(bars)
}

fn push(tickers: &mut HashMap<String, Series>, (ticker, bar): (String, Bar)) -> Result<(String, Option<Cross>), BadBar> {
    let cross = tickers.entry(ticker.clone()).or_default().push(&bar)?;
    Ok((ticker, cross))
}
