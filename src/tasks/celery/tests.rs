//! The encoder, without a broker. That workers run these messages is for tests/it/golden.rs to show.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use super::*;

const ID: &str = "11111111-2222-5333-8444-555555555555";

fn celery() -> CeleryConfig {
    CeleryConfig::of_defaults()
}

fn task(kwargs: &str) -> Task {
    Task { trigger_id: ID.parse().unwrap(), kwargs: kwargs.to_owned() }
}

fn expires() -> Timestamp {
    "2026-11-22T10:15:00.5Z".parse().unwrap()
}

#[test]
fn the_body_has_the_three_parts_that_workers_require() {
    let body: Value = serde_json::from_str(&Encoder::body(&task(r#"{"symbol": "Zürich \"🚀\""}"#))).unwrap();
    let embed = json!({"callbacks": null, "errbacks": null, "chain": null, "chord": null});
    assert_eq!(body, json!([[], {"symbol": "Zürich \"🚀\""}, embed]));
}

#[test]
fn the_headers_are_exactly_the_protocols() {
    let headers = Encoder::new(&celery()).headers(&task("{}"), expires());
    let names: BTreeSet<_> = headers.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(OWN_HEADERS));
    assert_eq!((&headers["id"], &headers["root_id"]), (&json!(ID), &json!(ID)));
    assert_eq!(headers["task"], "app.orchestration.tasks.execute_pipeline");
    assert_eq!(headers["expires"], "2026-11-22T10:15:00.500000+00:00");
    assert_eq!(headers["timelimit"], json!([null, null]), "a list of any other length kills a worker");
    assert_eq!((&headers["retries"], &headers["eta"], &headers["ignore_result"]), (&json!(0), &Value::Null, &Value::Null));
}

#[test]
fn a_configured_header_is_added_but_none_of_the_protocols_is_replaced() {
    let mut celery = celery();
    celery.headers =
        json!({"traceparent": "00-1-2-01", "id": null, "task": "other", "timelimit": [1]}).as_object().unwrap().clone();
    let headers = Encoder::new(&celery).headers(&task("{}"), expires());
    assert_eq!(headers["traceparent"], "00-1-2-01");
    assert_eq!(
        (&headers["id"], &headers["task"], &headers["timelimit"]),
        (&json!(ID), &json!(celery.task_name), &json!([null, null]))
    );
    assert_eq!(headers.len(), OWN_HEADERS.len() + 1);
}

#[test]
fn what_workers_log_of_the_arguments_ends_between_two_characters() {
    for kwargs in ["é".repeat(5_000), "🚀".repeat(5_000), "x".repeat(1_025)] {
        let headers = Encoder::new(&celery()).headers(&task(&kwargs), expires());
        let shown = headers["kwargsrepr"].as_str().unwrap();
        assert_eq!(shown.chars().count(), 1_024);
        assert!(kwargs.starts_with(shown));
    }
    let headers = Encoder::new(&celery()).headers(&task(r#"{"a": 1}"#), expires());
    assert_eq!(headers["kwargsrepr"], r#"{"a": 1}"#);
}

#[test]
fn a_redis_message_has_everything_that_kombu_requires() {
    let mut celery = celery();
    (celery.task_queue, celery.priority, celery.global_keyprefix) = ("pipelines".to_owned(), 5, "prefix:".to_owned());
    let encoder = Encoder::new(&celery);
    let task = task(r#"{"symbol": "東京"}"#);
    let message: Value = serde_json::from_str(&encoder.redis_messages([&task], expires())[0]).unwrap();
    let names: Vec<_> = message.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["body", "content-encoding", "content-type", "headers", "properties"]);
    assert_eq!(BASE64.decode(message["body"].as_str().unwrap()).unwrap(), Encoder::body(&task).as_bytes());
    assert_eq!(message["headers"], Value::Object(encoder.headers(&task, expires())));
    assert_eq!((&message["content-type"], &message["content-encoding"]), (&json!("application/json"), &json!("utf-8")));
    let properties = &message["properties"];
    assert_eq!(properties["body_encoding"], "base64");
    assert_eq!((&properties["delivery_tag"], &properties["correlation_id"]), (&json!(ID), &json!(ID)));
    assert_eq!((&properties["priority"], &properties["delivery_mode"]), (&json!(5), &json!(2)));
    // A restored message goes where this says: the prefix is not a part of the queue's name.
    assert_eq!(properties["delivery_info"], json!({"exchange": "", "routing_key": "pipelines"}));
}

proptest! {
    #[test]
    fn a_filled_message_is_the_one_that_would_be_made_whole(kwargs in any::<String>(), id in any::<u128>(), header in "[ -~]{0,40}", us in 0..4_000_000_000_000_000_i64) {
        let mut celery = celery();
        celery.headers = json!({"note": header}).as_object().unwrap().clone();
        let encoder = Encoder::new(&celery);
        let (task, expires) = (Task { trigger_id: Uuid::from_u128(id), kwargs }, Timestamp::from_microsecond(us).unwrap());
        let gaps = Gaps {
            id: task.trigger_id.to_string(),
            expires: iso8601(expires),
            kwargs: shown(&task.kwargs).to_owned(),
            body: BASE64.encode(Encoder::body(&task)),
        };
        prop_assert_eq!(encoder.redis_messages([&task], expires), [encoder.redis_message_of(&celery, &gaps).to_string()]);
    }

    #[test]
    fn times_are_written_as_strftime_writes_them(us in -62_000_000_000_000_000..200_000_000_000_000_000_i64) {
        let time = Timestamp::from_microsecond(us).unwrap();
        prop_assert_eq!(iso8601(time), time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string());
    }
}

#[test]
fn each_priority_has_the_list_of_its_step() {
    let mut celery = celery();
    (celery.task_queue, celery.global_keyprefix) = ("q".to_owned(), "p:".to_owned());
    for (priorities, list) in
        [(0..=2, "p:q"), (3..=5, "p:q\u{6}\u{16}3"), (6..=8, "p:q\u{6}\u{16}6"), (9..=255, "p:q\u{6}\u{16}9")]
    {
        for priority in priorities {
            celery.priority = priority;
            assert_eq!(redis_list(&celery), list, "{priority}");
        }
    }
    (celery.priority_steps, celery.priority_separator, celery.priority) = (vec![0, 4], ":".to_owned(), 5);
    assert_eq!(redis_list(&celery), "p:q:4");
}

#[test]
fn times_have_six_decimals_and_an_offset() {
    for (time, text) in [
        ("2026-11-22T10:15:00Z", "2026-11-22T10:15:00.000000+00:00"),
        ("2026-11-22T10:15:00.999999999Z", "2026-11-22T10:15:00.999999+00:00"),
        ("2026-11-22T10:15:00.000001+02:00", "2026-11-22T08:15:00.000001+00:00"),
        ("0999-01-01T00:00:00Z", "0999-01-01T00:00:00.000000+00:00"),
    ] {
        assert_eq!(iso8601(time.parse().unwrap()), text);
    }
}
