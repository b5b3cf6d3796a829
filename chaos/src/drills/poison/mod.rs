//! Ten million records, one in a hundred of them bad in one of 30 kinds, as fast as one dispatcher takes them: it must never
//! stand still, and each bad record must be accounted for. The same without poison, before and after, tells what it costs.
#![expect(clippy::print_stdout, reason = "the answer of the program")]

mod drain;
mod flow;
mod preload;
mod verdict;

use self::drain::Drained;
use self::flow::Flow;
use self::verdict::Account;
use super::{Broken, MAX_RESIDENT_MB};
use crate::options::Options;

/// The longest time without a decision while records wait.
const MAX_GAP_SECONDS: f64 = 1.0;
/// How much smaller the flows without poison are.
const CLEAN_SHARE: u64 = 5;

/// Runs the drill and prints its line.
pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    let (seed, count) = (options.seed, options.signals);
    let mut broken = Broken::default();
    let (before, _) = phase("clean-before", Flow::clean(seed, (count / CLEAN_SHARE).max(1)), seed, &mut broken)?;
    let (poisoned, account) = phase("poison", Flow::poisoned(seed, count), seed, &mut broken)?;
    let (after, _) = phase("clean-after", Flow::clean(seed, (count / CLEAN_SHARE).max(1)), seed, &mut broken)?;
    for text in &broken.0 {
        println!("    {text}");
    }
    println!(
        "poison {}: {} records, {} bad in {} kinds; in the dead-letter topic once {}, missing {}, twice {}, wrong {}; \
         counted as invalid {}, conservation gap {}, triggers {}, not started {}, extra messages {}; \
         stalls {}, longest gap {:.2} s, RSS at most {:.0} MB; {:.0}/s with poison, {:.0}/s and {:.0}/s without, \
         {:.0} dead letters/s (seed {seed})",
        broken.word(),
        count,
        account.bad,
        account.kinds,
        account.once,
        account.missing,
        account.twice,
        account.wrong,
        account.invalid,
        account.gap,
        account.triggers,
        account.not_started,
        account.extra_messages,
        poisoned.stalls,
        poisoned.longest_gap,
        poisoned.resident,
        poisoned.per_second,
        before.per_second,
        after.per_second,
        account.once as f64 / poisoned.seconds
    );
    Ok(broken.0.is_empty())
}

/// One flow into a topic and a database of its own, and out of it.
fn phase(name: &str, flow: Flow, seed: u64, broken: &mut Broken) -> anyhow::Result<(Drained, Account)> {
    let mut own = Broken::default();
    let ground = drain::Ground::prepare(name, flow, seed)?;
    let drained = ground.drain()?;
    let account = verdict::account(&ground, &drained, &mut own)?;
    own.unless(drained.longest_gap <= MAX_GAP_SECONDS, || {
        format!("nothing was decided for {:.2} s, {:.1} s after the first decision", drained.longest_gap, drained.gap_at)
    });
    own.unless(drained.resident <= MAX_RESIDENT_MB, || format!("the instance took {:.0} MB", drained.resident));
    println!(
        "    {name}: {} records in {:.1} s, {:.0}/s; first decision {:.1} s after the start, longest gap {:.2} s, RSS at most {:.0} MB; {}",
        flow.count,
        drained.seconds,
        drained.per_second,
        drained.first,
        drained.longest_gap,
        drained.resident,
        account.dispositions
    );
    ground.leave(own.0.is_empty())?;
    broken.0.extend(own.0.into_iter().map(|text| format!("{name}: {text}")));
    Ok((drained, account))
}
