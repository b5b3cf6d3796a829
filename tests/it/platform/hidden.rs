//! What else may hide an execution, or whose it is: a status that is null, a blank symbol, views, copies that lag.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{World, pipelines};
use crate::support::scene::{Scene, signal};
use crate::support::wait_for;

/// Claims read executions by an index on the status, or where there is none, all of a pipeline.
const LAYOUTS: [&str; 2] = ["select", "drop index executions_pipeline_status"];

async fn insert(world: &World, pipeline: Uuid, status: Option<&str>, symbol: Option<&str>) {
    let sql = "insert into executions (id, pipeline_id, status, symbol) values (gen_random_uuid(), $1, $2, $3)";
    let values: [&(dyn ToSql + Sync); 3] = [&pipeline, &status, &symbol];
    world.database.client.execute(sql, &values).await.unwrap();
}

#[tokio::test]
async fn a_status_that_is_null_keeps_a_pipeline_busy_and_is_told_as_unknown() {
    let mut world = World::create().await;
    world.database.run("alter table executions alter status drop not null").await;
    for layout in LAYOUTS {
        world.database.run(layout).await;
        world.anew(|_| ()).await.unwrap();
        let [only, among_others, of_a_ticker, idle] = pipelines();
        insert(&world, only, None, None).await;
        for status in [Some("COMPLETED"), None, Some("FAILED")] {
            insert(&world, among_others, status, None).await;
        }
        insert(&world, idle, Some("COMPLETED"), None).await;
        let (won, claimed) = world.try_claim(&[only, among_others, idle], "").await.unwrap();
        assert_eq!(won.len(), 1, "{layout}");
        assert_eq!(claimed.unknown_statuses, ["(null)"]);
        // A ticker's slot is kept busy by an execution of that ticker, and of no other.
        insert(&world, of_a_ticker, None, Some("AAPL")).await;
        assert_eq!(world.try_claim(&[of_a_ticker], "AAPL").await.unwrap().0.len(), 0, "{layout}");
        assert_eq!(world.try_claim(&[of_a_ticker], "MSFT").await.unwrap().0.len(), 1, "{layout}");
    }
}

#[tokio::test]
async fn an_execution_with_a_blank_symbol_is_of_the_whole_pipeline() {
    let mut world = World::create().await;
    for layout in LAYOUTS {
        world.database.run(layout).await;
        world.anew(|_| ()).await.unwrap();
        for symbol in ["", "  ", "\t\n"] {
            let [pipeline, held] = pipelines();
            insert(&world, pipeline, Some("RUNNING"), Some(symbol)).await;
            assert_eq!(world.try_claim(&[pipeline], "AAPL").await.unwrap().0.len(), 0, "{symbol:?}, {layout}");
            // And frees each of its slots when it is over.
            assert_eq!(world.try_claim(&[held], "AAPL").await.unwrap().0.len(), 1);
            insert(&world, held, Some("COMPLETED"), Some(symbol)).await;
            assert_eq!(world.try_claim(&[held], "AAPL").await.unwrap().0.len(), 1, "{symbol:?}, {layout}");
        }
    }
}

#[tokio::test]
async fn a_view_of_the_executions_is_trusted_and_told_once() {
    let mut scene = Scene::new(1).await;
    scene.database.run("alter table executions rename to runs; create view executions as select * from runs").await;
    for (ticker, status) in [("A", "RUNNING"), ("B", "COMPLETED")] {
        let pipeline = scene.database.pipeline(ticker, &[ticker]).await;
        scene.database.execution(pipeline, status).await;
    }
    let dispatcher = scene.setting.start();
    scene.send(&[signal("one", "A"), signal("two", "B")]);
    let total = scene.decided(2).await;
    assert_eq!((total.triggered, total.busy), (1, 1));
    // A new session looks again, and says no more.
    scene.database.end_sessions().await;
    scene.send(&[signal("three", "A")]);
    scene.decided(3).await;
    scene.enqueued(1);
    assert_eq!(dispatcher.events("executions_is_a_view").len(), 1);
}

#[tokio::test]
async fn a_materialized_view_of_the_executions_is_refused() {
    let mut world = World::create().await;
    world.database.run("alter table executions rename to runs; create materialized view executions as select * from runs").await;
    let text = world.anew(|_| ()).await.unwrap_err().to_string();
    assert!(text.contains("executions is a materialized view") && text.contains("search_path"), "{text}");
}

#[tokio::test]
async fn tables_that_another_server_feeds_are_told() {
    let scene = Scene::new(1).await;
    // A subscription that never runs, and a part of a table that is elsewhere.
    scene
        .database
        .run(&format!(
            "create subscription {name} connection 'host=unused' publication p with (connect = false, slot_name = none);
             insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
                 select oid, 'scanners'::regclass, 'i' from pg_subscription where subname = '{name}';
             create foreign data wrapper nothing; create server elsewhere foreign data wrapper nothing;
             create foreign table executions_elsewhere () inherits (executions) server elsewhere",
            name = scene.database.name
        ))
        .await;
    let dispatcher = scene.setting.launch();
    let lines =
        wait_for("both lines", 60, || Some(dispatcher.events("platform_table_may_be_late")).filter(|lines| lines.len() >= 2));
    let told: Vec<_> = lines.iter().map(|line| (line["table"].as_str().unwrap(), line["source"].as_str().unwrap())).collect();
    assert_eq!(told, [("executions", "foreign table"), ("scanners", "logical subscription")]);
}
