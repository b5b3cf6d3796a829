//! The triggers that tell changes of the rules at once: made by consent only, and in nobody's way.

use std::io::Write as _;
use std::process::{Output, Stdio};

use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::scene::{Scene, signal};
use crate::support::unique;

const TRIGGERS: &str = "select count(*) from pg_trigger where tgname like 'dispatcher%'";

#[tokio::test]
async fn run_adds_no_trigger_to_the_platforms_tables_though_it_could() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(scene.database.number(TRIGGERS).await, 0);
    let told = dispatcher.events("rule_changes");
    assert!(told.iter().all(|line| line["text"].as_str().unwrap().contains("--install-notify")), "{told:?}");
    assert_eq!(told.len(), 2);
}

/// What stood in the way with the triggers of older versions.
async fn change_everything(database: &TestDatabase) {
    for sql in [
        "alter table pipelines alter trigger_mode type varchar(20)",
        "alter table pipelines alter is_active type text using is_active::text",
        "alter table pipelines drop column scanner_tickers",
        "alter table pipelines rename column signal_subscriptions to wanted",
        "alter table scanners drop column config",
        "update pipelines set name = name",
        "update scanners set id = id",
        "delete from pipelines",
        "truncate pipelines",
        "drop schema dispatcher cascade",
        "insert into pipelines (id, user_id, name, is_active) values (gen_random_uuid(), gen_random_uuid(), 'after', 'true')",
        "drop table pipelines, scanners",
    ] {
        let changed = database.client.batch_execute(sql).await;
        assert!(changed.is_ok(), "{sql}: {changed:?}");
    }
}

#[tokio::test]
async fn the_platform_may_change_its_tables_as_it_likes() {
    let scene = Scene::new(1).await;
    assert_eq!(scene.install_notify().matches("seen at once").count(), 2);
    scene.database.pipeline("watches", &["AAPL"]).await;
    assert_eq!(scene.database.number(TRIGGERS).await, 4);
    change_everything(&scene.database).await;
}

#[tokio::test]
async fn triggers_of_older_versions_are_told_of_and_replaced() {
    let scene = Scene::new(1).await;
    assert!(scene.setting.run(&["migrate"]).status.success());
    let of_then = "create function dispatcher.tell_rules_changed() returns trigger language plpgsql as
            $$ begin perform pg_notify('dispatcher_rules_changed', ''); return null; end $$;
        create trigger dispatcher_rules_changed after insert or delete or update of is_active, trigger_mode, scanner_tickers on pipelines
            for each statement execute function dispatcher.tell_rules_changed();
        create trigger dispatcher_rules_changed after insert or delete or update of config on scanners
            for each statement execute function dispatcher.tell_rules_changed()";
    scene.database.run(of_then).await;
    let refused = scene.database.client.batch_execute("alter table pipelines drop column scanner_tickers").await;
    assert!(format!("{refused:?}").contains("dispatcher_rules_changed"), "{refused:?}");
    let dispatcher = scene.setting.start();
    assert_eq!(dispatcher.events("notify_triggers_outdated").len(), 2);
    assert!(dispatcher.stop().success());
    assert_eq!(scene.install_notify().matches("older version").count(), 0);
    assert_eq!(scene.install_notify().matches("seen at once").count(), 2);
    change_everything(&scene.database).await;
}

#[tokio::test]
async fn only_changes_that_concern_the_rules_are_told() {
    let scene = Scene::new(1).await;
    scene.install_notify();
    scene.database.pipeline("one", &["AAPL"]).await;
    scene.database.pipeline("another", &["AAPL"]).await;
    let told = |sql: &str| {
        let output =
            scene.database.program("psql").args(["-X", "-c", "listen dispatcher_rules_changed", "-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().matches("Asynchronous notification").count()
    };
    for (sql, expected) in [
        ("update pipelines set name = name || '!', created_at = now()", 0),
        ("update pipelines set is_active = true", 0),
        ("update pipelines set is_active = false where name = 'one!'", 1),
        ("update pipelines set scanner_tickers = '[\"MSFT\"]'", 1),
        ("insert into scanners (id) values (gen_random_uuid())", 1),
        ("update scanners set config = config", 0),
        ("update scanners set config = '{\"tickers\": [\"TSLA\"]}'", 1),
        ("delete from pipelines where name = 'one!'", 1),
        ("truncate pipelines", 1),
    ] {
        assert_eq!(told(sql), expected, "{sql}");
    }
}

fn checked(what: &str, output: &Output) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_platforms_schema_can_be_restored_alone() {
    let scene = Scene::new(1).await;
    scene.install_notify();
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dump = scene.database.program("pg_dump").args(["-n", "public"]).output().unwrap();
    checked("pg_dump", &dump);
    let name = unique("it");
    scene.database.run(&format!("create database {name} template template0")).await;
    let mut psql = scene.database.program("psql");
    // A dump of a schema makes it.
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &format!("\\c {name}"), "-c", "drop schema public", "-f", "-"]);
    psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut psql = psql.spawn().unwrap();
    psql.stdin.take().unwrap().write_all(&dump.stdout).unwrap();
    checked("psql", &psql.wait_with_output().unwrap());
}

#[tokio::test]
async fn pipelines_that_are_a_view_or_a_materialized_view_are_read() {
    for kind in ["view", "materialized view"] {
        let mut scene = Scene::new(1).await;
        let pipeline: Uuid = scene.database.pipeline("watches", &["AAPL"]).await;
        scene.database.run(&format!("alter table pipelines rename to base; create {kind} pipelines as select * from base")).await;
        assert_eq!(scene.install_notify().matches("it is a view").count(), 1);
        let dispatcher = scene.setting.start();
        scene.send(&[signal("1", "AAPL")]);
        assert_eq!(scene.enqueued(1), [pipeline], "{kind}");
        assert!(dispatcher.stop().success(), "{kind}");
    }
}
