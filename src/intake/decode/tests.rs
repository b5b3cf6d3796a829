use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// What of a signal matching sees.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    id: String,
    signal_type: String,
    /// Ticker, bias, confidence.
    mentions: Vec<(String, String, Option<f64>)>,
}

fn add(payload: Option<&[u8]>, batch: &mut Batch) -> Result<(), Reason> {
    decode(&Record { partition: 3, offset: 7, time_ms: 11, key: None, payload, headers: &Vec::new }, batch)
}

fn seen(batch: &Batch, signal: &Signal) -> Seen {
    let text = |span| batch.text(span).to_owned();
    let mentions = batch.mentions(signal).iter();
    Seen {
        id: text(signal.stated_id),
        signal_type: text(signal.signal_type),
        mentions: mentions.map(|mention| (text(mention.ticker), text(mention.bias), mention.confidence)).collect(),
    }
}

fn read(payload: impl AsRef<[u8]>) -> Result<Seen, Reason> {
    let mut batch = Batch::default();
    add(Some(payload.as_ref()), &mut batch)?;
    Ok(seen(&batch, &batch.signals()[0]))
}

fn tickers(payload: &str) -> Vec<String> {
    let seen = read(payload).unwrap_or_else(|reason| panic!("{payload}: {}", reason.as_str()));
    seen.mentions.into_iter().map(|(ticker, ..)| ticker).collect()
}

#[test]
fn the_published_example_is_read_whole() {
    let payload = r#"{"signal_type": "golden_cross", "source": "scanner", "timestamp": "2026-01-01T00:00:00Z",
        "tickers": [{"ticker": "AAPL", "signal": "BULLISH", "confidence": 85, "reasoning": "SMA 50 over SMA 200"}],
        "metadata": {"timeframe": "1d"}}"#;
    let mut batch = Batch::default();
    add(Some(payload.as_bytes()), &mut batch).unwrap();
    let signal = &batch.signals()[0];
    assert_eq!((signal.partition, signal.offset, signal.record_time_ms), (3, 7, 11));
    assert_eq!(batch.text(signal.payload), payload);
    assert!(signal.stated_id.is_empty());
    let mentions = vec![("AAPL".to_owned(), "BULLISH".to_owned(), Some(85.0))];
    assert_eq!(seen(&batch, signal), Seen { id: String::new(), signal_type: "golden_cross".to_owned(), mentions });
}

#[test]
fn text_without_escapes_and_lower_case_is_not_copied() {
    let payload = r#"{"signal_id": " a ", "signal_type": "x", "tickers": [{"ticker": " AAPL ", "signal": "BULLISH"}]}"#;
    let mut batch = Batch::default();
    add(Some(payload.as_bytes()), &mut batch).unwrap();
    assert_eq!(batch.text, payload);
}

mod limits {
    use super::*;

    #[test]
    fn a_record_of_262_144_bytes_is_read_and_one_more_is_too_large() {
        let padded = |bytes: usize| format!(r#"{{"tickers":[{{"ticker":"A"}}]{}}}"#, " ".repeat(bytes - 28));
        assert_eq!(padded(262_144).len(), 262_144);
        assert_eq!(tickers(&padded(262_144)), ["A"]);
        assert_eq!(read(padded(262_145)), Err(Reason::TooLarge));
        assert_eq!(read(vec![0xFF; 262_145]), Err(Reason::TooLarge), "whatever is in it");
    }

    #[test]
    fn nesting_of_32_is_read_and_33_is_too_deep() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")] {
            let nested = |depth: usize| {
                let times = (depth - 1) / open.matches(['[', '{']).count();
                format!(r#"{{"tickers":[{{"ticker":"A"}}],"metadata":{}0{}}}"#, open.repeat(times), close.repeat(times))
            };
            // Two at a time reach 31 and 33.
            assert_eq!(tickers(&nested(32)), ["A"], "{open}");
            assert_eq!(read(nested(33)), Err(Reason::TooDeep), "{open}");
        }
    }

