//! What one pipeline watches, and how a row of the platform's tables becomes that. docs/rules.md says it to users.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use uuid::Uuid;

/// Keys of a subscription that decide what it accepts.
const KEYS: [&str; 3] = ["signal_type", "min_confidence", "timeframe"];

/// Keys that platforms write into a subscription to describe it. They decide nothing, so that nobody needs to be told of them;
/// a subscription that has only these is refused like one with unknown keys only.
const DESCRIPTIONS: [&str; 5] = ["id", "name", "description", "created_at", "updated_at"];

/// Keys longer than this are no keys but data, and are cut where they are told.
const MAX_KEY_CHARS: usize = 64;

/// Unknown keys that are told at most; more would mean that they hold data.
const MAX_UNKNOWN_KEYS: usize = 100;

/// Keys of subscriptions that decide nothing, each with the first pipeline that has it.
pub type UnknownKeys = BTreeMap<String, Uuid>;

/// A pipeline's row as the platform wrote it.
#[derive(Debug, Clone, Default)]
pub struct RuleRow {
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// Its owner.
    pub user_id: Option<String>,
    /// JSON of the tickers: the scanner's when there is one, else the pipeline's own.
    pub tickers: Option<String>,
    /// JSON of the subscriptions.
    pub subscriptions: Option<String>,
}

/// What one pipeline watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// Its owner.
    pub user_id: Option<String>,
    /// Trimmed and in upper case, as often as they are named; the index takes each once.
    pub tickers: Vec<String>,
    /// Any of these accepts a signal; none accepts every signal.
    pub subscriptions: Vec<Subscription>,
}

/// A kind of signal that a pipeline accepts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subscription {
    /// The signal's type; every type when `None`.
    pub signal_type: Option<String>,
    /// The least confidence; a signal without one does not meet it.
    pub min_confidence: Option<f64>,
    /// The signal's timeframe; every timeframe when `None`.
    pub timeframe: Option<String>,
}

impl TryFrom<&RuleRow> for Rule {
    type Error = String;

    /// Reads a row; the error says what makes no sense in it.
    fn try_from(row: &RuleRow) -> Result<Self, String> {
        Self::read(row, &mut UnknownKeys::new())
    }
}

impl Rule {
    /// Reads a row, and takes note of unknown keys in the subscriptions of a rule that is good.
    ///
    /// # Errors
    /// Says what makes no sense in the row, and what to do.
    pub fn read(row: &RuleRow, unknown: &mut UnknownKeys) -> Result<Self, String> {
        let subscriptions = list(row.subscriptions.as_deref(), "subscriptions")?;
        let rule = Self {
            pipeline_id: row.pipeline_id,
            user_id: row.user_id.clone(),
            tickers: tickers(row.tickers.as_deref())?,
            subscriptions: subscriptions.iter().map(subscription).collect::<Result<_, _>>()?,
        };
        for key in subscriptions.iter().filter_map(Value::as_object).flat_map(unknown_keys) {
            if unknown.len() < MAX_UNKNOWN_KEYS && !DESCRIPTIONS.contains(&key) {
                unknown.entry(cut(key)).or_insert(row.pipeline_id);
            }
        }
        Ok(rule)
    }
}

fn list(json: Option<&str>, name: &str) -> Result<Vec<Value>, String> {
    let value = json.map_or(Ok(Value::Null), serde_json::from_str).map_err(|_| format!("{name} are not JSON"))?;
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list),
        _ => Err(format!("{name} are not a list")),
    }
}

fn tickers(json: Option<&str>) -> Result<Vec<String>, String> {
    let mut tickers = Vec::new();
    for value in list(json, "tickers")? {
        let Value::String(text) = value else { return Err("a ticker is not a text".to_owned()) };
        let ticker = text.trim().to_uppercase();
        if !ticker.is_empty() {
            tickers.push(ticker);
        }
    }
    Ok(tickers)
}

/// The keys of a subscription that decide nothing.
fn unknown_keys(fields: &Map<String, Value>) -> impl Iterator<Item = &str> {
    fields.keys().map(String::as_str).filter(|key| !KEYS.contains(key))
}

fn cut(key: &str) -> String {
    key.chars().take(MAX_KEY_CHARS).collect()
}

