use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::config::{CeleryConfig, Scope};
use crate::intake::{Record, Start};
use crate::rules::Rule;
use crate::store::memory::{MemoryClaims, MemoryStore, Progress};
use crate::store::{Claims as _, Verdict};
use crate::tasks::IdSpace;

const PARTITIONS: [i32; 3] = [0, 1, 2];
const TICKERS: [&str; 4] = ["A", "B", "C", "D"];

/// A record: its partition, the number of its signal, and its tickers; without any it is a bad one. The signal's number says
/// its direction, too: a signal that comes again says the same.
type Made = (i32, u32, BTreeSet<usize>);

fn terms(scope: Scope, most_slots: usize) -> Terms {
    let (ids, lease, margin) = (IdSpace::FORMER, Duration::from_secs(900), Duration::ZERO);
    Terms {
        topic: "signals".to_owned(),
        ids,
        scope,
        lease,
        margin,
        celery: CeleryConfig::of_defaults(),
        most_slots,
        waited_for: 0,
    }
}

fn rules(watched: &[BTreeSet<usize>]) -> Arc<RuleSet> {
    let rule = |(number, tickers): (u128, &BTreeSet<usize>)| Rule {
        pipeline_id: Uuid::from_u128(number + 1),
        user_id: None,
        tickers: tickers.iter().map(|ticker| TICKERS[*ticker].to_owned()).collect(),
        subscriptions: Vec::new(),
    };
    Arc::new(RuleSet::new((0..).zip(watched).map(rule).collect()))
}

/// Every fifth record is too old.
fn batch<'a>(starts: &[Start], records: impl IntoIterator<Item = (i64, &'a Made)>) -> Batch {
    let mut batch = Batch::default();
    for (offset, (partition, signal, tickers)) in records {
        let direction = ["BULLISH", "BEARISH", "", "BULLISH"][*signal as usize % 4];
        let ticker = |ticker: &usize| format!(r#"{{"ticker": "{}", "signal": "{direction}"}}"#, TICKERS[*ticker]);
        let tickers: Vec<_> = tickers.iter().map(ticker).collect();
        let payload = format!(r#"{{"signal_id": "signal {signal}", "tickers": [{}]}}"#, tickers.join(", "));
        let (payload, time_ms) = (Some(payload.as_bytes()), i64::from(offset % 5 != 4));
        let record = Record { partition: *partition, offset, time_ms, key: None, payload, headers: &Vec::new };
        let epoch = starts.iter().find(|start| start.partition == *partition).unwrap().epoch;
        batch.push(&record, epoch, 1, crate::clock::now());
    }
    batch
}

/// An instance: it opens all partitions and knows what was begun.
struct Owner {
    claims: MemoryClaims,
    starts: Vec<Start>,
    begun: Begun,
}

impl Owner {
    fn open(store: &MemoryStore) -> Self {
        let mut claims = store.claims(Duration::from_secs(900));
        let starts = claims.open(&PARTITIONS).now_or_never().unwrap().unwrap();
        let begun = claims.begun(&PARTITIONS).now_or_never().unwrap().unwrap().into_iter().collect();
        Self { claims, starts, begun }
    }

    /// Decides a batch, or so many requests of it. Returns how many slots each request had.
    fn decide(&mut self, rules: &Arc<RuleSet>, terms: &Terms, batch: Batch, requests: usize) -> Vec<usize> {
        let mut pass = Pass::new(batch, rules, terms, &self.begun);
        let mut sizes = Vec::new();
        while sizes.len() < requests {
            let request = pass.request(Uuid::new_v4(), terms);
            match self.claims.claim(&request).now_or_never().unwrap().unwrap() {
                Verdict::Claimed(claimed) => {
                    sizes.push(request.wanted.len());
                    pass.decided(&request, &claimed, &mut self.begun);
                    if !request.goes_on {
                        break;
                    }
                }
                Verdict::Known(positions) => pass.skip(&positions, terms),
                other => panic!("{other:?}"),
            }
        }
        sizes
    }
}

/// Some signals are decided already, and some of their executions are over.
fn prepared(rules: &Arc<RuleSet>, scope: Scope, earlier: &[Made], over: &BTreeSet<usize>) -> MemoryStore {
    let store = MemoryStore::default();
    let mut owner = Owner::open(&store);
    owner.decide(rules, &terms(scope, usize::MAX), batch(&owner.starts, (0..).zip(earlier)), usize::MAX);
    for (position, (id, trigger)) in store.ledger().into_iter().enumerate() {
        if over.contains(&position) {
            store.start_execution(id, trigger.pipeline_id, None);
            store.finish_execution(id, trigger.pipeline_id);
        }
    }
    store
}

/// Decides a batch whole, and returns how often the store was asked.
fn claims_of(owner: &mut Owner, rules: &Arc<RuleSet>, batch: Batch) -> usize {
    let terms = terms(Scope::Pipeline, usize::MAX);
    let mut pass = Pass::new(batch, rules, &terms, &owner.begun);
    for asked in 1.. {
        let request = pass.request(Uuid::new_v4(), &terms);
        match owner.claims.claim(&request).now_or_never().unwrap().unwrap() {
            Verdict::Claimed(_) => return asked,
            Verdict::Known(positions) => pass.skip(&positions, &terms),
            other => panic!("{other:?}"),
        }
    }
    unreachable!("it is asked until it has decided")
}

#[test]
fn records_that_state_a_known_id_cost_two_claims_however_many_they_are() {
    let rules = rules(&[[0].into(), [0, 1].into()]);
    // The ledger knows signal 0, and its execution is over.
    let store = prepared(&rules, Scope::Pipeline, &[(0, 0, [0].into())], &[0, 1].into());
    let mut owner = Owner::open(&store);
    // Of the 2,000, one states another id. It leads.
    let mut records: Vec<Made> = vec![(0, 0, [0].into()); 2_000];
    records[1_500] = (0, 3, [0].into());
    // Every fifth offset is too old.
    let offsets = (100..).filter(|offset| offset % 5 != 4);
    let batch = batch(&owner.starts, offsets.zip(&records));

    assert_eq!(claims_of(&mut owner, &rules, batch), 2);

    let progress = store.progress()[&0];
    assert_eq!((progress.triggered, progress.redelivered), (2, 1_999));
}

fn sum(progress: &Progress) -> i64 {
    let Progress { triggered, busy, redelivered, merged, unmatched, stale, invalid, .. } = *progress;
    triggered + busy + redelivered + merged + unmatched + stale + invalid
}

fn records() -> impl Strategy<Value = Vec<Made>> {
    let tickers = prop::collection::btree_set(0..TICKERS.len(), 0..3);
    prop::collection::vec((0..3_i32, 0..12_u32, tickers), 1..14)
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Pipeline), Just(Scope::Ticker)]
}

