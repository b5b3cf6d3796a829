//! Any row of the platform's is a rule, or skipped with a reason; rules can always be indexed and asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trigger_dispatcher::rules::{Rule, RuleRow, RuleSet};
use uuid::Uuid;

fuzz_target!(|row: (Option<String>, Option<String>)| {
    let row = RuleRow { pipeline_id: Uuid::nil(), user_id: None, tickers: row.0, subscriptions: row.1 };
    if let Ok(rule) = Rule::try_from(&row) {
        assert!(rule.tickers.iter().all(|ticker| !ticker.is_empty()));
        let tickers = rule.tickers.len();
        let rules = RuleSet::new(vec![rule]);
        assert_eq!((rules.len(), rules.tickers()), (1, tickers));
    }
});
