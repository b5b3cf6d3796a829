//! What the operator says: read from the environment and `.env`, refused as a whole, and never repeated aloud.

use std::fs;
use std::process::Output;

use super::support::scene::{Scene, signal};
use super::support::wait_for;

const CANARY: &str = "canary-secret";

/// The variables that a platform with the Python service has set.
const THIRTEEN: [&str; 13] = [
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_SIGNAL_TOPIC",
    "KAFKA_CONSUMER_GROUP",
    "BATCH_SIZE",
    "BATCH_TIMEOUT_SECONDS",
    "CACHE_REFRESH_INTERVAL_SECONDS",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_DB",
    "CELERY_BROKER_URL",
    "CELERY_RESULT_BACKEND",
];

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_by_name_and_without_a_secret() {
    let mut setting = Scene::new(1).await.setting;
    setting.variables.retain(|(name, _)| name != "KAFKA_BOOTSTRAP_SERVERS" && name != "POSTGRES_DB");
    let wrong = [
        ("BATCH_SIZE", "0"),
        ("BATCH_TIMEOUT_SECONDS", "canary-secret"),
        ("CACHE_REFRESH_INTERVAL_SECONDS", "-1"),
        ("POSTGRES_PORT", "canary-secret"),
        ("POSTGRES_SSLMODE", "canary-secret"),
        ("CELERY_BROKER_URL", "ftp://user:canary-secret@host/"),
        ("CELERY_RESULT_BACKEND", "redis://:canary-secret@host/canary-secret"),
        ("KAFKA_SIGNAL_TOPIC", "no blanks allowed"),
        ("KAFKA_AUTO_OFFSET_RESET", "canary-secret"),
        ("BATCH_FLUSH", "canary-secret"),
        ("DB_QUERIES_PER_SECOND", "many"),
        ("MAX_SIGNAL_AGE_SECONDS", "canary-secret"),
        ("TRIGGER_SCOPE", "canary-secret"),
        ("TRIGGER_LEASE_SECONDS", "NaN"),
        ("AUTO_MIGRATE", "canary-secret"),
        ("CELERY_TASK_ARGUMENTS", "pipeline_id,canary-secret"),
        ("CELERY_TASK_EXTRA_KWARGS", "{\"password\": canary-secret"),
        ("CELERY_TASK_PRIORITY", "canary-secret"),
        ("SHUTDOWN_GRACE_SECONDS", "canary-secret"),
        ("HTTP_ADDRESS", "canary-secret"),
        ("LOG_FORMAT", "canary-secret"),
    ];
    for (name, value) in wrong {
        setting.set(name, value);
    }
    let of_run: Vec<_> = wrong.iter().map(|(name, _)| *name).chain(["KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DB"]).collect();
    let of_migrate =
        ["POSTGRES_PORT", "POSTGRES_SSLMODE", "POSTGRES_DB", "AUTO_MIGRATE", "MAX_SIGNAL_AGE_SECONDS", "TRIGGER_SCOPE"]
            .into_iter()
            .chain(["TRIGGER_LEASE_SECONDS", "CACHE_REFRESH_INTERVAL_SECONDS"])
            .collect();
    for (command, names) in [("run", of_run), ("migrate", of_migrate)] {
        let output = setting.run(&[command]);
        assert_eq!(output.status.code(), Some(64), "{command}");
        let text = text(&output);
        for name in &names {
            let told = text.lines().filter(|line| line.starts_with(&format!("{name}: "))).count();
            assert_eq!(told, 1, "{name}:\n{text}");
        }
        assert_eq!(text.lines().count(), names.len(), "one line each:\n{text}");
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn a_command_asks_for_no_variable_that_it_does_not_need() {
    let scene = Scene::new(1).await;
    let run = |prefixes: &[&str], arguments: &[&str]| {
        let mut setting = scene.setting.clone();
        setting.variables.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        setting.run(arguments)
    };
    for (prefixes, arguments) in [
        (["POSTGRES_"].as_slice(), ["migrate"].as_slice()),
        (&["POSTGRES_"], &["prune", "--older-than", "400d", "--dry-run"]),
        (&["POSTGRES_", "KAFKA_"], &["offsets", "list"]),
        (&["KAFKA_"], &["dead-letters", "list"]),
    ] {
        let output = run(prefixes, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    // Nobody is there to ask for health.
    let output = run(&["HTTP_"], &["health"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(run(&["KAFKA_", "CELERY_"], &["offsets", "list"]).status.code(), Some(64));
}

#[tokio::test]
async fn properties_of_librdkafka_are_passed_on_and_wrong_ones_refused() {
    let scene = Scene::new(1).await;
    for (name, value) in [
        ("KAFKA_CONFIG_SESSION_TIMEOUT_MS", CANARY),
        ("KAFKA_CONFIG_NO_SUCH_PROPERTY", CANARY),
        ("KAFKA_CONFIG_GROUP_ID", CANARY),
    ] {
        let mut setting = scene.setting.clone();
        setting.set(name, value);
        let output = setting.run(&["run"]);
        assert_eq!(output.status.code(), Some(64), "{name}: {}", text(&output));
        assert!(!text(&output).contains(CANARY), "{}", text(&output));
        let property = name.trim_start_matches("KAFKA_CONFIG_").to_lowercase().replace('_', ".");
        assert!(text(&output).contains(name) || text(&output).contains(&property), "{}", text(&output));
    }
}

#[tokio::test]
async fn help_lists_every_variable() {
    let setting = Scene::new(1).await.setting;
    for arguments in [["--help"].as_slice(), &["run", "--help"]] {
        let output = setting.run(arguments);
        assert!(output.status.success());
        for name in THIRTEEN.iter().chain(&["TRIGGER_SCOPE", "SHUTDOWN_GRACE_SECONDS", "KAFKA_CONFIG_<PROPERTY>"]) {
            assert!(text(&output).contains(name), "{name} in {arguments:?}");
        }
    }
    assert_eq!(setting.run(&["no-such-command"]).status.code(), Some(64));
}

#[tokio::test]
async fn a_dotenv_file_is_read_and_the_environment_wins() {
    let scene = Scene::new(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = scene.setting.variables.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
    lines.push("# a comment".to_owned());
    lines.push("AUTO_MIGRATE='from the file'".to_owned());
    fs::write(folder.path().join(".env"), lines.join("\n")).unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = scene.setting.command(&["migrate"]);
        command.env_clear().envs(variables.iter().copied()).current_dir(folder.path()).output().unwrap()
    };
    let from_file = run(&[]);
    assert_eq!(from_file.status.code(), Some(64));
    assert_eq!(text(&from_file).lines().count(), 1, "only AUTO_MIGRATE is wrong:\n{}", text(&from_file));
    assert!(text(&from_file).starts_with("AUTO_MIGRATE: "));
    let from_both = run(&[("AUTO_MIGRATE", "true")]);
    assert!(from_both.status.success(), "{}", text(&from_both));
    assert_eq!(scene.database.number("select count(*) from pg_namespace where nspname = 'dispatcher'").await, 1);
    fs::write(folder.path().join(".env"), format!("POSTGRES_PASSWORD {CANARY}\n")).unwrap();
    let broken = run(&[]);
    assert_eq!(broken.status.code(), Some(64));
    assert!(!text(&broken).contains(CANARY), "{}", text(&broken));
}

#[tokio::test]
async fn migrate_may_run_any_number_of_times_also_at_once() {
    let scene = Scene::new(1).await;
    let children: Vec<_> = (0..5)
        .map(|_| {
            let mut command = scene.setting.command(&["migrate", "--install-notify"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        // The owner of the tables always may make the triggers, whoever else does so at the time.
        assert!(!text(&output).contains("no right"), "{}", text(&output));
    }
    let fingerprint =
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'dispatcher'";
    let before = scene.database.number(fingerprint).await;
    let triggers = "select count(*) from pg_trigger where tgname like 'dispatcher%'";
    assert_eq!(scene.database.number(triggers).await, 4);
    let again = scene.setting.run(&["migrate"]);
    assert!(again.status.success());
    assert_eq!((scene.database.number(fingerprint).await, scene.database.number(triggers).await), (before, 4));
}

#[tokio::test]
async fn an_error_of_postgresql_says_where_and_as_whom_and_says_it_once() {
    let mut setting = Scene::new(1).await.setting;
    setting.set("POSTGRES_PORT", "1").set("POSTGRES_HOST", "127.0.0.1").set("POSTGRES_USER", "somebody");
    let refused = setting.run(&["migrate"]);
    let text = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("postgresql at 127.0.0.1:1 as somebody, database "), "{text}");
    assert_eq!((text.lines().count(), text.matches("onnection refused").count()), (1, 1), "{text}");
}

#[tokio::test]
async fn of_several_hosts_of_postgresql_the_first_that_answers_is_used() {
    let mut scene = Scene::new(1).await;
    // The server listens on 127.0.0.1 alone. The first stands in brackets, as in a URL.
    scene.setting.set("POSTGRES_HOST", "[::1],127.0.0.9,127.0.0.1");
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(dispatcher.events("migrated").len() + dispatcher.events("schema_ready").len(), 1);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn at_level_debug_no_password_and_no_value_of_a_claim_is_told() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("LOG_LEVEL", "debug");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    let mut signal = signal("1", "AAPL");
    signal["metadata"] = serde_json::json!({"note": CANARY});
    scene.send(&[signal]);
    assert_eq!(scene.enqueued(1).len(), 1);
    let log = dispatcher.log();
    assert!(dispatcher.stop().success());
    let told: Vec<_> = log.lines().into_iter().filter(|line| line.contains(CANARY)).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn without_auto_migrate_and_schema_the_service_waits_and_says_so_once() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("AUTO_MIGRATE", "false");
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    scene.send(&[signal("1", "AAPL")]);
    let dispatcher = scene.setting.launch();
    let waits = dispatcher.wait_for_event("store_not_ready");
    assert!(waits["error"].as_str().unwrap().contains("trigger-dispatcher migrate"), "{waits}");
    assert_eq!(scene.database.number("select count(*) from pg_namespace where nspname = 'dispatcher'").await, 0);
    let migrated = scene.setting.run(&["migrate"]);
    assert!(migrated.status.success(), "{}", text(&migrated));
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(dispatcher.events("store_not_ready").len(), 1);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn a_newer_schema_that_this_program_does_not_fit_ends_it_with_one_line() {
    let mut scene = Scene::new(1).await;
    assert!(scene.setting.run(&["migrate"]).status.success());
    scene.database.run("insert into dispatcher.schema_versions (version) values (99)").await;
    for auto_migrate in ["true", "false"] {
        scene.setting.set("AUTO_MIGRATE", auto_migrate);
        for arguments in [["run"].as_slice(), &["migrate"], &["migrate", "--allow-version", "4"]] {
            let output = scene.setting.run(arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let line = String::from_utf8(output.stderr).unwrap();
            assert_eq!(line.lines().count(), 1, "{line}");
            for part in [scene.database.name.as_str(), "has version 99", "run a newer trigger-dispatcher", "--allow-version 4"] {
                assert!(line.contains(part), "{part} in: {line}");
            }
        }
    }
}

#[tokio::test]
async fn a_newer_schema_that_says_it_works_with_this_program_is_left_as_it_is() {
    let mut scene = Scene::new(1).await;
    assert!(scene.setting.run(&["migrate"]).status.success());
    // The oldest program that can work with both of them decides.
    scene.database.run("insert into dispatcher.schema_versions (version, works_with) values (98, 4), (99, 3)").await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    for (auto_migrate, ticker) in [("true", "first"), ("false", "second")] {
        scene.setting.set("AUTO_MIGRATE", auto_migrate);
        let dispatcher = scene.setting.start();
        let told = dispatcher.events("schema_newer");
        assert_eq!((told.len(), &told[0]["version"], &told[0]["level"]), (1, &99.into(), &"warn".into()), "{told:?}");
        scene.send(&[signal(ticker, "AAPL")]);
        scene.decided(if ticker == "first" { 1 } else { 2 }).await;
        assert!(dispatcher.stop().success());
    }
    assert_eq!(scene.enqueued(1), [pipeline]);
    let migrated = scene.setting.run(&["migrate"]);
    assert!(migrated.status.success() && text(&migrated).contains("nothing was changed"), "{}", text(&migrated));
    assert_eq!(scene.database.number("select max(version)::bigint from dispatcher.schema_versions").await, 99);
    scene.database.run("update dispatcher.schema_versions set works_with = null where version = 98").await;
    assert_eq!(scene.setting.run(&["run"]).status.code(), Some(1));
}

#[tokio::test]
async fn health_answers_while_the_service_runs_and_not_when_it_does_not() {
    let mut scene = Scene::new(1).await;
    let port = super::support::proxy::Proxy::closed("nowhere").port;
    scene.setting.set("HTTP_ADDRESS", &format!("127.0.0.1:{port}"));
    assert_eq!(scene.setting.run(&["health"]).status.code(), Some(1));
    let dispatcher = scene.setting.start();
    let healthy = scene.setting.run(&["health"]);
    assert!(healthy.status.success(), "{}", text(&healthy));
    // The address is taken: told at once, and not a mistake of the configuration as such.
    let second = scene.setting.run(&["run"]);
    assert!(!second.status.success());
    assert!(text(&second).contains("HTTP_ADDRESS"), "{}", text(&second));
    assert!(dispatcher.stop().success());
    wait_for("no health", 5, || Some(scene.setting.run(&["health"]).status.code()).filter(|code| *code == Some(1)));
}