fn watched() -> impl Strategy<Value = Vec<BTreeSet<usize>>> {
    prop::collection::vec(prop::collection::btree_set(0..TICKERS.len(), 1..4), 1..7)
}

proptest! {
    #[test]
    fn parts_of_any_size_come_to_what_the_whole_comes_to(scope in scope(), watched in watched(), earlier in records(), later in records(),
        over in prop::collection::btree_set(0_usize..12, 0..8), most_slots in 1_usize..6)
    {
        let rules = rules(&watched);
        let first_offset = i64::try_from(earlier.len()).unwrap();
        let decided = |most_slots| {
            let store = prepared(&rules, scope, &earlier, &over);
            let mut owner = Owner::open(&store);
            let sizes = owner.decide(&rules, &terms(scope, most_slots), batch(&owner.starts, (first_offset..).zip(&later)), usize::MAX);
            assert_eq!(owner.begun, Begun::new());
            (store, sizes)
        };
        let (whole, sizes) = decided(usize::MAX);
        prop_assert_eq!(sizes.len(), 1);
        let (parts, sizes) = decided(most_slots);
        prop_assert!(sizes.iter().all(|size| *size <= most_slots), "{:?}", sizes);
        prop_assert_eq!(parts.progress(), whole.progress());
        let place = |store: &MemoryStore| -> Vec<_> {
            store.ledger().into_iter().map(|(id, trigger)| (id, trigger.partition, trigger.offset, trigger.kwargs)).collect()
        };
        prop_assert_eq!(place(&parts), place(&whole));
    }

    #[test]
    fn after_a_crash_between_two_parts_every_record_is_counted_once_and_all_that_triggered_as_triggered(scope in scope(), watched in watched(),
        earlier in records(), later in records(), over in prop::collection::btree_set(0_usize..12, 0..8), most_slots in 1_usize..4,
        requests in 1_usize..5, cut in 0_usize..14)
    {
        let rules = rules(&watched);
        let first_offset = i64::try_from(earlier.len()).unwrap();
        let store = prepared(&rules, scope, &earlier, &over);
        let mut first = Owner::open(&store);
        first.decide(&rules, &terms(scope, most_slots), batch(&first.starts, (first_offset..).zip(&later)), requests);

        // The next owner makes other batches of the same records; of those decided nothing is left to do.
        let mut next = Owner::open(&store);
        let is_left = |(offset, (partition, ..)): &(i64, &Made)| {
            next.starts.iter().any(|start| start.partition == *partition && *offset >= start.next_offset.unwrap_or(0))
        };
        let left: Vec<_> = (first_offset..).zip(&later).filter(is_left).collect();
        let (one, other) = left.split_at(cut.min(left.len()));
        for records in [one, other] {
            let batch = batch(&next.starts, records.iter().copied());
            if !batch.is_empty() {
                next.decide(&rules, &terms(scope, 2), batch, usize::MAX);
            }
        }
        prop_assert_eq!(&next.begun, &Begun::new());
        let leads: BTreeSet<_> = store.ledger().values().map(|trigger| (trigger.partition, trigger.offset)).collect();
        for (partition, progress) in store.progress() {
            let records = earlier.iter().chain(&later).filter(|(of, ..)| *of == partition).count();
            prop_assert_eq!(progress.consumed, i64::try_from(records).unwrap());
            prop_assert_eq!(progress.consumed, sum(&progress));
            prop_assert_eq!(progress.triggered, i64::try_from(leads.iter().filter(|(of, _)| *of == partition).count()).unwrap());
            prop_assert_eq!(progress.begun, None);
        }
    }
}
