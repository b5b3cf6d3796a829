//! Any bytes are a signal, or rejected for a reason; neither touches what the batch holds already.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use trigger_dispatcher::intake::{Batch, Details, Record};

fn record<'a>(offset: i64, payload: &'a [u8], headers: &'a dyn Fn() -> Vec<(String, Option<Vec<u8>>)>) -> Record<'a> {
    Record { partition: 0, offset, time_ms: 0, key: None, payload: Some(payload), headers }
}

fuzz_target!(|payload: &[u8]| {
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
