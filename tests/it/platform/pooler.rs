//! A connection pooler between the service and PostgreSQL.

use tokio_postgres::SimpleQueryMessage;

use crate::support::pgbouncer::PgBouncer;
use crate::support::scene::{Scene, signal};

/// What a setting is for whoever is given a session of the pool.
async fn setting(client: &tokio_postgres::Client, name: &str) -> String {
    let answers = client.simple_query(&format!("show {name}")).await.unwrap();
    let value = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.unwrap()
}

#[tokio::test]
async fn a_pool_in_transaction_mode_is_refused_in_one_line_and_nothing_of_ours_reaches_its_other_clients() {
    let mut scene = Scene::new(1).await;
    let pgbouncer = PgBouncer::start("transaction");
    scene.setting.set("POSTGRES_PORT", &pgbouncer.port.to_string());
    // Sessions of the pool that are there already, as they are for others.
    let others = [pgbouncer.client(&scene.database.name).await, pgbouncer.client(&scene.database.name).await];
    for other in &others {
        other.batch_execute("begin").await.unwrap();
    }
    for other in &others {
        other.batch_execute("commit").await.unwrap();
    }
    for command in [["run"].as_slice(), &["migrate"], &["outbox", "list"]] {
        let output = scene.setting.run(command);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
        let told: Vec<_> = text.lines().filter(|line| line.contains("pool_mode = session")).collect();
        assert_eq!(told.len(), 1, "{command:?}: {text}");
        assert!(told[0].contains(&pgbouncer.port.to_string()), "{text}");
    }
    // Each holds a session while the next one is given another.
    for other in &others {
        other.batch_execute("begin").await.unwrap();
        assert_eq!(setting(other, "statement_timeout").await, "0");
        assert_ne!(setting(other, "application_name").await, "trigger-dispatcher");
    }
    assert_eq!(scene.database.number("select count(*) from pg_namespace where nspname = 'dispatcher'").await, 0);
}

#[tokio::test]
async fn a_pool_in_transaction_mode_is_noticed_also_while_others_use_it() {
    let mut scene = Scene::new(1).await;
    let pgbouncer = PgBouncer::start("transaction");
    scene.setting.set("POSTGRES_PORT", &pgbouncer.port.to_string());
    let mut busy = Vec::new();
    for _ in 0..6 {
        let client = pgbouncer.client(&scene.database.name).await;
        #[expect(clippy::disallowed_methods, reason = "traffic that ends with the test's runtime")]
        busy.push(tokio::spawn(async move {
            loop {
                client.batch_execute("select 1").await.unwrap();
            }
        }));
    }
    for attempt in 0..5 {
        let setting = scene.setting.clone();
        let output = tokio::task::spawn_blocking(move || setting.run(&["migrate"])).await.unwrap();
        assert_eq!(output.status.code(), Some(1), "attempt {attempt}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(busy.iter().all(|task| !task.is_finished()), "the traffic has ended");
}

#[tokio::test]
async fn a_pool_in_session_mode_is_served() {
    let mut scene = Scene::new(1).await;
    let pgbouncer = PgBouncer::start("session");
    scene.setting.set("POSTGRES_PORT", &pgbouncer.port.to_string());
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(scene.decided(1).await.triggered, 1);
    assert!(dispatcher.stop().success());
    // What it was told of itself, the session forgets before another client gets it.
    assert_eq!(setting(&pgbouncer.client(&scene.database.name).await, "statement_timeout").await, "0");
}
