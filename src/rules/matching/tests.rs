use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::index::Owner;
use super::super::rule::{Rule, RuleRow, Subscription};
use super::*;
use crate::intake::Record;

fn pipeline(number: u128, tickers: &[&str]) -> Rule {
    let tickers = tickers.iter().map(|ticker| (*ticker).to_owned()).collect();
    Rule { pipeline_id: Uuid::from_u128(number), user_id: Some(format!("user-{number}")), tickers, subscriptions: Vec::new() }
}

fn subscribed(number: u128, tickers: &[&str], subscriptions: &[Subscription]) -> Rule {
    Rule { subscriptions: subscriptions.to_vec(), ..pipeline(number, tickers) }
}

/// A signal about tickers, each with a confidence.
fn signal(tickers: &[(&str, Option<f64>)]) -> Value {
    let tickers: Vec<_> =
        tickers.iter().map(|(ticker, confidence)| json!({"ticker": ticker, "confidence": confidence})).collect();
    json!({"signal_type": "golden_cross", "tickers": tickers, "metadata": {"timeframe": "1d"}})
}

fn about(tickers: &[&str]) -> Value {
    signal(&tickers.iter().map(|ticker| (*ticker, None)).collect::<Vec<_>>())
}

/// Signals on partition 0, in order.
fn batch(signals: &[Value]) -> Batch {
    partitioned(signals.iter().map(|signal| (0, signal.clone())))
}

fn partitioned(signals: impl IntoIterator<Item = (i32, Value)>) -> Batch {
    let mut batch = Batch::default();
    for (offset, (partition, signal)) in (0..).zip(signals) {
        let payload = signal.to_string();
        let record = Record { partition, offset, time_ms: 0, key: None, payload: Some(payload.as_bytes()), headers: &Vec::new };
        batch.push(&record, 1, 0, crate::clock::now());
    }
    assert!(batch.rejected().is_empty(), "{:?}", batch.rejected());
    batch
}

/// A slot as people name it, and what leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    pipeline: u128,
    /// Only where a slot is a (pipeline, ticker).
    ticker: Option<String>,
    signal: u32,
    tickers: Vec<String>,
    /// The newest mention of each ticker, by its position in the batch.
    newest: Vec<u32>,
    shared: bool,
}

fn slots(batch: &Batch, matches: &Matches) -> Vec<Slot> {
    let tickers = |candidate: &Candidate| {
        let mentions = matches.mentions(candidate);
        mentions.map(|mention| batch.text(batch.mention(mention).ticker).to_owned()).collect::<Vec<_>>()
    };
    let candidates = matches.candidates.iter();
    candidates
        .map(|candidate| Slot {
            pipeline: matches.rules.pipeline_id(candidate.pipeline).as_u128(),
            ticker: (candidate.ticker != WHOLE).then(|| tickers(candidate).remove(0)),
            signal: candidate.signal,
            tickers: tickers(candidate),
            newest: matches.mentions(candidate).collect(),
            shared: candidate.shared,
        })
        .collect()
}

fn matched(rules: &[Rule], batch: &Batch, scope: Scope) -> Matches {
    Arc::new(RuleSet::new(rules.to_vec())).match_batch(batch, scope, &Skips::default())
}

fn pipelines(rules: &[Rule], signals: &[Value]) -> Vec<u128> {
    let batch = batch(signals);
    slots(&batch, &matched(rules, &batch, Scope::Pipeline)).into_iter().map(|slot| slot.pipeline).collect()
}

fn counts(unmatched: i64, merged: i64, redelivered: i64) -> PartitionCounts {
    PartitionCounts { unmatched, merged, redelivered, ..PartitionCounts::default() }
}

mod examples {
    use super::*;

    #[test]
    fn the_published_example_wants_each_pipeline_once() {
        let rules = [pipeline(123, &["AAPL"]), pipeline(456, &["MSFT"])];
        let batch = batch(&[about(&["AAPL"]), about(&["MSFT"]), about(&["AAPL"])]);
        let matches = matched(&rules, &batch, Scope::Pipeline);
        let slot = |pipeline, signal, ticker: &str, newest, shared| Slot {
            pipeline,
            ticker: None,
            signal,
            tickers: vec![ticker.to_owned()],
            newest: vec![newest],
            shared,
        };
        assert_eq!(slots(&batch, &matches), [slot(123, 0, "AAPL", 2, true), slot(456, 1, "MSFT", 1, false)]);
        assert_eq!((matches.counts[&0], matches.pairs), (counts(0, 1, 0), 3));
    }

