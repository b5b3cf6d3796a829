//! A commit that PostgreSQL has acknowledged is on its disk, whatever the database's settings say.

use trigger_dispatcher::store::Claims as _;

use super::{World, pipelines};
use crate::support::database::TestDatabase;
use crate::support::private_postgres::PrivatePostgres;
use crate::support::scene::Scene;
use crate::support::wait_for;

#[tokio::test]
async fn our_sessions_wait_for_the_disk_and_keep_what_waits_for_more() {
    let world = World::create().await;
    for (of_the_database, expected) in
        [("off", "on"), ("local", "local"), ("on", "on"), ("remote_write", "remote_write"), ("remote_apply", "remote_apply")]
    {
        world.database.run(&format!("alter database {} set synchronous_commit = {of_the_database}", world.database.name)).await;
        let connection = world.store.connect().await.unwrap();
        let level: String = connection.query("show synchronous_commit", &[]).await.unwrap()[0].get(0);
        assert_eq!(level, expected, "the database says {of_the_database}");
    }
}

#[tokio::test]
async fn a_claim_outlives_a_crash_of_the_server_where_the_database_does_not_wait_for_the_disk() {
    // Nothing else writes the log to the disk meanwhile.
    let mut server = PrivatePostgres::start(&["wal_writer_delay = 10s", "autovacuum = off"]);
    let database = TestDatabase::create_on(server.url(), "UTF8").await;
    database.run(&format!("alter database {} set synchronous_commit = off", database.name)).await;
    let mut world = World::with(database, |_| ()).await;
    let [pipeline] = pipelines();
    assert!(world.starts(pipeline).await);
    server.crash();
    server.up();
    world.anew(|_| ()).await.unwrap();
    assert_eq!(world.claims.begun(&[0]).await.unwrap(), []);
    assert!(!world.starts(pipeline).await, "the claim is lost, and its task has left");
}

#[tokio::test]
async fn a_server_that_does_not_write_to_its_disk_is_an_alarm() {
    let server = PrivatePostgres::start(&["fsync = off", "full_page_writes = off"]);
    let scene = Scene::with(TestDatabase::create_on(server.url(), "UTF8").await, 1).await;
    let dispatcher = scene.setting.start();
    let alarms =
        wait_for("both alarms", 60, || Some(dispatcher.events("postgres_may_lose_commits")).filter(|alarms| alarms.len() >= 2));
    let settings: Vec<_> = alarms.iter().map(|line| line["setting"].clone()).collect();
    assert_eq!(settings, ["fsync", "full_page_writes"]);
    assert!(alarms.iter().all(|line| line["level"] == "error"), "{alarms:?}");
}
