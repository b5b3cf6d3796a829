//! Any row of the platform's is a rule, or skipped with a reason; rules can always be indexed and asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trigger_dispatcher::rules::{Rule, RuleRow, RuleSet, UnknownKeys};
use uuid::Uuid;

fuzz_target!(|row: (Option<String>, Option<String>)| {
    let row = RuleRow { pipeline_id: Uuid::nil(), user_id: None, tickers: row.0, subscriptions: row.1 };
    let mut unknown = UnknownKeys::new();
    let rule = Rule::read(&row, &mut unknown);
    assert!(unknown.len() <= 100 && unknown.keys().all(|key| key.chars().count() <= 64));
    if let Ok(rule) = rule {
        assert!(rule.tickers.iter().all(|ticker| !ticker.is_empty()));
        let tickers = rule.tickers.len();
        let rules = RuleSet::new(vec![rule]);
        assert_eq!((rules.len(), rules.tickers()), (1, tickers));
    }
});
