//! What one pipeline watches, and how a row of the platform's tables becomes that.

use serde_json::Value;
use uuid::Uuid;

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
        Ok(Self {
            pipeline_id: row.pipeline_id,
            user_id: row.user_id.clone(),
            tickers: tickers(row.tickers.as_deref())?,
            subscriptions: subscriptions(row.subscriptions.as_deref())?,
        })
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

fn subscriptions(json: Option<&str>) -> Result<Vec<Subscription>, String> {
    list(json, "subscriptions")?.iter().map(subscription).collect()
}

fn subscription(value: &Value) -> Result<Subscription, String> {
    let fields = value.as_object().ok_or("a subscription is not an object")?;
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
