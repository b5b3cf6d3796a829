//! Records that are bad in themselves: each in the dead-letter topic, none in the way of the others.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng as _;
use serde_json::json;

use super::support::database::TestDatabase;
use super::support::scene::{Scene, signal};
use super::support::topic::DeadLetter;
use super::support::wait_for;

/// A kind of bad record: its name, its bytes, and the reasons that fit.
type Kind = (&'static str, Option<Vec<u8>>, &'static [&'static str]);

/// An object whose metadata is nested so deeply that the whole has `levels` levels.
fn nested(levels: usize) -> Vec<u8> {
    let inner = levels - 1;
    format!(r#"{{"tickers": [{{"ticker": "T0"}}], "metadata": {}{}}}"#, "[".repeat(inner), "]".repeat(inner)).into_bytes()
}

/// A signal whose payload has exactly so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let frame = r#"{"tickers": [{"ticker": "T0"}], "note": ""}"#;
    format!(r#"{{"tickers": [{{"ticker": "T0"}}], "note": "{}"}}"#, "x".repeat(bytes - frame.len())).into_bytes()
}

fn with_tickers(count: usize) -> Vec<u8> {
    let tickers: Vec<_> = (0..count).map(|number| json!({"ticker": format!("T{number}")})).collect();
    json!({"tickers": tickers}).to_string().into_bytes()
}

#[rustfmt::skip]
fn kinds() -> Vec<Kind> {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    vec![
        ("a tombstone", None, &["empty"]),
        ("no bytes", text(""), &["empty"]),
        ("blanks", text("  \n"), &["not_json"]),
        ("truncated", text(r#"{"tickers": [{"ticker": "T0""#), &["not_json"]),
        ("prose", text("buy T0 now"), &["not_json"]),
        ("single quotes", text("{'tickers': [{'ticker': 'T0'}]}"), &["not_json"]),
        ("something after the end", text(r#"{"tickers": [{"ticker": "T0"}]} {"#), &["not_json"]),
        ("NaN", text(r#"{"tickers": [{"ticker": "T0", "confidence": NaN}]}"#), &["not_json"]),
        ("a byte order mark", text("\u{feff}{\"tickers\": [{\"ticker\": \"T0\"}]}"), &["not_json"]),
        ("a raw NUL", text("{\"tickers\": [{\"ticker\": \"T\u{0}0\"}]}"), &["not_json", "forbidden_text"]),
        ("Latin-1", Some(b"{\"tickers\": [{\"ticker\": \"M\xfcnch\"}]}".to_vec()), &["not_utf8"]),
        ("half a UTF-8 sequence", Some(b"{\"tickers\": [{\"ticker\": \"T0\"}], \"note\": \"\xe2\x82\"}".to_vec()), &["not_utf8"]),
        ("UTF-16", Some("{\"tickers\": []}".encode_utf16().flat_map(u16::to_le_bytes).chain([0xff, 0xfe]).collect()), &["not_utf8"]),
        ("a list", text(r#"[{"ticker": "T0"}]"#), &["not_an_object"]),
        ("a text", text(r#""T0""#), &["not_an_object"]),
        ("a number", text("42"), &["not_an_object"]),
        ("null", text("null"), &["not_an_object"]),
        ("true", text("true"), &["not_an_object"]),
        ("an empty object", text("{}"), &["no_ticker"]),
        ("an empty list of tickers", text(r#"{"tickers": []}"#), &["no_ticker"]),
        ("blank symbols only", text(r#"{"tickers": [{"ticker": " "}, {"ticker": ""}, {"signal": "BULLISH"}]}"#), &["no_ticker"]),
        ("tickers that are null", text(r#"{"tickers": null}"#), &["no_ticker", "wrong_type"]),
        ("tickers that are a text", text(r#"{"tickers": "T0"}"#), &["wrong_type"]),
        ("tickers that are an object", text(r#"{"tickers": {"ticker": "T0"}}"#), &["wrong_type"]),
        ("tickers that are texts", text(r#"{"tickers": ["T0"]}"#), &["wrong_type"]),
        ("a ticker that is a number", text(r#"{"tickers": [{"ticker": 7}]}"#), &["wrong_type", "no_ticker"]),
        ("a confidence in words", text(r#"{"tickers": [{"ticker": "T0", "confidence": "high"}]}"#), &["wrong_type"]),
        ("a confidence beyond all numbers", text(r#"{"tickers": [{"ticker": "T0", "confidence": 1e999}]}"#), &["wrong_type", "not_json"]),
        ("tickers that stand there twice", text(r#"{"tickers": [{"ticker": "T0"}], "tickers": [{"ticker": "T1"}]}"#), &["wrong_type"]),
        ("an id that is an object", text(r#"{"signal_id": {}, "tickers": [{"ticker": "T0"}]}"#), &["wrong_type"]),
        ("an escaped NUL", text(r#"{"signal_id": "a\u0000b", "tickers": [{"ticker": "T0"}]}"#), &["forbidden_text"]),
        ("an escaped NUL in metadata", text(r#"{"tickers": [{"ticker": "T0"}], "metadata": {"a": "\u0000"}}"#), &["forbidden_text"]),
        ("a lone high surrogate", text(r#"{"tickers": [{"ticker": "T0"}], "source": "\ud83d"}"#), &["forbidden_text"]),
        ("a lone low surrogate", text(r#"{"tickers": [{"ticker": "T0"}], "metadata": {"\ude00": 1}}"#), &["forbidden_text"]),
        ("33 levels", Some(nested(33)), &["too_deep"]),
        ("10,000 levels", Some(nested(10_000)), &["too_deep"]),
        ("a byte more than 256 KiB", Some(padded(256 * 1024 + 1)), &["too_large"]),
        ("1,001 tickers", Some(with_tickers(1_001)), &["too_many_tickers"]),
        ("an endless id", Some(format!(r#"{{"signal_id": "{}", "tickers": [{{"ticker": "T0"}}]}}"#, "i".repeat(5_000)).into_bytes()), &["too_long"]),
        ("an endless ticker", Some(format!(r#"{{"tickers": [{{"ticker": "{}"}}]}}"#, "T".repeat(300)).into_bytes()), &["too_long"]),
    ]
}

/// Odd, but signals all the same; none of their tickers is watched.
fn odd() -> Vec<Vec<u8>> {
    let mut odd = vec![nested(32), padded(256 * 1024), with_tickers(1_000)];
    odd.extend([
        r#"{"tickers": [{"ticker": "T0"}], "unknown": 1, "unknown": 2}"#.as_bytes().to_vec(),
        r#"{"tickers": [{"ticker": " "}, {"ticker": " t0 "}]}"#.as_bytes().to_vec(),
        r#"{"tickers": [{"ticker": "\ud83d\ude00"}]}"#.as_bytes().to_vec(),
        "\r\n {\"signal_id\": null, \"tickers\": [{\"ticker\": \"T0\", \"confidence\": null}]} \n".as_bytes().to_vec(),
        r#"{"tickers": [{"ticker": "'; drop table pipelines; --"}], "source": "\u001b[31m\r\n"}"#.as_bytes().to_vec(),
    ]);
    odd
}

/// What was sent and must come back.
struct Sent {
    name: &'static str,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    reasons: &'static [&'static str],
    offset: i64,
}

fn assert_whole(letter: &DeadLetter, sent: &Sent, topic: &str) {
    let name = sent.name;
    assert!(letter.payload == sent.payload, "{name}: other bytes");
    for (key, value) in &sent.headers {
        let found = letter.headers.iter().any(|header| (&header.0, &header.1) == (key, value));
        assert!(found, "{name}: the header {key} is lost");
    }
    let reason = letter.header("dead-letter-reason").unwrap();
    assert!(sent.reasons.contains(&reason.as_str()), "{name}: {reason}");
    let place = ["dead-letter-topic", "dead-letter-partition", "dead-letter-offset"].map(|header| letter.header(header).unwrap());
    assert_eq!(place, [topic.to_owned(), "0".to_owned(), sent.offset.to_string()], "{name}");
}

const GOOD: i64 = 20_000;
const BAD: i64 = 2_000;

#[tokio::test]
async fn bad_records_go_to_the_dead_letter_topic_and_good_ones_are_decided() {
    let mut scene = Scene::new(1).await;
    let mut watching = BTreeSet::new();
    for number in 0..200 {
        watching.insert(scene.database.pipeline("watches", &[&format!("GOOD{number}")]).await);
    }
    let (kinds, odd) = (kinds(), odd());
    assert!(kinds.len() >= 20);
    let mut sent = BTreeMap::new();
    let mut offset = 0;
    for number in 0..GOOD {
        if number % (GOOD / BAD) == 0 {
            let (name, payload, reasons) = kinds[usize::try_from(offset).unwrap() % kinds.len()].clone();
            let key = format!("bad-{number}").into_bytes();
            let headers = vec![("trace".to_owned(), Some(vec![0, 0xff, 7])), ("empty".to_owned(), None)];
            scene.topic.send_record(0, Some(&key), payload.as_deref(), &headers);
            sent.insert(key, Sent { name, payload, headers, reasons, offset });
            offset += 1;
        }
        match odd.get(usize::try_from(number).unwrap()) {
            Some(payload) => scene.topic.send(0, payload),
            // Every second one is watched.
            None => scene.topic.send_json(0, &signal(&format!("good-{number}"), &format!("GOOD{}", number % 400))),
        }
        offset += 1;
    }
    for _ in 0..3 {
        let key = format!("huge-{offset}").into_bytes();
        let payload = Some(padded(10 * 1024 * 1024));
        scene.topic.send_record(0, Some(&key), payload.as_deref(), &[]);
        sent.insert(key, Sent { name: "10 MiB", payload, headers: Vec::new(), reasons: &["too_large"], offset });
        offset += 1;
    }
    scene.topic.flush();

    let dispatcher = scene.setting.start();
    let total = scene.decided(offset).await;
    scene.committed(offset);
    assert_eq!(total.invalid, i64::try_from(sent.len()).unwrap());
    assert_eq!(total.consumed, total.reasons());
    assert_eq!((total.stale, total.redelivered), (0, 0));
    let watched = (0..GOOD).filter(|number| *number >= i64::try_from(odd.len()).unwrap() && number % 400 < 200).count();
    assert_eq!(total.triggered + total.busy + total.merged, i64::try_from(watched).unwrap());
    let triggered: BTreeSet<_> = scene.enqueued(watching.len()).into_iter().collect();
    assert_eq!((triggered, scene.queue.len()), (watching, 200), "each good ticker starts its pipeline once");

    let letters = scene.topic.dead_letters();
    assert_eq!(letters.len(), sent.len(), "each bad record once");
    let mut keys = BTreeSet::new();
    for letter in &letters {
        let key = letter.key.clone().unwrap();
        assert_whole(letter, &sent[&key], &scene.topic.name);
        keys.insert(key);
    }
    assert_eq!(keys.len(), letters.len());
    wait_for("a quiet end", 5, || Some(dispatcher.events("claim_failed")).filter(Vec::is_empty));
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn signals_older_than_the_limit_are_counted_as_stale_and_start_nothing() {
    let mut scene = Scene::new(1).await;
    scene.database.pipeline("watches", &["AAPL"]).await;
    let day_before_yesterday_ms =
        scene.database.number("select (extract(epoch from now() - interval '2 days') * 1000)::bigint").await;
    scene.topic.send_at(0, day_before_yesterday_ms, signal("old", "AAPL").to_string().as_bytes());
    scene.topic.flush();
    let _dispatcher = scene.setting.start();
    let total = scene.decided(1).await;
    assert_eq!((total.stale, total.triggered), (1, 0));
    scene.send(&[signal("new", "AAPL")]);
    scene.enqueued(1);
    assert_eq!(scene.decided(2).await.stale, 1);
}

/// A platform's database may know fewer characters than a signal: that is the record's fault, and only its own.
#[tokio::test]
async fn a_signal_that_the_database_cannot_hold_is_a_dead_letter_and_does_not_stop_the_others() {
    let mut scene = Scene::with(TestDatabase::create_in("LATIN1").await, 1).await;
    let [first, second] = [scene.database.pipeline("a", &["AAPL"]).await, scene.database.pipeline("b", &["MSFT"]).await];
    let ids = ["\u{20ac}", "\u{1f680}", "plain", "caf\u{e9}"];
    let mut signals = Vec::new();
    for (number, id) in ids.iter().cycle().take(40).enumerate() {
        signals.push(signal(&format!("{id}-{number}"), ["AAPL", "MSFT", "NOBODY"][number % 3]));
    }
    scene.send(&signals);
    let dispatcher = scene.setting.start();
    let total = scene.decided(40).await;
    assert_eq!(total.consumed, total.reasons());
    // Only text that would be stored can be refused: nobody asks what a signal says that nobody watches.
    let watched = |number: &usize| number % 3 != 2;
    let storable = |number: &usize| number % 4 >= 2;
    let refused: BTreeSet<i64> = scene
        .topic
        .dead_letters()
        .iter()
        .map(|letter| {
            assert_eq!(letter.header("dead-letter-reason").as_deref(), Some("unstorable"));
            letter.header("dead-letter-offset").unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(total.invalid, i64::try_from(refused.len()).unwrap());
    assert!(
        refused.iter().all(|offset| usize::try_from(*offset).is_ok_and(|number| watched(&number) && !storable(&number))),
        "{refused:?}"
    );
    assert!(refused.contains(&0) && refused.contains(&1), "the first for each pipeline leads: {refused:?}");
    let tasks: BTreeSet<_> = scene.enqueued(2).into_iter().collect();
    assert_eq!((tasks, scene.queue.len()), (BTreeSet::from([first, second]), 2));
    assert_eq!(dispatcher.events("claim_failed"), Vec::<serde_json::Value>::new(), "it was nobody else's fault");
    assert_eq!(dispatcher.events("signal_rejected").len(), refused.len());
    assert!(dispatcher.stop().success());
}

/// Letters are sent compressed, and what a topic takes is measured after that.
fn incompressible(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    rand::rng().fill(&mut random[..]);
    // Never the begin of a signal.
    random.iter_mut().take(1).for_each(|first| *first = b'x');
    random
}

/// What the dead-letter topic does not take is sent with less of it, and holds up nothing behind it.
#[tokio::test]
async fn a_copy_that_the_dead_letter_topic_can_never_take_goes_there_in_parts() {
    let scene = Scene::new(1).await;
    scene.topic.configure_dead_letters("max.message.bytes", "100000").await;
    let (large, small) = (incompressible(1_000_000), b"bad".as_slice());
    let header = |bytes: usize| vec![("name".to_owned(), Some(incompressible(bytes)))];
    scene.topic.send_record(0, Some(&large), Some(small), &[]);
    scene.topic.send_record(0, Some(b"key"), Some(small), &header(1_000_000));
    scene.topic.send_record(0, Some(b"key"), Some(&large), &header(5));
    // Too large only together.
    for _ in 0..5 {
        scene.topic.send_record(0, Some(b"key"), Some(&incompressible(60_000)), &header(5));
    }
    scene.topic.flush();
    let dispatcher = scene.setting.start();
    scene.send(&[signal("good", "NOBODY")]);
    let total = scene.decided(9).await;
    assert_eq!((total.invalid, total.unmatched), (8, 1));
    let log = dispatcher.log();
    assert!(dispatcher.stop().success());
    assert_eq!(log.events("dead_letter_failed"), Vec::<serde_json::Value>::new());
    let mut letters = scene.topic.dead_letters();
    letters.sort_by_key(|letter| letter.header("dead-letter-offset"));
    assert_eq!(letters.len(), 8);
    let told = |number: usize, name: &str| letters[number].header(&format!("dead-letter-{name}"));
    assert_eq!((letters[0].key.as_deref(), letters[0].payload.as_deref()), (None, Some(small)));
    assert_eq!(told(0, "without-key-of").as_deref(), Some("1000000"));
    assert_eq!((letters[1].key.as_deref(), letters[1].payload.as_deref()), (Some(b"key".as_slice()), Some(small)));
    assert_eq!((told(1, "without-headers").as_deref(), letters[1].header("name")), (Some("1"), None));
    assert_eq!(letters[2].payload.as_ref().map(Vec::len), Some(32 * 1024));
    assert_eq!((told(2, "truncated-from").as_deref(), letters[2].headers[0].0.as_str()), (Some("1000000"), "name"));
    for letter in &letters[3..] {
        assert_eq!((letter.payload.as_ref().map(Vec::len), letter.key.as_deref()), (Some(60_000), Some(b"key".as_slice())));
        assert_eq!(letter.header("dead-letter-truncated-from"), None, "it fits alone");
    }
}
