use super::*;
use clap::Parser;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn checked(line: &str, pairs: &[(&str, &str)]) -> Result<Job, Vec<String>> {
    check(&Cli::parse_from(line.split(' ')), &environment(pairs))
}

#[test]
fn all_mistakes_are_told_at_once_and_no_value_of_a_property() {
    let mistakes = checked(
        "signal-generator mock --rate fast --seconds 0 --seed x --tickers A,B?B --ticker-count 0 --source \u{7}",
        &[
            ("KAFKA_SIGNAL_TOPIC", "a b"),
            ("KAFKA_CONFIG_ACKS", "1"),
            ("KAFKA_CONFIG_NO_SUCH", "s3cret"),
            ("KAFKA_CONFIG_LINGER_MS", "s3cret"),
        ],
    )
    .unwrap_err();
    let names = [
        "--rate",
        "--seconds",
        "--seed",
        "--tickers",
        "--ticker-count",
        "--source",
        "KAFKA_SIGNAL_TOPIC",
        "KAFKA_CONFIG_ACKS",
        "KAFKA_CONFIG_NO_SUCH",
        "KAFKA_CONFIG_LINGER_MS",
        "KAFKA_BOOTSTRAP_SERVERS",
    ];
    for name in names {
        assert!(mistakes.iter().any(|mistake| mistake.contains(name)), "{name} in {mistakes:#?}");
    }
    assert!(mistakes.iter().all(|mistake| !mistake.contains("s3cret") && !mistake.contains('\n')), "{mistakes:#?}");
}

#[test]
fn one_source_of_bars_is_needed_and_not_two() {
    let kafka = [("KAFKA_BOOTSTRAP_SERVERS", "h:1")];
    for bad in [
        "signal-generator replay",
        "signal-generator follow",
        "signal-generator replay --csv d --bars-topic t",
        "signal-generator replay --csv d --seed 1",
        "signal-generator replay --csv d --stamp later",
    ] {
        assert_eq!(checked(bad, &kafka).unwrap_err().len(), 1, "{bad}");
    }
    for good in ["replay --csv d", "replay --bars-topic t", "replay --random-walk 9 --seed 1 --tickers a", "follow --csv d"] {
        assert!(checked(&format!("signal-generator {good}"), &kafka).is_ok(), "{good}");
    }
}

#[test]
fn printing_needs_no_kafka_unless_the_bars_come_from_it() {
    assert!(checked("signal-generator replay --csv d --print", &[]).is_ok());
    assert!(checked("signal-generator replay --bars-topic t --print", &[]).is_err());
}

#[test]
fn the_command_line_wins_and_an_empty_variable_is_none() {
    let job = checked(
        "signal-generator mock --rate 5 --topic t",
        &[("KAFKA_BOOTSTRAP_SERVERS", "h:1"), ("KAFKA_SIGNAL_TOPIC", "e"), ("KAFKA_CONFIG_LINGER_MS", "7")],
    );
    let Ok(Job::Mock(job)) = job else { panic!("{job:?}") };
    assert_eq!((job.topic.as_str(), job.tickers.len(), job.seed), ("t", 10, None));
    assert_eq!(job.kafka.properties, [("linger.ms".to_owned(), "7".to_owned())]);

    let job = checked(
        "signal-generator replay --csv d",
        &[("KAFKA_BOOTSTRAP_SERVERS", "h:1"), ("KAFKA_SIGNAL_TOPIC", " "), ("KAFKA_STATE_TOPIC", "")],
    );
    let Ok(Job::Replay(BarsJob { sink: Some(sink), wanted, .. })) = job else { panic!("{job:?}") };
    assert_eq!((sink.topic.as_str(), sink.state_topic.as_str()), ("trading-signals", "trading-signals.generator-state"));
    assert_eq!(wanted.directions, [Direction::Golden], "death crosses only on request");
}
