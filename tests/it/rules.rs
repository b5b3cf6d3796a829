//! Which pipelines watch what, and how a change of that arrives.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::support::dispatcher::Instance;
use super::support::scene::{Scene, signal};
use super::support::{unique, wait_for};

/// Signals with new ids, one after the other, until `arrived`: the rules are read at some moment in between.
fn send_until(scene: &mut Scene, ticker: &str, arrived: impl Fn(&[Uuid]) -> bool) {
    let mut number = 0;
    wait_for(&format!("what {ticker} starts"), 20, || {
        number += 1;
        scene.topic.send_json(0, &signal(&format!("{ticker}-{number}"), ticker));
        scene.topic.flush();
        let pipelines = scene.queue.pipelines();
        arrived(&pipelines).then_some(())
    });
}

/// Whether the rules in use are of so many pipelines.
fn is_loaded(dispatcher: &Instance, pipelines: u64) -> bool {
    dispatcher.events("rules_refreshed").last().is_some_and(|line| line["pipelines"] == json!(pipelines))
}

#[tokio::test]
async fn a_scanners_tickers_win_over_the_pipelines_own() {
    let mut scene = Scene::new(1).await;
    let scanner = Uuid::new_v4();
    let config = json!({"tickers": [" msft", "TSLA"], "other": 1});
    scene.database.client.execute("insert into scanners (id, config) values ($1, $2)", &[&scanner, &config]).await.unwrap();
    let scanning = scene.database.pipeline("with a scanner", &["AAPL"]).await;
    let sql = "update pipelines set scanner_id = $1 where id = $2";
    scene.database.client.execute(sql, &[&scanner, &scanning]).await.unwrap();
    let own = scene.database.pipeline("without", &["AAPL"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL"), signal("2", "MSFT")]);
    let total = scene.decided(2).await;
    assert_eq!(total.triggered, 2);
    scene.enqueued(2);
    let started: BTreeSet<_> = scene.queue.tasks().iter().map(|task| (task.pipeline_id, task.symbol().to_owned())).collect();
    assert_eq!(started, BTreeSet::from([(own, "AAPL".to_owned()), (scanning, "MSFT".to_owned())]));
}

#[tokio::test]
async fn a_platform_without_the_optional_tables_and_columns_is_served() {
    let mut scene = Scene::new(1).await;
    let sql = "alter table pipelines drop column scanner_id, drop column signal_subscriptions; drop table scanners;
        alter table executions drop column symbol, drop column created_at;
        alter table pipelines add column something_else point, alter user_id drop not null";
    scene.database.client.batch_execute(sql).await.unwrap();
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    scene.database.client.execute("update pipelines set user_id = null", &[]).await.unwrap();
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(scene.queue.tasks()[0].kwargs["user_id"], Value::Null);
    scene.send(&[signal("2", "AAPL")]);
    assert_eq!(scene.decided(2).await.busy, 1);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn subscriptions_say_which_signals_a_pipeline_accepts() {
    let golden = |confidence: Value, timeframe: Value| json!({"signal_type": "golden_cross", "tickers": [{"confidence": confidence}], "metadata": {"timeframe": timeframe}});
    let strong = golden(json!(80), json!("1d"));
    let weak = golden(json!(79.9), json!("1d"));
    let silent = golden(json!(null), json!("1d"));
    let hourly = golden(json!(80), json!("1h"));
    let timeless = json!({"signal_type": "golden_cross", "tickers": [{"confidence": 80}]});
    let typeless = json!({"tickers": [{"confidence": 80}], "metadata": {"timeframe": "1d"}});
    let death = json!({"signal_type": "death_cross", "tickers": [{"confidence": 80}], "metadata": {"timeframe": "1d"}});
    let everything = [&strong, &weak, &silent, &hourly, &timeless, &typeless, &death];
    let cases = [
        (Value::Null, everything.to_vec()),
        (json!([]), everything.to_vec()),
        (json!([{}]), everything.to_vec()),
        (json!([{"signal_type": "golden_cross"}]), vec![&strong, &weak, &silent, &hourly, &timeless]),
        (
            json!([{"signal_type": "golden_cross", "min_confidence": null, "timeframe": null}]),
            vec![&strong, &weak, &silent, &hourly, &timeless],
        ),
        (json!([{"min_confidence": 80}]), vec![&strong, &hourly, &timeless, &typeless, &death]),
        (json!([{"timeframe": "1d"}]), vec![&strong, &weak, &silent, &typeless, &death]),
        (json!([{"signal_type": "golden_cross", "min_confidence": 80, "timeframe": "1d"}]), vec![&strong]),
        (json!([{"signal_type": "death_cross"}, {"timeframe": "1h"}]), vec![&hourly, &death]),
        (json!([{"signal_type": "rsi"}]), vec![]),
    ];
    let mut scene = Scene::new(1).await;
    let (mut expected, mut sent) = (BTreeSet::new(), 0);
    for (case, (subscriptions, accepted)) in cases.iter().enumerate() {
        for (number, signal) in everything.iter().enumerate() {
            let ticker = format!("T{case}.{number}");
            let pipeline = scene.database.pipeline(&ticker, &[&ticker]).await;
            let subscriptions = Some(subscriptions).filter(|subscriptions| !subscriptions.is_null());
            let sql = "update pipelines set signal_subscriptions = $1 where id = $2";
            scene.database.client.execute(sql, &[&subscriptions, &pipeline]).await.unwrap();
            let mut signal = (*signal).clone();
            signal["tickers"][0]["ticker"] = json!(ticker);
            scene.topic.send_json(0, &signal);
            sent += 1;
            if accepted.contains(&everything[number]) {
                expected.insert(ticker);
            }
        }
    }
    scene.topic.flush();
    let _dispatcher = scene.setting.start();
    let total = scene.decided(sent).await;
    scene.enqueued(expected.len());
    let started: BTreeSet<_> = scene.queue.tasks().iter().map(|task| task.symbol().to_owned()).collect();
    assert_eq!(started, expected);
    assert_eq!(total.unmatched, sent - i64::try_from(expected.len()).unwrap());
}

#[tokio::test]
async fn rows_that_make_no_sense_are_named_once_and_the_others_load() {
    let mut scene = Scene::new(1).await;
    let mut senseless = BTreeSet::new();
    for (column, value) in [
        ("scanner_tickers", json!("AAPL")),
        ("scanner_tickers", json!({"AAPL": true})),
        ("scanner_tickers", json!([["AAPL"]])),
        ("scanner_tickers", json!(7)),
        ("signal_subscriptions", json!("golden_cross")),
        ("signal_subscriptions", json!([{"min_confidence": "high"}])),
        ("signal_subscriptions", json!([{"signal_typ": "golden_cross"}])),
    ] {
        let pipeline = scene.database.pipeline("senseless", &["AAPL"]).await;
        scene
            .database
            .client
            .execute(&format!("update pipelines set {column} = $1 where id = $2"), &[&value, &pipeline])
            .await
            .unwrap();
        senseless.insert(pipeline.to_string());
    }
    let good = scene.database.pipeline("good", &["AAPL"]).await;
    let inactive = scene.database.pipeline("inactive", &["AAPL"]).await;
    scene.database.client.execute("update pipelines set is_active = false where id = $1", &[&inactive]).await.unwrap();
    let scheduled = scene.database.pipeline("scheduled", &["AAPL"]).await;
    scene.database.client.execute("update pipelines set trigger_mode = 'schedule' where id = $1", &[&scheduled]).await.unwrap();
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "0.1");
    let dispatcher = scene.setting.start();
    let refreshed = dispatcher.wait_for_event("rules_refreshed");
    assert_eq!((refreshed["pipelines"].clone(), refreshed["skipped"].clone()), (json!(1), json!(7)));
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [good]);
    // Two more refreshes: what was named before is not named again.
    for number in 2..4 {
        scene.database.pipeline("another", &["MSFT"]).await;
        wait_for("a refresh", 20, || is_loaded(&dispatcher, number).then_some(()));
    }
    let named: Vec<String> =
        dispatcher.events("pipeline_skipped").iter().map(|line| line["pipeline_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named.len(), 7, "{named:?}");
    assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), senseless);
    for line in dispatcher.events("pipeline_skipped") {
        assert!(!line["reason"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_unknown_key_beside_a_known_one_is_named_once_however_many_have_it() {
    let mut scene = Scene::new(1).await;
    for name in ["one", "two"] {
        let pipeline = scene.database.pipeline(name, &["AAPL"]).await;
        let subscriptions = json!([{"signal_type": "golden_cross", "min_confidenze": 80, "description": "mine"}]);
        let sql = "update pipelines set signal_subscriptions = $1 where id = $2";
        scene.database.client.execute(sql, &[&subscriptions, &pipeline]).await.unwrap();
    }
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "0.1");
    let dispatcher = scene.setting.start();
    for number in 3..5 {
        scene.database.pipeline("another", &["MSFT"]).await;
        wait_for("a refresh", 20, || is_loaded(&dispatcher, number).then_some(()));
    }
    let named = dispatcher.events("subscription_key_unknown");
    assert_eq!(named.iter().map(|line| line["key"].as_str().unwrap()).collect::<Vec<_>>(), ["min_confidenze"], "{named:?}");
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(2).len(), 2, "the known key holds");
}

#[tokio::test]
async fn a_change_of_the_rules_is_seen_at_once() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "3600");
    let dispatcher = scene.setting.start();
    assert!(is_loaded(&dispatcher, 0));
    let first = scene.database.pipeline("new", &["AAPL"]).await;
    send_until(&mut scene, "AAPL", |pipelines| pipelines == [first]);
    // Its tickers change.
    scene.database.client.execute("update pipelines set scanner_tickers = '[\"MSFT\"]'", &[]).await.unwrap();
    let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'COMPLETED')";
    scene.database.client.execute(sql, &[&Uuid::new_v4(), &first]).await.unwrap();
    send_until(&mut scene, "MSFT", |pipelines| pipelines.len() == 2);
    // A scanner's do.
    let scanner = Uuid::new_v4();
    scene.database.client.execute("insert into scanners (id) values ($1)", &[&scanner]).await.unwrap();
    let second = scene.database.pipeline("with a scanner", &[]).await;
    scene.database.client.execute("update pipelines set scanner_id = $1 where id = $2", &[&scanner, &second]).await.unwrap();
    wait_for("two pipelines", 20, || is_loaded(&dispatcher, 2).then_some(()));
    scene.database.client.execute("update scanners set config = '{\"tickers\": [\"TSLA\"]}'", &[]).await.unwrap();
    send_until(&mut scene, "TSLA", |pipelines| pipelines.last() == Some(&second));
    // One is switched off.
    scene.database.client.execute("update pipelines set is_active = false where id = $1", &[&second]).await.unwrap();
    wait_for("one pipeline", 20, || is_loaded(&dispatcher, 1).then_some(()));
}

