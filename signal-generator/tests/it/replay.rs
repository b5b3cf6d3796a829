use crate::kafka::{brokers, committed, crosses_in, topic, topic_with, written};
use crate::program::{Crosses, csv, flat_then_up, run, write_walks};
use std::fs;

fn replay(folder: &str, topic: &str, more: &[&str], code: i32) -> String {
    let brokers = brokers();
    let arguments = ["replay", "--csv", folder, "--brokers", &brokers, "--topic", topic];
    run(&[&arguments, more].concat(), code).1
}

#[test]
fn every_cross_is_sent_once_keyed_by_its_ticker_however_often_it_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let expected = write_walks(folder.path(), 6, 1_500);
    let topic = topic();

    replay(path, &topic, &["--death-cross"], 0);
    let records = committed(&topic);
    assert_eq!(crosses_in(&records), expected);
    assert!(expected.len() > 30, "{}", expected.len());
    assert!(records.iter().all(|record| record.signal["tickers"][0]["ticker"] == record.key.as_str()));

    let said = replay(path, &topic, &["--death-cross"], 0);
    assert!(said.contains(&format!("0 signals emitted, {} emitted earlier", expected.len())), "{said}");
    assert_eq!(written(&topic).len(), expected.len());
}

#[test]
fn death_crosses_come_only_when_switched_on_and_then_without_the_golden_ones_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let expected = write_walks(folder.path(), 3, 1_500);
    let golden: Crosses = expected.iter().filter(|cross| cross.1 == "golden_cross").cloned().collect();
    let topic = topic();

    replay(path, &topic, &[], 0);
    assert_eq!(crosses_in(&committed(&topic)), golden);
    replay(path, &topic, &["--death-cross"], 0);
    assert_eq!(crosses_in(&committed(&topic)), expected);
}

#[test]
fn a_signal_has_the_published_shape_and_speaks_at_the_end_of_its_bars_day() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("aapl.csv"), csv(&flat_then_up())).unwrap();
    let topic = topic();
    replay(folder.path().to_str().unwrap(), &topic, &["--source", "mine"], 0);
    let records = committed(&topic);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let date = flat_then_up()[200].date;
    let expected = serde_json::json!({
        "signal_id": record.signal["signal_id"],
        "signal_type": "golden_cross",
        "source": "mine",
        "timestamp": format!("{}T00:00:00Z", date.tomorrow().unwrap()),
        "tickers": [{"ticker": "AAPL", "signal": "BULLISH", "confidence": 87.5,
            "reasoning": format!("SMA 50 (10.0400) rose above SMA 200 (10.0100) at the close of {date}")}],
        "metadata": {"sma_50": 10.04, "sma_200": 10.01, "timeframe": "1d", "bar_date": date.to_string(), "close": 12.0},
    });
    assert_eq!((record.key.as_str(), &record.signal), ("AAPL", &expected));
}

#[test]
fn two_sources_on_one_topic_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let count = write_walks(folder.path(), 2, 1_000).len();
    let topic = topic();
    for source in ["one", "two", "one"] {
        replay(path, &topic, &["--death-cross", "--source", source], 0);
    }
    let records = committed(&topic);
    for source in ["one", "two"] {
        assert_eq!(records.iter().filter(|record| record.signal["source"] == source).count(), count);
    }
}

#[test]
fn a_state_topic_that_would_forget_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_walks(folder.path(), 1, 300);
    let (topic, state) = (topic(), topic_with(&[("cleanup.policy", "delete")]));
    let said = replay(folder.path().to_str().unwrap(), &topic, &["--state-topic", &state], 64);
    assert!(said.contains("cleanup.policy=delete: it must be compact"), "{said}");
    assert_eq!(written(&topic).len(), 0);
}