    #[test]
    fn brackets_in_texts_are_no_nesting() {
        let text = r#"[{\"\\[{"#.repeat(40);
        assert_eq!(tickers(&format!(r#"{{"note":"{text}","tickers":[{{"ticker":"A"}}]}}"#)), ["A"]);
    }

    #[test]
    fn nesting_is_refused_at_any_depth_without_overflowing_a_stack() {
        let payload = format!(r#"{{"tickers":[{{"ticker":"A"}}],"metadata":{}"#, "[".repeat(260_000));
        assert_eq!(read(payload), Err(Reason::TooDeep));
    }

    #[test]
    fn a_thousand_tickers_are_read_and_one_more_is_too_many() {
        let list = |count: usize| format!(r#"{{"tickers":[{}]}}"#, vec![r#"{"ticker":"A"}"#; count].join(","));
        assert_eq!(tickers(&list(1_000)).len(), 1_000);
        assert_eq!(read(list(1_001)), Err(Reason::TooManyTickers));
        let unusable = format!(r#"{{"tickers":[{}]}}"#, vec!["{}"; 1_001].join(","));
        assert_eq!(read(unusable), Err(Reason::TooManyTickers), "those without a symbol count too");
    }

    #[test]
    fn a_ticker_of_64_characters_is_read_and_one_more_is_too_long() {
        for letter in ["X", "x", "Ä", "ß", "日"] {
            let payload = |count: usize| format!(r#"{{"tickers":[{{"ticker":" {} "}}]}}"#, letter.repeat(count));
            assert_eq!(tickers(&payload(64)), [letter.repeat(64).to_uppercase()]);
            assert_eq!(read(payload(65)), Err(Reason::TooLong), "{letter}");
        }
    }

    #[test]
    fn other_texts_have_512_bytes_and_one_more_is_too_long() {
        for letter in ["x", "é", r"\u00e9", r#"\""#] {
            let bytes = serde_json::from_str::<String>(&format!(r#""{letter}""#)).unwrap().len();
            for (before, after) in [
                (r#"{"signal_id":""#, r#"","tickers":[{"ticker":"A"}]}"#),
                (r#"{"signal_type":""#, r#"","tickers":[{"ticker":"A"}]}"#),
                (r#"{"tickers":[{"ticker":"A","signal":""#, r#""}]}"#),
            ] {
                let payload = |count: usize| format!("{before}{}{after}", letter.repeat(count));
                assert_eq!(tickers(&payload(512 / bytes)), ["A"], "{before}");
                assert_eq!(read(payload(512 / bytes + 1)), Err(Reason::TooLong), "{before}");
            }
        }
    }
}

/// For each reason, records that have it.
fn bad() -> Vec<(Reason, Vec<u8>)> {
    let text = |reason, cases: &[&str]| cases.iter().map(|case| (reason, case.as_bytes().to_vec())).collect::<Vec<_>>();
    let one = |inner: &str| format!(r#"{{"tickers":[{inner}]}}"#);
    [
        text(Reason::Empty, &[""]),
        vec![(Reason::TooLarge, vec![b' '; MAX_RECORD_BYTES + 1])],
        vec![
            (Reason::NotUtf8, b"{\"tickers\":[{\"ticker\":\"\xFF\"}]}".to_vec()),
            (Reason::NotUtf8, b"\xED\xA0\x80".to_vec()),
            (Reason::NotUtf8, b"\xFF\xFE{\0}\0".to_vec()),
        ],
        text(
            Reason::NotJson,
            &[
                " ",
                "AAPL",
                "{",
                "{}}",
                "\u{feff}{}",
                r#"{"tickers":[{"ticker":"A"}]} x"#,
                r#"{"tickers":[{"ticker":"A"},]}"#,
                r#"{"tickers":[{"ticker":"A"}"#,
                r"{'tickers':[]}",
                r#"{"tickers":[{"ticker":"A","confidence":NaN}]}"#,
                r#"{"tickers":[{"ticker":"A","confidence":1e999}]}"#,
                r#"{"tickers":[{"ticker":"\x41"}]}"#,
                r#"{"tickers":[{"ticker":"\u00"}],"note":"\u0000"#,
                "{\"tickers\":[{\"ticker\":\"A\0\"}]}",
            ],
        ),
        text(Reason::NotObject, &["[]", "7", "null", r#""AAPL""#, r#" [{"tickers":[{"ticker":"A"}]}]"#, r#""\u0000""#]),
        vec![(Reason::TooDeep, format!("{}{}", "[".repeat(33), "]".repeat(33)).into_bytes())],
        text(
            Reason::ForbiddenText,
            &[
                r#"{"tickers":[{"ticker":"A\u0000"}]}"#,
                r#"{"tickers":[{"ticker":"\ud800"}]}"#,
                r#"{"tickers":[{"ticker":"\uDC00"}]}"#,
                r#"{"tickers":[{"ticker":"\ud83d\ud83d\ude00"}]}"#,
                r#"{"tickers":[{"ticker":"\ud83dx\ude00"}]}"#,
                r#"{"tickers":[{"ticker":"A"}],"metadata":{"a":{"\u0000":1}}}"#,
                r#"{"tickers":[{"ticker":"A"}],"source":"\\\u0000"}"#,
            ],
        ),
        text(
            Reason::WrongType,
            &[
                r#"{"tickers":"AAPL"}"#,
                r#"{"tickers":null}"#,
                r#"{"tickers":{"ticker":"A"}}"#,
                &one(r#""AAPL""#),
                &one("[]"),
                &one("null"),
                &one(r#"{"ticker":7}"#),
                &one(r#"{"ticker":["A"]}"#),
                &one(r#"{"ticker":"A","confidence":"85"}"#),
                &one(r#"{"ticker":"A","confidence":true}"#),
                &one(r#"{"ticker":"A","signal":{}}"#),
                &one(r#"{"signal":[]}"#),
                &one(r#"{"ticker":"A","ticker":"B"}"#),
                &one(r#"{"ticker":null,"ticker":"B"}"#),
                &one(r#"{"ticker":"A","confidence":1,"confidence":1}"#),
                r#"{"tickers":[],"tickers":[{"ticker":"A"}]}"#,
                r#"{"signal_id":null,"signal_id":"a","tickers":[{"ticker":"A"}]}"#,
                r#"{"signal_id":{},"tickers":[{"ticker":"A"}]}"#,
                r#"{"tickers":[{"ticker":"A"}],"signal_type":["x"]}"#,
                r#"{"tickers":[{"ticker":"A"}],"ticke\u0072s":[]}"#,
            ],
        ),
        text(
            Reason::NoTicker,
            &[
                "{}",
                r#"{"Tickers":[{"ticker":"A"}]}"#,
                r#"{"tickers":[]}"#,
                &one("{}"),
                &one(r#"{"ticker":null}"#),
                &one(r#"{"ticker":""}"#),
                &one(r#"{"ticker":" \t\u00a0\u2003"}"#),
            ],
        ),
        vec![(Reason::TooManyTickers, format!(r#"{{"tickers":[{}]}}"#, vec!["{}"; 1_001].join(",")).into_bytes())],
        vec![(Reason::TooLong, one(&format!(r#"{{"ticker":"{}"}}"#, "X".repeat(65))).into_bytes())],
    ]
    .concat()
}

mod reasons {
    use super::*;

    #[test]
    fn a_bad_record_is_told_its_reason() {
        for (reason, payload) in bad() {
            let shown = String::from_utf8_lossy(&payload[..payload.len().min(80)]).into_owned();
            assert_eq!(read(payload), Err(reason), "{shown}");
        }
        assert_eq!(add(None, &mut Batch::default()), Err(Reason::Empty), "a tombstone");
    }

    #[test]
    fn every_reason_has_a_case_and_a_word_of_its_own() {
        let mut cases: BTreeSet<_> = bad().into_iter().map(|(reason, _)| reason).collect();
        // Decoding cannot know it: the database says so.
        cases.insert(Reason::Unstorable);
        assert_eq!(cases, Reason::ALL.into());
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn a_rejected_record_leaves_the_signals_before_and_after_it_alone() {
        let good = |id: &str| format!(r#"{{"signal_id":"{id}\u00e9","tickers":[{{"ticker":"msft"}},{{"ticker":"AAPL"}}]}}"#);
        for (reason, payload) in bad() {
            let mut batch = Batch::default();
            add(Some(good("before").as_bytes()), &mut batch).unwrap();
            let before = (batch.text.clone(), batch.signals.clone(), batch.mentions.clone());
            assert_eq!(add(Some(&payload), &mut batch), Err(reason));
            assert_eq!((&batch.text, &batch.signals, &batch.mentions), (&before.0, &before.1, &before.2), "{}", reason.as_str());
            add(Some(good("after").as_bytes()), &mut batch).unwrap();
            for (signal, id) in batch.signals().iter().zip(["before", "after"]) {
                assert_eq!(Ok(seen(&batch, signal)), read(good(id)));
            }
        }
    }
}

mod texts {
    use super::*;

    #[test]
    fn tickers_are_trimmed_and_upper_cased() {
        for (written, ticker) in [
            ("AAPL", "AAPL"),
            (" aapl\t", "AAPL"),
            ("Brk.b", "BRK.B"),
            ("\u{a0}\u{2003}AAPL\u{3000}", "AAPL"),
            ("münch", "MÜNCH"),
            ("straße", "STRASSE"),
            ("ÅÄÖ", "ÅÄÖ"),
            ("日経", "日経"),
            ("ǆ", "Ǆ"),
            ("a b", "A B"),
            ("😀x", "😀X"),
        ] {
            assert_eq!(tickers(&serde_json::json!({"tickers": [{"ticker": written}]}).to_string()), [ticker]);
        }
    }

    #[test]
    fn escapes_are_resolved_wherever_they_stand() {
        let payload = r#"{"signal\u005fid": "\u0061\"\\\/b", "signal_type": "\ud83d\ude00\n", "tickers":
            [{"ticker": "\u0061apl", "signal": "BULL\u0049SH"}, {"t\u0069cker": "A\tB"}], "note": "\\u0000 \\ud800"}"#;
        let seen = read(payload).unwrap();
        assert_eq!((seen.id.as_str(), seen.signal_type.as_str()), (r#"a"\/b"#, "😀"));
        let mention = |ticker: &str, bias: &str| (ticker.to_owned(), bias.to_owned(), None);
        assert_eq!(seen.mentions, [mention("AAPL", "BULLISH"), mention("A\tB", "")]);
    }

    #[test]
    fn an_id_type_or_bias_may_be_a_number_and_is_kept_as_it_is_written() {
        let seen = read(r#"{"signal_id": 1.50, "signal_type": true, "tickers": [{"ticker": "A", "signal": -1e999}]}"#).unwrap();
        let mentions = vec![("A".to_owned(), "-1e999".to_owned(), None)];
        assert_eq!(seen, Seen { id: "1.50".to_owned(), signal_type: "true".to_owned(), mentions });
    }

    #[test]
    fn null_and_blank_are_not_said() {
        let seen =
            read(r#"{"signal_id": null, "signal_type": "  ", "tickers": [{"ticker": "A", "signal": null, "confidence": null}]}"#);
        assert_eq!(seen, read(r#"{"tickers": [{"ticker": "A"}]}"#));
    }

    #[test]
    fn an_entry_without_a_symbol_is_passed_over_and_the_others_stay() {
        let payload = r#"{"tickers": [{}, {"ticker": " "}, {"ticker": "A"}, {"ticker": null, "signal": "x"}, {"ticker": "A"}]}"#;
        assert_eq!(tickers(payload), ["A", "A"]);
    }

    #[test]
    fn unknown_fields_may_be_anything_even_twice() {
        let payload = r#"{"x": 1, "x": [{}], "tickers": [{"y": null, "ticker": "A", "y": 1e999}], "signal": 7, "ticker": []}"#;
        assert_eq!(tickers(payload), ["A"]);
    }
}

/// What decoding should find, asked of `serde_json::Value`, slowly and one rule after the other.
mod oracle {
    use super::*;

    #[derive(Debug, PartialEq)]
    pub(super) enum Expected {
        Signal(Seen),
        /// One of these: which one is met first is not promised.
        Rejected(BTreeSet<Reason>),
        /// A number too large for `Value`: only that nothing panics.
        Anything,
    }

    /// An object with its fields in order, those that stand there twice included.
    struct Fields(Vec<(String, Box<RawValue>)>);

    impl<'de> Deserialize<'de> for Fields {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct FieldsVisitor;
            impl<'de> Visitor<'de> for FieldsVisitor {
                type Value = Fields;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                    let mut fields = Vec::new();
                    while let Some(field) = map.next_entry()? {
                        fields.push(field);
                    }
                    Ok(Fields(fields))
                }
            }
            deserializer.deserialize_map(FieldsVisitor)
        }
    }

    impl Fields {
        fn all(&self, name: &str) -> Vec<&str> {
            self.0.iter().filter(|(key, _)| key == name).map(|(_, raw)| raw.get()).collect()
        }
    }

    pub(super) fn expected(payload: &[u8]) -> Expected {
        let only = |reason| Expected::Rejected([reason].into());
        if payload.is_empty() {
            return only(Reason::Empty);
        }
        if payload.len() > 262_144 {
            return only(Reason::TooLarge);
        }
        let Ok(text) = std::str::from_utf8(payload) else { return only(Reason::NotUtf8) };
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            let content = [Reason::NotJson, Reason::TooDeep, Reason::WrongType, Reason::TooManyTickers, Reason::TooLong];
            return Expected::Rejected(content.into());
        }
        let (depth, texts) = scan(text);
        if depth > 32 {
            return only(Reason::TooDeep);
        }
        let Ok(fields) = serde_json::from_str::<Fields>(text) else {
            let forbidden_key = texts.iter().any(|text| is_forbidden(text));
            return only(if forbidden_key && text.trim_start().starts_with('{') {
                Reason::ForbiddenText
            } else {
                Reason::NotObject
            });
        };
        if texts.iter().any(|text| is_forbidden(text)) {
            return only(Reason::ForbiddenText);
        }
        if serde_json::from_str::<Value>(text).is_err() {
            return Expected::Anything;
        }
        let mut faults = BTreeSet::new();
        let id = scalar(&fields, "signal_id", true, &mut faults);
        let signal_type = scalar(&fields, "signal_type", true, &mut faults);
        let mentions = tickers(&fields, &mut faults);
        match (faults.is_empty(), mentions.is_empty()) {
            (true, true) => only(Reason::NoTicker),
            (true, false) => Expected::Signal(Seen { id, signal_type, mentions }),
            (false, _) => Expected::Rejected(faults),
        }
    }

    /// How deep valid JSON is nested, and its texts as UTF-16.
    fn scan(text: &str) -> (usize, Vec<Vec<u16>>) {
        let (mut depth, mut deepest, mut texts) = (0, 0, Vec::new());
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '[' | '{' => depth += 1,
                ']' | '}' => depth -= 1,
                '"' => texts.push(string(&mut chars)),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        (deepest, texts)
    }

    fn string(chars: &mut std::str::Chars<'_>) -> Vec<u16> {
        let mut units = Vec::new();
        loop {
            match chars.next().unwrap() {
                '"' => return units,
                '\\' => match chars.next().unwrap() {
                    'u' => units.push(u16::from_str_radix(&chars.by_ref().take(4).collect::<String>(), 16).unwrap()),
                    _ => units.push(u16::from(b'?')),
                },
                char => units.extend_from_slice(char.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn is_forbidden(text: &[u16]) -> bool {
        text.contains(&0) || String::from_utf16(text).is_err()
    }

    fn scalar(fields: &Fields, name: &str, bounded: bool, faults: &mut BTreeSet<Reason>) -> String {
        let all = fields.all(name);
        if all.len() > 1 {
            faults.insert(Reason::WrongType);
        }
        let mut text = String::new();
        for raw in all {
            text = match serde_json::from_str(raw).unwrap() {
                Value::Null => String::new(),
                Value::String(text) => text,
                Value::Array(_) | Value::Object(_) => {
                    faults.insert(Reason::WrongType);
                    String::new()
                }
                Value::Number(_) | Value::Bool(_) => raw.to_owned(),
            };
            if bounded && text.len() > 512 {
                faults.insert(Reason::TooLong);
            }
        }
        text.trim().to_owned()
    }

    fn tickers(fields: &Fields, faults: &mut BTreeSet<Reason>) -> Vec<(String, String, Option<f64>)> {
        let all = fields.all("tickers");
        if all.len() > 1 {
            faults.insert(Reason::WrongType);
        }
        let mut mentions = Vec::new();
        for raw in all {
            let Ok(entries) = serde_json::from_str::<Vec<Box<RawValue>>>(raw) else {
                faults.insert(Reason::WrongType);
                continue;
            };
            if entries.len() > 1_000 {
                faults.insert(Reason::TooManyTickers);
            }
            for entry in entries {
                match serde_json::from_str::<Fields>(entry.get()) {
                    Ok(entry) => mentions.extend(mention(&entry, faults)),
                    Err(_) => _ = faults.insert(Reason::WrongType),
                }
            }
        }
        mentions
    }

    fn mention(entry: &Fields, faults: &mut BTreeSet<Reason>) -> Option<(String, String, Option<f64>)> {
        let mut symbol = String::new();
        let mut confidence = None;
        for (name, value) in
            ["ticker", "confidence"].iter().flat_map(|name| entry.all(name).into_iter().map(move |raw| (*name, raw)))
        {
            match (name, serde_json::from_str(value).unwrap()) {
                (_, Value::Null) => {}
                ("ticker", Value::String(text)) => text.trim().clone_into(&mut symbol),
                ("confidence", Value::Number(number)) => confidence = number.as_f64(),
                _ => _ = faults.insert(Reason::WrongType),
            }
        }
        if entry.all("ticker").len() > 1 || entry.all("confidence").len() > 1 {
            faults.insert(Reason::WrongType);
        }
        let bias = scalar(entry, "signal", !symbol.is_empty(), faults);
        if symbol.chars().count() > 64 {
            faults.insert(Reason::TooLong);
        }
        (!symbol.is_empty()).then(|| (symbol.to_uppercase(), bias, confidence))
    }
}

mod random {
    use super::oracle::{Expected, expected};
    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[A-Za-z. ]{1,6}".prop_map(|text| serde_json::to_string(&text).unwrap()),
            2 => r"[\PC\t]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
            1 => "(\\\\u(00[0-9a-f]{2}|d83d\\\\ude00|2003)|\\\\[nt\"/]|[a-zß]){0,8}".prop_map(|text| format!("\"{text}\"")),
            1 => (60..70_usize, 508..516_usize, any::<bool>())
                .prop_map(|(short, long, is_long)| format!("\"{}\"", "x".repeat(if is_long { long } else { short }))),
        ]
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            3 => text(),
            2 => prop_oneof![Just("null"), Just("true"), Just("0"), Just("-1.5e3"), Just("85"), Just("18446744073709551616")].prop_map(str::to_owned),
            1 => any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|list| format!("[{}]", list.join(","))),
                (text(), inner).prop_map(|(key, value)| format!("{{{key}:{value}}}")),
            ]
        })
    }

    fn field(name: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        (value, "[ \n]{0,2}").prop_map(move |(value, space)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
    }

    fn entry() -> impl Strategy<Value = String> {
        let confidence = prop_oneof![Just("85".to_owned()), Just("99.5".to_owned()), value()];
        let others = prop_oneof![
            field("signal", text()),
            field("confidence", confidence),
            field("reasoning", value()),
            field("signal", value())
        ];
        let symbol = prop_oneof![8 => field("ticker", text()), 1 => field("ticker", value()), 1 => field("name", text())];
        (symbol, prop::collection::vec(others, 0..3)).prop_map(|(symbol, mut fields)| {
            fields.push(symbol);
            format!("{{{}}}", fields.join(","))
        })
    }

    /// Mostly signals; sometimes with a field of another type, or twice.
    fn payload() -> impl Strategy<Value = String> {
        let tickers = prop::collection::vec(entry(), 0..4).prop_map(|entries| format!("[{}]", entries.join(",")));
        let others = prop_oneof![
            3 => field("signal_id", text()),
            3 => field("signal_type", text()),
            1 => field("signal_id", value()),
            1 => field("signal_type", value()),
            2 => field("metadata", value()),
            1 => field("unknown", value()),
            1 => field("tickers", value()),
        ];
        (field("tickers", tickers), prop::collection::vec(others, 0..3), any::<prop::sample::Index>()).prop_map(
            |(tickers, mut fields, at)| {
                let at = at.index(fields.len() + 1);
                fields.insert(at, tickers);
                format!("{{{}}}", fields.join(","))
            },
        )
    }

    /// Pieces that break records, or nearly.
    const PIECES: [&[u8]; 24] = [
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\0",
        b"\xFF",
        b"\xC3",
        b"\\u0000",
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude00",
        b"null",
        b"1e999",
        b"-",
        b"\"ticker\":",
        b"\"tickers\":",
        b"{\"ticker\":\"a\"},",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"\n",
        b" ",
    ];

    type Mutation = (prop::sample::Index, u8, usize);

    fn mutated(payload: &str, mutations: &[Mutation]) -> Vec<u8> {
        let mut bytes = payload.as_bytes().to_vec();
        for (at, kind, amount) in mutations {
            let at = at.index(bytes.len() + 1);
            let end = (at + amount).min(bytes.len());
            match kind {
                0 => drop(bytes.drain(at..end)),
                1 => drop(bytes.splice(at..at, PIECES[amount % PIECES.len()].iter().copied())),
                2 => bytes.extend_from_within(at..end),
                3 => bytes.truncate(bytes.len() - amount % 4.min(bytes.len() + 1)),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << (amount % 8);
                    }
                }
            }
        }
        bytes
    }

    fn agrees(payload: &[u8]) -> Result<(), TestCaseError> {
        let shown = String::from_utf8_lossy(payload);
        let mut batch = Batch::default();
        add(Some(br#"{"tickers":[{"ticker":"first"}]}"#), &mut batch).unwrap();
        let before = (batch.text.clone(), batch.signals.clone(), batch.mentions.clone());
        let decoded = add(Some(payload), &mut batch);
        match (decoded, expected(payload)) {
            (_, Expected::Anything) => {}
            (Ok(()), Expected::Signal(signal)) => prop_assert_eq!(seen(&batch, &batch.signals()[1]), signal, "{}", shown),
            (Err(reason), Expected::Rejected(reasons)) => {
                prop_assert!(reasons.contains(&reason), "{reason:?}, not {reasons:?}: {shown}");
            }
            (decoded, expected) => prop_assert!(false, "{decoded:?}, not {expected:?}: {shown}"),
        }
        if decoded.is_err() {
            prop_assert_eq!((&batch.text, &batch.signals, &batch.mentions), (&before.0, &before.1, &before.2), "{}", shown);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_signal_is_read_as_the_oracle_reads_it(payload in payload()) {
            agrees(payload.as_bytes())?;
        }

        #[test]
        fn a_mutated_signal_never_panics_and_is_judged_as_the_oracle_judges_it(
            payload in payload(),
            mutations in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..5, 0_usize..40), 1..4),
        ) {
            agrees(&mutated(&payload, &mutations))?;
        }

        #[test]
        fn any_bytes_at_all_never_panic(payload in prop::collection::vec(any::<u8>(), 0..60)) {
            agrees(&payload)?;
        }
    }

    fn read_by(text: &str, read: impl FnOnce(&mut Batch) -> Option<(Span, Span)>) -> Option<Seen> {
        let mut batch = Batch { text: text.to_owned(), ..Batch::default() };
        let (id, signal_type) = read(&mut batch)?;
        let text = |span| batch.text(span).to_owned();
        let mentions = batch.mentions.iter().map(|mention| (text(mention.ticker), text(mention.bias), mention.confidence));
        Some(Seen { id: text(id), signal_type: text(signal_type), mentions: mentions.collect() })
    }

    fn quickly(text: &str) -> Option<Seen> {
        read_by(text, |batch| quick::fields(text, 0, batch))
    }

    fn by_serde(text: &str) -> Option<Seen> {
        carriable(text).ok()?;
        read_by(text, |batch| fields(text, 0, batch).ok())
    }

    #[test]
    fn usual_signals_are_read_quickly() {
        for payload in [
            r#"{"signal_id":"1","signal_type":"golden_cross","tickers":[{"ticker":"AAPL","signal":"BULLISH","confidence":85.5}],"metadata":{"a":[1,-2.5e+3,true,false,null,{}],"b":[]}}"#,
            r#" { "tickers" : [ { "ticker" : " brk.b " , "confidence" : null } , { } ] , "signal_id" : null , "source": "Zürich" } "#,
            "{}",
        ] {
            assert_eq!(quickly(payload), by_serde(payload), "{payload}");
            assert!(quickly(payload).is_some(), "{payload}");
        }
    }

    #[test]
    fn numbers_are_read_to_the_last_bit_as_serde_reads_them() {
        for number in ["0", "0.1", "99.99", "0.000000000000001", "999999999999999", "123456789.012345", "7.0", "1e2", "-3", "-0"]
        {
            let payload = format!(r#"{{"tickers":[{{"ticker":"A","confidence":{number}}}]}}"#);
            let confidence = |seen: Option<Seen>| Some(seen?.mentions[0].2?.to_bits());
            let serde = confidence(by_serde(&payload));
            assert!(serde.is_some());
            assert!(confidence(quickly(&payload)).is_none_or(|bits| Some(bits) == serde), "{number}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_quickly_is_what_serde_reads(
            payload in payload(),
            mutations in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..5, 0_usize..40), 0..3),
        ) {
            let bytes = mutated(&payload.replace('\n', " "), &mutations);
            agrees(&bytes)?;
            let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(()) };
            if let Some(seen) = quickly(text) {
                prop_assert_eq!(by_serde(text), Some(seen), "{}", text);
            }
        }
    }

    #[test]
    fn the_random_signals_are_of_every_kind() {
        use proptest::strategy::ValueTree as _;
        use proptest::test_runner::TestRunner;
        let mut runner = TestRunner::deterministic();
        let (mut kinds, mut quick) = (BTreeSet::new(), 0);
        for _ in 0..3_000 {
            let payload = payload().new_tree(&mut runner).unwrap().current();
            quick += usize::from(quickly(&payload.replace('\n', " ")).is_some());
            kinds.insert(read(payload).map_or_else(Reason::as_str, |_| "signal"));
        }
        for kind in ["signal", "wrong_type", "no_ticker", "too_long", "forbidden_text"] {
            assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
        }
        assert!((300..2_700).contains(&quick), "{quick} of 3,000 are read quickly");
    }
}

fn id_of(payload: &str, headers: &[(&str, Option<&[u8]>)]) -> String {
    let headers = || headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect();
    let (mut batch, payload) = (Batch::default(), Some(payload.as_bytes()));
    decode(&Record { partition: 3, offset: 7, time_ms: 11, key: None, payload, headers: &headers }, &mut batch).unwrap();
    seen(&batch, &batch.signals()[0]).id
}

#[test]
fn a_record_without_an_id_has_that_of_its_header() {
    const NAMELESS: &str = r#"{"tickers": [{"ticker": "aapl"}]}"#;
    for (headers, expected) in [
        (&[][..], ""),
        (&[("trace", Some(&b"x"[..]))], ""),
        (&[(ID_HEADER, Some(b" first "))], "first"),
        (&[(ID_HEADER, Some(b"first")), (ID_HEADER, Some(b"last"))], "last"),
        // Whatever cannot be an id is none.
        (&[(ID_HEADER, None)], ""),
        (&[(ID_HEADER, Some(b" "))], ""),
        (&[(ID_HEADER, Some(b"\xff"))], ""),
        (&[(ID_HEADER, Some(b"a\0b"))], ""),
        (&[(ID_HEADER, Some(&[b'x'; MAX_TEXT_BYTES + 1]))], ""),
    ] {
        assert_eq!(id_of(NAMELESS, headers), expected, "{headers:?}");
    }
    let named = r#"{"signal_id": "stated", "tickers": [{"ticker": "aapl"}]}"#;
    assert_eq!(id_of(named, &[(ID_HEADER, Some(b"other"))]), "stated");
}