    #[test]
    fn a_signal_that_nobody_watches_is_unmatched_and_counted_by_partition() {
        let rules = [pipeline(1, &["AAPL"])];
        let batch = partitioned([(4, about(&["MSFT"])), (4, about(&["GOOG"])), (9, about(&["AAPL"]))]);
        let matches = matched(&rules, &batch, Scope::Pipeline);
        assert_eq!((matches.counts[&4], matches.counts[&9]), (counts(2, 0, 0), counts(0, 0, 0)));
        assert_eq!(matches.candidates.len(), 1);
    }

    #[test]
    fn without_rules_everything_is_unmatched() {
        let batch = batch(&[about(&["AAPL"]), about(&["MSFT"])]);
        let matches = matched(&[], &batch, Scope::Ticker);
        assert_eq!((matches.candidates.len(), matches.counts[&0], matches.pairs), (0, counts(2, 0, 0), 0));
    }

    #[test]
    fn one_trigger_of_a_pipeline_names_all_tickers_that_matched_in_the_batch_each_once() {
        let rules = [pipeline(1, &["AAPL", "MSFT", "GOOG"])];
        let batch = batch(&[about(&["MSFT", "XYZ", "MSFT"]), about(&["AAPL", "MSFT"])]);
        let slots = slots(&batch, &matched(&rules, &batch, Scope::Pipeline));
        assert_eq!(slots[0].tickers, ["MSFT", "AAPL"]);
    }

    #[test]
    fn a_slot_of_the_ticker_scope_has_one_ticker() {
        let rules = [pipeline(1, &["AAPL", "MSFT"]), pipeline(2, &["MSFT"])];
        let batch = batch(&[about(&["MSFT", "AAPL"])]);
        let matches = matched(&rules, &batch, Scope::Ticker);
        let names: Vec<_> =
            slots(&batch, &matches).into_iter().map(|slot| (slot.pipeline, slot.ticker.unwrap(), slot.tickers.len())).collect();
        assert_eq!(names, [(1, "AAPL".to_owned(), 1), (1, "MSFT".to_owned(), 1), (2, "MSFT".to_owned(), 1)]);
        assert_eq!((matches.counts[&0], matches.pairs), (counts(0, 0, 0), 3));
    }

    #[test]
    fn a_signal_that_leads_one_slot_and_joins_another_is_not_merged() {
        let rules = [pipeline(1, &["AAPL"]), pipeline(2, &["AAPL", "MSFT"])];
        let batch = batch(&[about(&["MSFT"]), about(&["AAPL"]), about(&["AAPL"])]);
        let matches = matched(&rules, &batch, Scope::Pipeline);
        assert_eq!(matches.counts[&0], counts(0, 1, 0));
    }

    #[test]
    fn slots_are_claimed_in_the_order_of_their_ids_whatever_came_first() {
        let rules = [pipeline(3, &["C", "A"]), pipeline(1, &["C"]), pipeline(2, &["B", "A"])];
        let batch = batch(&[about(&["C"]), about(&["B"]), about(&["A"])]);
        assert_eq!(pipelines(&rules, &[about(&["C", "B", "A"])]), [1, 2, 3]);
        let slots = slots(&batch, &matched(&rules, &batch, Scope::Ticker));
        let order: Vec<_> = slots.iter().map(|slot| (slot.pipeline, slot.ticker.as_deref().unwrap())).collect();
        assert_eq!(order, [(1, "C"), (2, "A"), (2, "B"), (3, "A"), (3, "C")]);
    }