#[tokio::test]
async fn many_pipelines_are_read_to_the_last_at_the_start_and_later() {
    let mut scene = Scene::new(1).await;
    // Several slices, the last one full.
    let sql = "insert into pipelines (id, user_id, name, is_active, trigger_mode, scanner_tickers)
        select gen_random_uuid(), gen_random_uuid(), 'of many', true, 'signal', jsonb_build_array('T' || n) from generate_series(1, 3000) n";
    scene.database.client.execute(sql, &[]).await.unwrap();
    let dispatcher = scene.setting.start();
    assert!(is_loaded(&dispatcher, 3_000));
    scene.send(&[1, 1_000, 1_001, 2_000, 3_000].map(|number| signal(&number.to_string(), &format!("T{number}"))));
    scene.enqueued(5);
    let last = scene.database.pipeline("one more", &["LAST"]).await;
    wait_for("one more", 20, || is_loaded(&dispatcher, 3_001).then_some(()));
    scene.send(&[signal("last", "LAST")]);
    assert!(scene.enqueued(6).contains(&last));
}

/// A role that may make its own schema, and otherwise only read what the dispatcher reads.
async fn guest(scene: &mut Scene) {
    let role = unique("guest");
    let database = &scene.database.name;
    let sql = format!(
        "create role {role} login password 'guest';
         grant create on database {database} to {role};
         grant select on pipelines, scanners, executions to {role}"
    );
    scene.database.client.batch_execute(&sql).await.unwrap();
    scene.setting.set("POSTGRES_USER", &role).set("POSTGRES_PASSWORD", "guest");
}

