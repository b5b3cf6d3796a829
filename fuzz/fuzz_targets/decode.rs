//! Any bytes are a signal, or rejected for a reason; neither touches what the batch holds already. The quick reader of usual
//! signals and serde read the same: a line feed before the payload, which changes nothing else, leaves it to serde.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use trigger_dispatcher::intake::{Batch, Details, MAX_RECORD_BYTES, Reason, Record};

fn record<'a>(offset: i64, payload: &'a [u8], headers: &'a dyn Fn() -> Vec<(String, Option<Vec<u8>>)>) -> Record<'a> {
    Record { partition: 0, offset, time_ms: 0, key: None, payload: Some(payload), headers }
}

/// What is read of a payload, or why it is rejected.
fn read(payload: &[u8]) -> Result<String, Reason> {
    let headers = || Vec::new();
    let mut batch = Batch::default();
    batch.push(&record(0, payload, &headers), 1, i64::MIN, Instant::now());
    let Some(signal) = batch.signals().first() else { return Err(batch.rejected()[0].reason) };
    let text = |span| batch.text(span).to_owned();
    let mentions: Vec<_> = batch
        .mentions(signal)
        .iter()
        .map(|mention| (text(mention.ticker), mention.key, text(mention.bias), mention.confidence.map(f64::to_bits)))
        .collect();
    Ok(format!("{:?} {:?} {mentions:?}", text(signal.stated_id), text(signal.signal_type)))
}

fuzz_target!(|payload: &[u8]| {
    if !payload.is_empty() && payload.len() < MAX_RECORD_BYTES {
        assert_eq!(read(payload), read(&[b"\n", payload].concat()));
    }
    let headers = || Vec::new();
    let mut batch = Batch::default();
    let first = br#"{"tickers": [{"ticker": "AAPL"}]}"#;
    for (offset, payload) in [(0, first.as_slice()), (1, payload)] {
        batch.push(&record(offset, payload, &headers), 1, i64::MIN, Instant::now());
    }
    assert_eq!(batch.records(), 2);
    assert_eq!(batch.signals().len() + batch.rejected().len(), 2);
    let ticker = |position: usize| {
        let signal = &batch.signals()[position];
        batch.mentions(signal).iter().map(|mention| batch.text(mention.ticker).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ticker(0), ["AAPL"]);
    if batch.signals().len() == 2 {
        assert!(!ticker(1).is_empty());
        assert!(ticker(1).iter().all(|ticker| !ticker.trim().is_empty() && !ticker.contains('\0')));
        let payload = batch.text(batch.signals()[1].payload);
        serde_json::from_str::<serde::de::IgnoredAny>(payload).expect("an accepted payload is JSON");
        let _timeframe = Details::read(payload).timeframe();
    }
});