    #[test]
    fn a_very_wide_match_names_256_tickers_and_still_counts_as_one() {
        let names: Vec<_> = (0..300).map(|number| format!("T{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let batch = batch(&[about(&names)]);
        let matches = matched(&[pipeline(1, &names)], &batch, Scope::Pipeline);
        assert_eq!((matches.mentions(&matches.candidates[0]).count(), matches.pairs), (256, 1));
        assert_eq!(matched(&[pipeline(1, &names)], &batch, Scope::Ticker).candidates.len(), 300);
    }

    #[test]
    fn a_pipeline_knows_its_owner() {
        let rules = RuleSet::new(vec![pipeline(2, &["A"]), pipeline(1, &["A", "B"])]);
        let owner = |number| serde_json::to_value(rules.owner(number)).unwrap();
        assert_eq!((owner(0), owner(1)), (json!("user-1"), json!("user-2")));
        assert_eq!((rules.len(), rules.tickers(), rules.is_empty()), (2, 2, false));
    }

    #[test]
    fn an_owner_is_told_as_the_platform_wrote_it() {
        for (name, is_id) in [
            ("6f1f7a3e-1a55-4d6a-9a43-6a0f4f0d1b2c", true),
            ("6F1F7A3E-1A55-4D6A-9A43-6A0F4F0D1B2C", false),
            ("6f1f7a3e1a554d6a9a436a0f4f0d1b2c", false),
            ("{6f1f7a3e-1a55-4d6a-9a43-6a0f4f0d1b2c}", false),
            ("42", false),
            ("", false),
        ] {
            let owner = Owner::from(name.to_owned());
            assert_eq!(serde_json::to_value(&owner).unwrap(), json!(name));
            assert_eq!(matches!(owner, Owner::Id(_)), is_id, "{name}");
        }
    }

    #[test]
    fn a_ticker_that_a_rule_names_twice_is_watched_once() {
        let rules = RuleSet::new(vec![pipeline(2, &["B", "A", "B"]), pipeline(1, &["B", "B"])]);
        let watchers = |name| rules.watchers(rules.ticker(crate::intake::ticker_key(name), || name).unwrap());
        assert_eq!((watchers("A"), watchers("B")), (&[1][..], &[0, 1][..]));
    }
}

mod directions {
    use super::*;

    /// A signal about tickers, each with a direction.
    fn directed(tickers: &[(&str, &str)]) -> Value {
        let tickers: Vec<_> = tickers.iter().map(|(ticker, direction)| json!({"ticker": ticker, "signal": direction})).collect();
        json!({"tickers": tickers})
    }

    /// What a pipeline that watches A and B makes of signals.
    fn made(signals: &[&[(&str, &str)]], scope: Scope) -> (Vec<Slot>, PartitionCounts) {
        let batch = batch(&signals.iter().map(|tickers| directed(tickers)).collect::<Vec<_>>());
        let matches = matched(&[pipeline(1, &["A", "B"])], &batch, scope);
        let counts = matches.counts[&0];
        // What the log's `skipped_running` rests on: each signal and slot once.
        let wanted: u64 = if scope == Scope::Pipeline { signals.len() as u64 } else { matches.pairs };
        assert_eq!(matches.pairs, wanted);
        (slots(&batch, &matches), counts)
    }

    fn counted(merged: i64, busy: i64) -> PartitionCounts {
        PartitionCounts { merged, busy, ..PartitionCounts::default() }
    }

    #[test]
    fn a_signal_that_opposes_the_leader_is_busy_and_could_lead() {
        for scope in [Scope::Pipeline, Scope::Ticker] {
            let (slots, counts) = made(&[&[("A", "BULLISH")], &[("A", "BEARISH")]], scope);
            assert_eq!((slots.len(), slots[0].signal, &slots[0].newest, slots[0].shared), (1, 0, &vec![0], true));
            assert_eq!(counts, counted(0, 1));
        }
    }

    #[test]
    fn the_newest_mention_of_the_same_direction_is_kept_whatever_opposes_it() {
        let signals: [&[_]; 4] = [&[("A", "BULLISH")], &[("A", " bullish")], &[("A", "BEARISH")], &[("A", "Bullish")]];
        let (slots, counts) = made(&signals, Scope::Pipeline);
        assert_eq!((&slots[0].newest, counts), (&vec![3], counted(2, 1)));
        let (slots, counts) = made(&signals[..3], Scope::Ticker);
        assert_eq!((&slots[0].newest, counts), (&vec![1], counted(1, 1)));
    }

    #[test]
    fn an_absent_direction_joins_any_and_takes_the_place_of_none() {
        let (slots, counts) = made(&[&[("A", "")], &[("A", "BULLISH")], &[("A", "")], &[("A", "BEARISH")]], Scope::Pipeline);
        assert_eq!((slots[0].signal, &slots[0].newest, counts), (0, &vec![1], counted(2, 1)));
        let (slots, counts) = made(&[&[("A", "")], &[("A", "")]], Scope::Pipeline);
        assert_eq!((&slots[0].newest, counts), (&vec![1], counted(1, 0)));
    }

    #[test]
    fn directions_of_different_tickers_are_never_opposite() {
        let (slots, counts) = made(&[&[("A", "BULLISH"), ("B", "BEARISH")]], Scope::Pipeline);
        assert_eq!((slots[0].tickers.as_slice(), counts), (["A".to_owned(), "B".to_owned()].as_slice(), counted(0, 0)));
        let (slots, counts) = made(&[&[("A", "BULLISH")], &[("B", "BEARISH")], &[("B", "BULLISH")]], Scope::Pipeline);
        assert_eq!((&slots[0].newest, counts), (&vec![0, 1], counted(1, 1)));
    }

    #[test]
    fn of_a_signal_that_contradicts_itself_the_first_mention_counts() {
        for scope in [Scope::Pipeline, Scope::Ticker] {
            let (slots, counts) = made(&[&[("A", "BULLISH"), ("A", "BEARISH"), ("A", "BULLISH")]], scope);
            assert_eq!((slots.len(), slots[0].signal, &slots[0].newest, slots[0].shared), (1, 0, &vec![2], false));
            assert_eq!(counts, counted(0, 0));
        }
    }

    #[test]
    fn a_signal_of_which_a_part_is_opposed_is_busy_unless_it_leads() {
        // Whatever comes first of its tickers.
        for second in [[("A", "BEARISH"), ("B", "BULLISH")], [("B", "BULLISH"), ("A", "BEARISH")]] {
            let (slots, counts) = made(&[&[("A", "BULLISH")], &second], Scope::Pipeline);
            assert_eq!((slots[0].tickers.as_slice(), counts), (["A".to_owned(), "B".to_owned()].as_slice(), counted(0, 1)));
            let (slots, counts) = made(&[&[("A", "BULLISH")], &second], Scope::Ticker);
            assert_eq!((slots[1].ticker.as_deref(), slots[1].signal, counts), (Some("B"), 1, counted(0, 0)));
        }
    }

    #[test]
    fn an_opposed_signal_leads_where_the_ledger_knows_the_first_and_the_first_is_redelivered() {
        let rules = Arc::new(RuleSet::new(vec![pipeline(1, &["A"]), pipeline(2, &["A"])]));
        let batch = batch(&[directed(&[("A", "BULLISH")]), directed(&[("A", "BEARISH")]), directed(&[("A", "BULLISH")])]);
        let skip = |pipeline, signal| Skip { pipeline, ticker: WHOLE, signal };
        let matches = rules.match_batch(&batch, Scope::Pipeline, &Skips::from_iter([skip(0, 0), skip(1, 0)]));
        let leaders: Vec<_> = slots(&batch, &matches).into_iter().map(|slot| (slot.signal, slot.shared)).collect();
        assert_eq!((leaders, matches.counts[&0]), (vec![(1, true), (1, true)], PartitionCounts { busy: 1, ..counts(0, 0, 1) }));
        // Known to the ledger in one slot and opposed in the other: the word is that of the claim, which sees only the first.
        let matches = rules.match_batch(&batch, Scope::Pipeline, &Skips::from_iter([skip(0, 1)]));
        assert_eq!(matches.counts[&0], counts(0, 1, 1));
    }
}

mod redelivery {
    use super::*;

    fn skipping(signals: &[Value], scope: Scope, skips: &[Skip]) -> (Vec<Slot>, PartitionCounts) {
        let rules = Arc::new(RuleSet::new(vec![pipeline(1, &["AAPL", "MSFT"]), pipeline(2, &["AAPL"])]));
        let batch = batch(signals);
        let matches = rules.match_batch(&batch, scope, &skips.iter().copied().collect());
        (slots(&batch, &matches), matches.counts[&0])
    }

    fn skip(pipeline: u32, signal: u32) -> Skip {
        Skip { pipeline, ticker: WHOLE, signal }
    }

    #[test]
    fn a_signal_that_the_ledger_knows_for_all_its_slots_is_redelivered() {
        let (slots, count) = skipping(&[about(&["AAPL"])], Scope::Pipeline, &[skip(0, 0), skip(1, 0)]);
        assert_eq!((slots.len(), count), (0, counts(0, 0, 1)));
    }

    #[test]
    fn the_next_signal_leads_where_the_first_is_known() {
        let (slots, count) = skipping(&[about(&["AAPL"]), about(&["AAPL"])], Scope::Pipeline, &[skip(0, 0), skip(1, 0)]);
        assert_eq!(
            slots.iter().map(|slot| (slot.pipeline, slot.signal, slot.shared)).collect::<Vec<_>>(),
            [(1, 1, false), (2, 1, false)]
        );
        assert_eq!(count, counts(0, 0, 1));
    }

    #[test]
    fn a_signal_that_is_known_for_one_slot_and_leads_another_is_not_redelivered() {
        let (slots, count) = skipping(&[about(&["AAPL"])], Scope::Pipeline, &[skip(0, 0)]);
        assert_eq!((slots.len(), slots[0].pipeline, count), (1, 2, counts(0, 0, 0)));
    }

    #[test]
    fn a_signal_that_is_known_where_it_would_lead_and_merged_elsewhere_is_redelivered() {
        let (slots, count) = skipping(&[about(&["MSFT"]), about(&["AAPL"])], Scope::Pipeline, &[skip(1, 1)]);
        assert_eq!((slots.len(), slots[0].shared, count), (1, true, counts(0, 0, 1)));
    }

    #[test]
    fn a_known_signal_lends_no_tickers_to_the_one_that_leads() {
        let (slots, _) = skipping(&[about(&["MSFT"]), about(&["AAPL"])], Scope::Pipeline, &[skip(0, 0)]);
        assert_eq!((slots[0].pipeline, &slots[0].tickers), (1, &vec!["AAPL".to_owned()]));
    }

    #[test]
    fn in_the_ticker_scope_only_the_known_ticker_is_skipped() {
        let rules = Arc::new(RuleSet::new(vec![pipeline(1, &["AAPL", "MSFT"])]));
        let batch = batch(&[about(&["AAPL", "MSFT"])]);
        let first = rules.match_batch(&batch, Scope::Ticker, &Skips::default());
        let known = Skip { pipeline: 0, ticker: first.candidates[0].ticker, signal: 0 };
        let matches = rules.match_batch(&batch, Scope::Ticker, &Skips::from_iter([known]));
        assert_eq!(slots(&batch, &matches)[0].ticker.as_deref(), Some("MSFT"));
        assert_eq!((matches.candidates.len(), matches.counts[&0]), (1, counts(0, 0, 0)));
    }
}

mod subscriptions {
    use super::*;

    fn typed(signal_type: &str) -> Subscription {
        Subscription { signal_type: Some(signal_type.to_owned()), ..Subscription::default() }
    }

    fn confident(least: f64) -> Subscription {
        Subscription { min_confidence: Some(least), ..Subscription::default() }
    }

    fn framed(timeframe: &str) -> Subscription {
        Subscription { timeframe: Some(timeframe.to_owned()), ..Subscription::default() }
    }

    fn accepts(subscriptions: &[Subscription], signal: Value) -> bool {
        !pipelines(&[subscribed(1, &["AAPL"], subscriptions)], &[signal]).is_empty()
    }

    #[test]
    fn without_one_every_type_is_accepted() {
        assert!(accepts(&[], json!({"tickers": [{"ticker": "AAPL"}]})));
        assert!(accepts(&[Subscription::default()], about(&["AAPL"])));
    }

    #[test]
    fn a_type_is_compared_as_it_is_written() {
        assert!(accepts(&[typed("golden_cross")], about(&["AAPL"])));
        assert!(!accepts(&[typed("Golden_Cross")], about(&["AAPL"])));
        assert!(!accepts(&[typed("golden_cross")], json!({"tickers": [{"ticker": "AAPL"}]})));
    }

    #[test]
    fn a_minimum_is_met_exactly_and_never_by_a_missing_confidence() {
        for (confidence, met) in [(Some(80.0), true), (Some(79.999), false), (None, false), (Some(1e300), true)] {
            assert_eq!(accepts(&[confident(80.0)], signal(&[("AAPL", confidence)])), met, "{confidence:?}");
        }
    }

    #[test]
    fn the_confidence_that_counts_is_the_tickers_own() {
        let rules = [subscribed(1, &["AAPL", "MSFT"], &[confident(80.0)])];
        let batch = batch(&[signal(&[("AAPL", Some(10.0)), ("MSFT", Some(90.0)), ("GOOG", Some(99.0))])]);
        assert_eq!(slots(&batch, &matched(&rules, &batch, Scope::Pipeline))[0].tickers, ["MSFT"]);
    }

    #[test]
    fn a_subscription_without_a_timeframe_accepts_every_timeframe_and_one_with_needs_it() {
        let without = json!({"signal_type": "golden_cross", "tickers": [{"ticker": "AAPL"}]});
        assert!(accepts(&[typed("golden_cross")], without.clone()));
        assert!(!accepts(&[framed("1d")], without));
        assert!(accepts(&[framed("1d")], about(&["AAPL"])));
        assert!(accepts(&[framed("1d")], json!({"tickers": [{"ticker": "AAPL"}], "metadata": {"timeframe": " 1d "}})));
        assert!(!accepts(&[framed("1h")], about(&["AAPL"])));
        assert!(!accepts(&[framed("1")], json!({"tickers": [{"ticker": "AAPL"}], "metadata": {"timeframe": 1}})));
    }

    #[test]
    fn one_subscription_must_accept_all_of_it_and_any_one_is_enough() {
        let both = Subscription { min_confidence: Some(80.0), ..typed("golden_cross") };
        assert!(!accepts(&[both.clone(), typed("death_cross")], signal(&[("AAPL", Some(50.0))])));
        assert!(accepts(&[typed("death_cross"), both], signal(&[("AAPL", Some(80.0))])));
    }
}

#[test]
fn the_examples_in_the_docs_are_true() {
    let page = include_str!("../../../docs/rules.md");
    let mut seen = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", subscriptions, kind, confidence, timeframe, answer, ""] = cells[..] else { continue };
        let Some(subscriptions) = subscriptions.strip_prefix('`').and_then(|text| text.strip_suffix('`')) else { continue };
        if subscriptions == "signal_subscriptions" {
            continue;
        }
        let said = |cell: &str| Some(cell.to_owned()).filter(|cell| cell != "–");
        let confidence = said(confidence).map(|number| number.parse::<f64>().unwrap());
        let signal = json!({
            "signal_type": said(kind), "tickers": [{"ticker": "AAPL", "confidence": confidence}], "metadata": {"timeframe": said(timeframe)},
        });
        let (tickers, subscriptions) = (Some(r#"["AAPL"]"#.to_owned()), Some(subscriptions.to_owned()));
        let row = RuleRow { tickers, subscriptions, ..RuleRow::default() };
        let is = match Rule::try_from(&row) {
            Err(_) => "is skipped",
            Ok(rule) => {
                if pipelines(&[rule], &[signal]).is_empty() {
                    "declines"
                } else {
                    "accepts"
                }
            }
        };
        assert_eq!(is, answer, "{line}");
        *seen.entry(answer).or_insert(0) += 1;
    }
    assert!(seen.len() == 3 && seen.values().all(|examples| *examples > 3), "{seen:?}");
}

/// Looks at every pipeline for every signal, as the service that we replace did, but says what should come out.
mod oracle {
    use super::*;

    #[derive(Debug, PartialEq)]
    pub(super) struct Expected {
        pub(super) slots: Vec<Slot>,
        /// Unmatched, merged, redelivered, busy.
        pub(super) counts: BTreeMap<i32, [i64; 4]>,
        pub(super) pairs: u64,
    }

    /// A pipeline, and a ticker if the scope has it.
    type Key = (u128, Option<String>);

    /// A (pipeline, ticker if the scope has it, signal) that must not lead.
    pub(super) type Known = BTreeSet<(u128, Option<String>, u32)>;

    /// A mention that a rule accepts.
    struct Wanted {
        ticker: String,
        direction: String,
        position: u32,
    }

    pub(super) fn expected(rules: &[Rule], signals: &[(i32, Value)], scope: Scope, known: &Known) -> Expected {
        let mut slots: BTreeMap<Key, Slot> = BTreeMap::new();
        // What each slot says of each of its tickers: the direction, and its newest mention.
        let mut said: BTreeMap<(Key, String), (String, u32)> = BTreeMap::new();
        let mut expected = Expected { slots: Vec::new(), counts: BTreeMap::new(), pairs: 0 };
        let mut first_mention = 0;
        for (position, (partition, signal)) in (0..).zip(signals) {
            let mentions = signal["tickers"].as_array().unwrap();
            let mut wanted: BTreeMap<Key, Vec<Wanted>> = BTreeMap::new();
            for rule in rules {
                for (position, mention) in (first_mention..).zip(mentions) {
                    let ticker = mention["ticker"].as_str().unwrap().to_owned();
                    if rule.tickers.contains(&ticker) && accepts(rule, signal, mention) {
                        let key = (rule.pipeline_id.as_u128(), (scope == Scope::Ticker).then(|| ticker.clone()));
                        let direction = mention["signal"].as_str().unwrap_or_default().to_uppercase();
                        wanted.entry(key).or_default().push(Wanted { ticker, direction, position });
                    }
                }
            }
            first_mention += u32::try_from(mentions.len()).unwrap();
            let (mut leads, mut is_known, mut is_opposed) = (false, false, false);
            for (key, mentions) in &wanted {
                let (pipeline, slot_ticker) = key.clone();
                if known.contains(&(pipeline, slot_ticker.clone(), position)) {
                    is_known = true;
                    continue;
                }
                expected.pairs += 1;
                let is_first = !slots.contains_key(key);
                let slot = slots.entry(key.clone()).or_insert_with(|| Slot {
                    pipeline,
                    ticker: slot_ticker,
                    signal: position,
                    tickers: Vec::new(),
                    newest: Vec::new(),
                    shared: false,
                });
                leads |= is_first;
                slot.shared |= !is_first;
                for Wanted { ticker, direction, position } in mentions {
                    if !slot.tickers.contains(ticker) {
                        slot.tickers.push(ticker.clone());
                    }
                    let said = said.entry((key.clone(), ticker.clone())).or_insert((direction.clone(), *position));
                    if *direction == said.0 || said.0.is_empty() {
                        *said = (direction.clone(), *position);
                    } else if !direction.is_empty() {
                        is_opposed = true;
                    }
                }
            }
            let count = expected.counts.entry(*partition).or_default();
            match (wanted.is_empty(), leads, is_known, is_opposed) {
                (true, ..) => count[0] += 1,
                (_, true, ..) => {}
                (_, _, true, _) => count[2] += 1,
                (.., true) => count[3] += 1,
                _ => count[1] += 1,
            }
        }
        expected.slots = slots.into_values().collect();
        for slot in &mut expected.slots {
            let newest = |ticker: &String| said[&((slot.pipeline, slot.ticker.clone()), ticker.clone())].1;
            slot.newest = slot.tickers.iter().map(newest).collect();
        }
        expected
    }

    fn accepts(rule: &Rule, signal: &Value, mention: &Value) -> bool {
        let meets = |subscription: &Subscription| {
            let is_type = subscription.signal_type.as_ref().is_none_or(|wanted| signal["signal_type"] == wanted.as_str());
            let is_sure = subscription
                .min_confidence
                .is_none_or(|least| mention["confidence"].as_f64().is_some_and(|found| found >= least));
            let is_frame =
                subscription.timeframe.as_ref().is_none_or(|wanted| signal["metadata"]["timeframe"] == wanted.as_str());
            is_type && is_sure && is_frame
        };
        rule.subscriptions.is_empty() || rule.subscriptions.iter().any(meets)
    }
}

mod random {
    use super::oracle::{Known, expected};
    use super::*;

    const TICKERS: [&str; 6] = ["A", "AA", "B", "MÜNCH", "C", "D"];

    fn rule() -> impl Strategy<Value = (Vec<String>, Vec<Subscription>)> {
        let subscription = (prop::option::of(0..3_usize), prop::option::of(0..4_u8), prop::option::of(0..3_usize)).prop_map(
            |(kind, least, frame)| Subscription {
                signal_type: kind.map(|kind| ["golden_cross", "death_cross", "news"][kind].to_owned()),
                min_confidence: least.map(|least| f64::from(least) * 25.0),
                timeframe: frame.map(|frame| ["1d", "1h", "5m"][frame].to_owned()),
            },
        );
        (prop::collection::btree_set(0..TICKERS.len(), 0..4), prop::collection::vec(subscription, 0..3)).prop_map(
            |(tickers, subscriptions)| (tickers.into_iter().map(|ticker| TICKERS[ticker].to_owned()).collect(), subscriptions),
        )
    }

    fn signal() -> impl Strategy<Value = (i32, Value)> {
        let directions =
            prop::sample::select(vec![None, Some(""), Some("BULLISH"), Some("Bullish"), Some("BEARISH"), Some("NEUTRAL")]);
        let mention = (0..TICKERS.len() + 1, prop::option::of(0..5_u8), directions).prop_map(|(ticker, quarter, direction)| {
            let confidence = quarter.map(|quarter| f64::from(quarter) * 25.0);
            json!({"ticker": TICKERS.get(ticker).unwrap_or(&"NOBODY"), "confidence": confidence, "signal": direction})
        });
        let kind = prop::option::of(prop::sample::select(vec!["golden_cross", "death_cross"]));
        let frame = prop::option::of(prop::sample::select(vec!["1d", "1h"]));
        (0..3, prop::collection::vec(mention, 1..4), kind, frame).prop_map(|(partition, tickers, kind, frame)| {
            (partition, json!({"signal_type": kind, "tickers": tickers, "metadata": {"timeframe": frame}}))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_index_finds_what_a_scan_of_all_pipelines_finds(
            rules in prop::collection::vec(rule(), 0..12),
            order in any::<u64>(),
            signals in prop::collection::vec(signal(), 1..25),
            is_ticker_scope in any::<bool>(),
            chances in prop::collection::vec(any::<u8>(), 64),
        ) {
            let scope = if is_ticker_scope { Scope::Ticker } else { Scope::Pipeline };
            // Ids in another order than that of arrival.
            let rules: Vec<_> = (0_u64..).zip(rules).map(|(number, (tickers, subscriptions))| {
                let id = u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ order) << 8;
                Rule { pipeline_id: Uuid::from_u128(id), user_id: None, tickers, subscriptions }
            }).collect();
            let batch = partitioned(signals.iter().cloned());
            let set = Arc::new(RuleSet::new(rules.clone()));

            // What the ledger knows: some of the slots, each for some signals.
            let all = set.match_batch(&batch, scope, &Skips::default());
            let (mut skips, mut known) = (HashSet::new(), Known::new());
            for (at, (candidate, slot)) in all.candidates.iter().zip(slots(&batch, &all)).enumerate() {
                for signal in 0..u32::try_from(signals.len()).unwrap() {
                    if chances[(at * 7 + signal as usize) % chances.len()] < 60 {
                        skips.insert(Skip { pipeline: candidate.pipeline, ticker: candidate.ticker, signal });
                        known.insert((slot.pipeline, slot.ticker.clone(), signal));
                    }
                }
            }
            for (skips, known) in [(Skips::default(), Known::new()), (skips.into_iter().collect(), known)] {
                let matches = set.match_batch(&batch, scope, &skips);
                let expected = expected(&rules, &signals, scope, &known);
                prop_assert_eq!(slots(&batch, &matches), expected.slots);
                let counts: BTreeMap<_, _> = matches.counts.iter().map(|(partition, count)| (*partition, [count.unmatched, count.merged, count.redelivered, count.busy])).collect();
                prop_assert_eq!(&counts, &expected.counts);
                prop_assert_eq!(matches.pairs, expected.pairs);

                // What the sums in SQL rest on: a signal leads, or it is counted once.
                let leaders: BTreeSet<_> = matches.candidates.iter().map(|candidate| candidate.signal).collect();
                let counted: i64 = counts.values().flatten().sum();
                prop_assert_eq!(leaders.len() + usize::try_from(counted).unwrap(), signals.len());
            }
        }
    }
}