fn subscription(value: &Value) -> Result<Subscription, String> {
    let fields = value.as_object().ok_or("a subscription is not an object")?;
    // Read as a subscription without conditions it would accept every signal, which a misspelt key does not ask for.
    if let Some(key) = unknown_keys(fields).next()
        && !KEYS.iter().any(|known| fields.contains_key(*known))
    {
        let (key, known) = (cut(key), KEYS.join(", "));
        return Err(format!(
            "a subscription has the unknown key {key} and none of {known}: correct the key, or write {{}} to accept every signal"
        ));
    }
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("a subscription's {name} is not a text")),
    };
    let min_confidence = match fields.get("min_confidence") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_f64().ok_or("a subscription's min_confidence is not a number")?),
    };
    Ok(Subscription { signal_type: text("signal_type")?, min_confidence, timeframe: text("timeframe")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tickers: &str, subscriptions: Option<&str>) -> RuleRow {
        RuleRow { tickers: Some(tickers.to_owned()), subscriptions: subscriptions.map(str::to_owned), ..RuleRow::default() }
    }

    #[test]
    fn tickers_are_trimmed_and_upper_cased() {
        let rule = Rule::try_from(&row(r#"[" aapl", "AAPL", "", "münch"]"#, None)).unwrap();
        assert_eq!(rule.tickers, ["AAPL", "AAPL", "MÜNCH"]);
    }

    #[test]
    fn a_missing_list_is_an_empty_one() {
        let rule = Rule::try_from(&RuleRow::default()).unwrap();
        assert_eq!((rule.tickers.len(), rule.subscriptions.len()), (0, 0));
    }

    #[test]
    fn a_subscription_keeps_what_it_says() {
        let rule =
            Rule::try_from(&row("[]", Some(r#"[{"signal_type": "golden_cross", "min_confidence": 80, "timeframe": null}]"#)));
        let expected = Subscription { signal_type: Some("golden_cross".into()), min_confidence: Some(80.0), timeframe: None };
        assert_eq!(rule.unwrap().subscriptions, [expected]);
    }

    #[test]
    fn a_subscription_with_unknown_keys_and_no_known_one_is_refused() {
        for (subscriptions, key) in [
            (r#"[{"signal_typ": "golden_cross"}]"#, "signal_typ"),
            (r#"[{"signal_type": "golden_cross"}, {"Signal_Type": "golden_cross"}]"#, "Signal_Type"),
            (r#"[{"signal_type ": "golden_cross"}]"#, "signal_type "),
            (r#"[{"id": 7}]"#, "id"),
        ] {
            let mut unknown = UnknownKeys::new();
            let error = Rule::read(&row("[]", Some(subscriptions)), &mut unknown).unwrap_err();
            assert!(error.starts_with(&format!("a subscription has the unknown key {key} and none of signal_type, ")), "{error}");
            assert_eq!(unknown, UnknownKeys::new(), "the reason names it already");
        }
        let long = format!(r#"[{{"{}": 1}}]"#, "é".repeat(100_000));
        assert!(Rule::try_from(&row("[]", Some(&long))).unwrap_err().len() < 400);
    }

    #[test]
    fn unknown_keys_beside_known_ones_are_noted_with_the_first_pipeline_and_descriptions_are_not() {
        let mut unknown = UnknownKeys::new();
        let mut read = |number, subscriptions| {
            let pipeline_id = Uuid::from_u128(number);
            Rule::read(&RuleRow { pipeline_id, ..row("[]", Some(subscriptions)) }, &mut unknown).unwrap().subscriptions
        };
        let both = read(
            1,
            r#"[{"signal_type": "a", "min_confidenze": 80, "name": "mine"}, {"timeframe": null, "direction": "up"}, {}]"#,
        );
        assert_eq!(both[0], Subscription { signal_type: Some("a".to_owned()), ..Subscription::default() });
        read(2, r#"[{"signal_type": "b", "direction": "down", "direction 2": 1}]"#);
        let expected = [("direction", 1), ("direction 2", 2), ("min_confidenze", 1)];
        assert_eq!(unknown, expected.map(|(key, number)| (key.to_owned(), Uuid::from_u128(number))).into());
        // Keys that are data do not fill the memory.
        for number in 0..1_000 {
            Rule::read(&row("[]", Some(&format!(r#"[{{"timeframe": null, "{number}": 1}}]"#))), &mut unknown).unwrap();
        }
        assert_eq!(unknown.len(), MAX_UNKNOWN_KEYS);
    }

    #[test]
    fn a_row_that_makes_no_sense_says_why() {
        for (tickers, subscriptions, reason) in [
            (r#""AAPL""#, None, "tickers are not a list"),
            (r#"{"AAPL": 1}"#, None, "tickers are not a list"),
            ("[1]", None, "a ticker is not a text"),
            ("[", None, "tickers are not JSON"),
            ("[]", Some("7"), "subscriptions are not a list"),
            ("[]", Some("[7]"), "a subscription is not an object"),
            ("[]", Some(r#"[{"signal_type": 7}]"#), "a subscription's signal_type is not a text"),
            ("[]", Some(r#"[{"min_confidence": "80"}]"#), "a subscription's min_confidence is not a number"),
        ] {
            assert_eq!(Rule::try_from(&row(tickers, subscriptions)), Err(reason.to_owned()), "{tickers} {subscriptions:?}");
        }
    }
}