#[tokio::test]
async fn a_role_that_may_only_read_the_platforms_tables_sees_changes_at_the_interval() {
    let mut scene = Scene::new(1).await;
    guest(&mut scene).await;
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "0.5");
    let dispatcher = scene.setting.start();
    let migrated = dispatcher.wait_for_event("migrated");
    assert_eq!(migrated["silent"], json!(["pipelines", "scanners"]), "{migrated}");
    let triggers =
        "select count(*) from pg_trigger where tgrelid in ('pipelines'::regclass, 'scanners'::regclass) and not tgisinternal";
    assert_eq!(scene.database.number(triggers).await, 0);
    let pipeline = scene.database.pipeline("new", &["AAPL"]).await;
    send_until(&mut scene, "AAPL", |pipelines| pipelines == [pipeline]);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_the_old_rules_and_says_how_old_they_are() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "0.2");
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.database.client.batch_execute("alter table pipelines rename to pipelines_away").await.unwrap();
    let failed = dispatcher.wait_for_event("rules_refresh_failed");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("pipelines") && error.contains(" s old"), "{error}");
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    scene.database.client.batch_execute("alter table pipelines_away rename to pipelines").await.unwrap();
    let second = scene.database.pipeline("new", &["MSFT"]).await;
    send_until(&mut scene, "MSFT", |pipelines| pipelines.last() == Some(&second));
    wait_for("a word of recovery", 20, || dispatcher.events("recovered").pop());
}

#[tokio::test]
async fn no_change_of_the_rules_is_missed_when_a_session_is_cut() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CACHE_REFRESH_INTERVAL_SECONDS", "3600");
    let dispatcher = scene.setting.start();
    // Every session of the dispatcher is cut; what changed meanwhile must be seen all the same.
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'trigger-dispatcher' and datname = current_database()";
    scene.database.client.execute(cut, &[]).await.unwrap();
    let pipeline = scene.database.pipeline("new", &["AAPL"]).await;
    send_until(&mut scene, "AAPL", |pipelines| pipelines == [pipeline]);
    assert!(dispatcher.stop().success());
}
