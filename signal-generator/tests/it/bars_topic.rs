use crate::kafka::{brokers, committed, crosses_in, send, topic};
use crate::program::{Crosses, Running, crosses_of, flat_then_up, run, until};
use signal_generator::{Bar, RandomWalk};

fn json(ticker: &str, bar: &Bar) -> (String, Vec<u8>) {
    let Bar { date, open, high, low, close, volume } = bar;
    let record = serde_json::json!({"ticker": ticker, "date": date.to_string(), "open": open, "high": high, "low": low, "close": close, "volume": volume});
    (ticker.to_owned(), record.to_string().into_bytes())
}

#[test]
fn a_topic_is_replayed_to_its_end_and_bad_records_are_named() {
    let (brokers, bars_topic, topic) = (brokers(), topic(), topic());
    let mut records = Vec::new();
    let mut expected = Crosses::new();
    for ticker in signal_generator::ticker::made_up(5) {
        let bars: Vec<Bar> = RandomWalk::new(9, &ticker, jiff::civil::date(2001, 1, 1)).take(1_000).collect();
        expected.extend(crosses_of(&ticker, &bars));
        records.extend(bars.iter().map(|bar| json(&ticker, bar)));
    }
    let old = records[10].clone();
    let bad = [("X".to_owned(), b"not json".to_vec()), ("X".to_owned(), Vec::new()), old];
    records.extend(bad);
    send(&bars_topic, &records);

    let arguments = ["replay", "--death-cross", "--bars-topic", &bars_topic, "--brokers", &brokers, "--topic", &topic];
    let (_, said) = run(&arguments, 65);
    assert_eq!(crosses_in(&committed(&topic)), expected);
    assert_eq!(said.matches("not a bar in JSON").count(), 2, "{said}");
    assert_eq!(said.matches("out of order").count(), 1, "{said}");
    assert!(said.contains(&format!("topic {bars_topic}, partition ")), "{said}");
    run(&arguments, 65);
    assert_eq!(committed(&topic).len(), expected.len());
}

#[test]
fn a_followed_topic_emits_with_the_bar_that_crosses_also_after_a_restart() {
    let (brokers, bars_topic, topic, bars) = (brokers(), topic(), topic(), flat_then_up());
    let records: Vec<_> = bars.iter().map(|bar| json("A", bar)).collect();
    send(&bars_topic, &records[..200]);
    let arguments = ["follow", "--bars-topic", &bars_topic, "--brokers", &brokers, "--topic", &topic];
    let running = Running::start(&arguments);
    send(&bars_topic, &records[200..]);
    until("the cross is emitted", || (committed(&topic).len() == 1).then_some(()));
    drop(running);

    let running = Running::start(&arguments);
    let second: Vec<_> = bars.iter().map(|bar| json("B", bar)).collect();
    send(&bars_topic, &second);
    let records = until("the other ticker's cross", || Some(committed(&topic)).filter(|records| records.len() > 1));
    assert_eq!(crosses_in(&records).len(), 2);
    running.terminate(0);
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let (brokers, topic) = (brokers(), topic());
    let missing = format!("{topic}-missing");
    let said = run(&["replay", "--bars-topic", &missing, "--print", "--brokers", &brokers], 69).1;
    assert!(said.contains(&missing), "{said}");
}
