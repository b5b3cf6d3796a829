use crate::kafka::{Record, brokers, committed, topic};
use crate::program::run;

fn mock(more: &[&str]) -> (Vec<Record>, String) {
    let (brokers, topic) = (brokers(), topic());
    let (_, said) = run(&[&["mock", "--brokers", &brokers, "--topic", &topic], more].concat(), 0);
    (committed(&topic), said)
}

#[test]
fn ten_thousand_a_second_are_all_delivered_and_evenly_paced() {
    let (records, said) = mock(&["--rate", "10000", "--seconds", "2", "--ticker-count", "500"]);
    assert_eq!(records.len(), 20_000, "{said}");
    let mut times: Vec<i64> = records.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    // An open loop never sends early; late it may be, on a busy machine, but not by much on the whole.
    let (half, all) = (times[9_999] - times[0], times[19_999] - times[0]);
    assert!((990..1_500).contains(&half) && (1_990..2_500).contains(&all), "{half} ms, {all} ms: {said}");
}

#[test]
fn a_seed_and_a_count_give_the_same_signals_again_and_the_tickers_asked_for() {
    let signals = || {
        let (records, _) = mock(&["--rate", "100000", "--count", "300", "--seed", "7", "--tickers", "aapl,MSFT"]);
        let mut ids: Vec<String> =
            records.iter().map(|record| format!("{} {}", record.key, record.signal["signal_id"])).collect();
        ids.sort();
        ids
    };
    let first = signals();
    assert_eq!(first.len(), 300);
    assert_eq!(first, signals());
    assert!(first.iter().all(|line| line.starts_with("AAPL ") || line.starts_with("MSFT ")));
}
