//! What became of each record, against what was sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::drain::{Drained, Ground};
use super::flow::Flow;
use crate::drills::{Broken, conservation};
use crate::kafka::PARTITIONS;

/// The account of a flow.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) bad: u64,
    pub(super) kinds: usize,
    /// Bad records by how often they stand in the dead-letter topic.
    pub(super) once: u64,
    pub(super) missing: u64,
    pub(super) twice: u64,
    /// Dead letters of no bad record of ours, or with other bytes.
    pub(super) wrong: u64,
    pub(super) invalid: i64,
    pub(super) gap: i64,
    pub(super) triggers: u64,
    pub(super) not_started: u64,
    pub(super) extra_messages: u64,
    pub(super) dispositions: String,
}

/// What was sent, by partition.
#[derive(Debug, Clone, Default)]
struct Sent {
    records: i64,
    bad: i64,
    unmatched: i64,
}

pub(super) fn account(ground: &Ground, drained: &Drained, broken: &mut Broken) -> anyhow::Result<Account> {
    let mut account = Account::default();
    let mut sent = vec![Sent::default(); usize::try_from(PARTITIONS)?];
    let mut bad: HashMap<(i32, i64), u64> = HashMap::new();
    let mut kinds = BTreeSet::new();
    for number in 0..ground.flow.count {
        let sent = &mut sent[usize::try_from(Flow::partition(number))?];
        sent.records += 1;
        match ground.flow.bad_kind(number) {
            Some(kind) => {
                sent.bad += 1;
                kinds.insert(kind);
                bad.insert(Flow::place(number), number);
            }
            None if ground.platform.watchers(&ground.flow.tickers(number)).is_empty() => sent.unmatched += 1,
            None => {}
        }
    }
    (account.bad, account.kinds) = (bad.len() as u64, kinds.len());
    progress(ground, &sent, &mut account, broken)?;
    dead_letters(ground, &bad, &mut account, broken)?;
    tasks(ground, drained, &mut account, broken)?;
    Ok(account)
}

/// The store's counts against what stands in the topic, partition by partition.
fn progress(ground: &Ground, sent: &[Sent], account: &mut Account, broken: &mut Broken) -> anyhow::Result<()> {
    let sums = conservation::sums(&ground.platform)?;
    account.gap = sums.gap;
    broken.unless(sums.gap == 0, || format!("conservation: {sums:?}"));
    let reader = ground.topics.reader()?;
    let ends = ground.topics.ends(&reader)?;
    let mut client = ground.platform.connect_in_time()?;
    let rows = client.query(
        "select partition, next_offset, consumed, triggered, busy, redelivered, merged, unmatched, stale, invalid
         from dispatcher.progress order by partition",
        &[],
    )?;
    broken.unless(rows.len() == sent.len(), || format!("the store knows {} of {} partitions", rows.len(), sent.len()));
    let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
    for row in rows {
        let partition: i32 = row.try_get(0)?;
        let place = usize::try_from(partition)?;
        let (sent, end) = (&sent[place], ends[place]);
        let next: i64 = row.try_get(1)?;
        let count = |name: &str| row.try_get::<_, i64>(name);
        let wanted = [("consumed", sent.records), ("invalid", sent.bad), ("unmatched", sent.unmatched), ("stale", 0)];
        broken.unless(end == sent.records && next == end, || {
            format!("partition {partition} ends at {end}, is decided up to {next}, and {} were sent", sent.records)
        });
        for (name, wanted) in wanted {
            let found = count(name)?;
            broken.unless(found == wanted, || format!("partition {partition}: {found} {name}, and {wanted} were sent"));
        }
        account.invalid += count("invalid")?;
        for name in ["triggered", "busy", "redelivered", "merged", "unmatched", "stale", "invalid"] {
            *totals.entry(name).or_default() += count(name)?;
        }
    }
    let words: Vec<_> = totals.iter().map(|(name, count)| format!("{name} {count}")).collect();
    account.dispositions = words.join(", ");
    Ok(())
}

/// Nothing crashed: each bad record stands there exactly once, with its bytes, under the place that it came from.
fn dead_letters(
    ground: &Ground,
    bad: &HashMap<(i32, i64), u64>,
    account: &mut Account,
    broken: &mut Broken,
) -> anyhow::Result<()> {
    let mut found: HashMap<(i32, i64), u64> = HashMap::new();
    let mut first_wrong = None;
    ground.topics.read_all(&ground.topics.dead_letters, |letter| {
        let header = |name: &str| letter.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let place = header("dead-letter-partition")
            .and_then(|partition| partition.parse().ok())
            .zip(header("dead-letter-offset").and_then(|offset| offset.parse().ok()));
        let number = place.and_then(|place| bad.get(&place));
        let is_right = number.is_some_and(|number| letter.payload == ground.flow.payload(*number))
            && header("dead-letter-topic") == Some(&ground.topics.signals)
            && header("dead-letter-reason").is_some_and(|reason| !reason.is_empty());
        if let (Some(place), true) = (place, is_right) {
            *found.entry(place).or_default() += 1;
        } else {
            account.wrong += 1;
            first_wrong.get_or_insert((letter.partition, letter.offset));
        }
    })?;
    account.once = found.values().filter(|times| **times == 1).count() as u64;
    account.twice = found.values().filter(|times| **times > 1).count() as u64;
    account.missing = bad.keys().filter(|place| !found.contains_key(place)).count() as u64;
    broken.unless(account.missing == 0, || {
        let first = bad.keys().find(|place| !found.contains_key(place));
        format!("{} bad records are not in the dead-letter topic, one of them at {first:?}", account.missing)
    });
    broken.unless(account.twice == 0, || format!("{} bad records are there more than once", account.twice));
    broken.unless(account.wrong == 0, || format!("{} dead letters are of no bad record, one at {first_wrong:?}", account.wrong));
    Ok(())
}

/// Every trigger came by one message and started.
fn tasks(ground: &Ground, drained: &Drained, account: &mut Account, broken: &mut Broken) -> anyhow::Result<()> {
    let rows = ground.platform.connect_in_time()?.query("select trigger_id from dispatcher.triggers", &[])?;
    let ledger: HashSet<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let started: HashSet<Uuid> = drained.seen.starts.iter().map(|start| start.trigger_id).collect();
    let received: HashSet<Uuid> = drained.seen.received.iter().map(|message| message.delivery.trigger_id).collect();
    account.triggers = ledger.len() as u64;
    account.not_started = ledger.difference(&started).count() as u64;
    account.extra_messages = (drained.seen.received.len() - received.len()) as u64;
    let unknown = received.difference(&ledger).count();
    broken.unless(account.triggers > 0, || "nothing was triggered: the flow proves little".to_owned());
    broken.unless(account.not_started == 0, || format!("{} triggers never started", account.not_started));
    broken.unless(account.extra_messages == 0, || format!("{} messages too many", account.extra_messages));
    broken.unless(drained.seen.starts.len() == started.len(), || "a trigger started twice".to_owned());
    broken.unless(unknown == 0 && drained.seen.unreadable.is_empty(), || {
        format!("{unknown} messages of no trigger, {} that no worker can read", drained.seen.unreadable.len())
    });
    Ok(())
}
