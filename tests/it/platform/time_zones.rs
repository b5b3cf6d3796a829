//! `executions.created_at` without a time zone: which instants its local times mean.

use uuid::Uuid;

use super::{World, pipelines};
use crate::support::database::TestDatabase;
use crate::support::scene::Scene;

/// A column without a zone, in a database with one, as `default now()` fills it.
async fn database_in(zone: &str) -> TestDatabase {
    let database = TestDatabase::create().await;
    database
        .run(&format!(
            "alter database {} set timezone = '{zone}'; set timezone = '{zone}';
             alter table executions alter created_at type timestamp, alter created_at set default now()",
            database.name
        ))
        .await;
    database
}

async fn world_in(database_zone: &str, setting: &str) -> World {
    World::with(database_in(database_zone).await, |config| setting.clone_into(&mut config.trigger.executions_time_zone)).await
}

/// How a writer fills the column.
const LOCAL_TIME: &str = "default";
const UTC: &str = "now() at time zone 'UTC'";

async fn completed(world: &World, pipeline: Uuid, created_at: &str) {
    let sql = format!(
        "insert into executions (id, pipeline_id, status, created_at) values (gen_random_uuid(), $1, 'COMPLETED', {created_at})"
    );
    world.database.client.execute(&sql, &[&pipeline]).await.unwrap();
}

/// Only an execution of after the claim frees the slot, whatever the zone and whoever writes.
#[tokio::test]
async fn an_execution_of_before_the_claim_frees_no_slot_and_one_of_after_it_does() {
    for zone in ["Asia/Tokyo", "America/New_York", "Asia/Kolkata"] {
        for (setting, written_as) in [(zone, LOCAL_TIME), ("UTC", UTC), ("etc/utc", UTC)] {
            let mut world = world_in(zone, setting).await;
            let [pipeline] = pipelines();
            completed(&world, pipeline, written_as).await;
            assert!(world.starts(pipeline).await);
            assert!(!world.starts(pipeline).await, "{zone}, {setting}: an old execution freed the slot");
            completed(&world, pipeline, written_as).await;
            assert!(world.starts(pipeline).await, "{zone}, {setting}: a new execution did not free the slot");
        }
    }
}

/// The hour that the end of summer time repeats means two instants, and the earlier one counts.
#[tokio::test]
async fn local_times_around_a_change_of_the_clocks_never_make_an_execution_newer() {
    for (zone, claimed_at, created_at, frees) in [
        // New York, 1 November 2026: 02:00 EDT (06:00 UTC) becomes 01:00 EST.
        ("America/New_York", "2026-11-01 05:30+00", "2026-11-01 01:20", false),
        ("America/New_York", "2026-11-01 05:30+00", "2026-11-01 01:40", true),
        ("America/New_York", "2026-11-01 06:30+00", "2026-11-01 01:20", false),
        // 01:40 may be an hour before this claim, or ten minutes after it.
        ("America/New_York", "2026-11-01 06:30+00", "2026-11-01 01:40", false),
        ("America/New_York", "2026-11-01 06:30+00", "2026-11-01 02:10", true),
        ("America/New_York", "2026-11-01 07:05+00", "2026-11-01 02:01", false),
        ("America/New_York", "2026-11-01 07:05+00", "2026-11-01 02:10", true),
        // New York, 8 March 2026: 02:00 EST (07:00 UTC) becomes 03:00 EDT.
        ("America/New_York", "2026-03-08 06:50+00", "2026-03-08 01:40", false),
        ("America/New_York", "2026-03-08 06:50+00", "2026-03-08 03:05", true),
        ("America/New_York", "2026-03-08 07:10+00", "2026-03-08 01:55", false),
        ("America/New_York", "2026-03-08 07:10+00", "2026-03-08 03:05", false),
        ("America/New_York", "2026-03-08 07:10+00", "2026-03-08 03:20", true),
        // Berlin, 25 October 2026: 03:00 CEST (01:00 UTC) becomes 02:00 CET.
        ("Europe/Berlin", "2026-10-25 00:30+00", "2026-10-25 02:45", true),
        ("Europe/Berlin", "2026-10-25 01:30+00", "2026-10-25 02:45", false),
        ("Europe/Berlin", "2026-10-25 01:30+00", "2026-10-25 03:05", true),
        // Lord Howe Island, 5 April 2026: the clocks go back by half an hour, at 15:00 UTC.
        ("Australia/Lord_Howe", "2026-04-04 15:10+00", "2026-04-05 01:50", false),
        ("Australia/Lord_Howe", "2026-04-04 15:10+00", "2026-04-05 02:05", true),
        // Troll station, 25 October 2026: by two hours, at 01:00 UTC.
        ("Antarctica/Troll", "2026-10-25 01:30+00", "2026-10-25 02:40", false),
        ("Antarctica/Troll", "2026-10-25 01:30+00", "2026-10-25 03:10", true),
    ] {
        let mut world = world_in("UTC", zone).await;
        let [pipeline] = pipelines();
        assert!(world.starts(pipeline).await);
        world.database.run(&format!("update dispatcher.slots set claimed_at = '{claimed_at}', leased_until = 'infinity'")).await;
        completed(&world, pipeline, &format!("'{created_at}'")).await;
        assert_eq!(world.starts(pipeline).await, frees, "{zone}: claimed at {claimed_at}, made at {created_at}");
    }
}

#[tokio::test]
async fn a_column_with_a_zone_is_read_by_it_whatever_the_setting() {
    let database = TestDatabase::create().await;
    let mut world = World::with(database, |config| config.trigger.executions_time_zone = "Asia/Tokyo".to_owned()).await;
    let [pipeline] = pipelines();
    completed(&world, pipeline, "now()").await;
    assert!(world.starts(pipeline).await);
    assert!(!world.starts(pipeline).await);
    completed(&world, pipeline, "now()").await;
    assert!(world.starts(pipeline).await);
}

#[tokio::test]
async fn a_zone_that_postgresql_does_not_know_is_refused_by_the_variables_name() {
    let mut world = World::create().await;
    // The second is known as an abbreviation only, whose summer time PostgreSQL would not follow.
    for unknown in ["Asia/Tokio", "EDT"] {
        let error = world.anew(|config| config.trigger.executions_time_zone = unknown.to_owned()).await.unwrap_err().to_string();
        assert!(error.starts_with("EXECUTIONS_TIME_ZONE ") && !error.contains(unknown), "{error}");
    }
}

#[tokio::test]
async fn the_log_tells_how_the_column_is_read_and_where_that_is_doubtful() {
    let default_in_utc = "alter table executions alter created_at set default (now() at time zone 'utc')";
    for (database_zone, setting, change, doubtful) in [
        ("Asia/Tokyo", None, "select", true),
        ("Asia/Tokyo", Some("Japan"), "select", false),
        ("Asia/Tokyo", None, default_in_utc, false),
        ("Asia/Tokyo", None, "alter table executions alter created_at drop default", false),
        ("Etc/UCT", None, "select", false),
        // The same clock in winter only.
        ("Europe/London", None, "select", true),
    ] {
        let mut scene = Scene::with(database_in(database_zone).await, 1).await;
        scene.database.run(change).await;
        if let Some(setting) = setting {
            scene.setting.set("EXECUTIONS_TIME_ZONE", setting);
        }
        let dispatcher = scene.setting.start();
        let told = dispatcher.wait_for_event("executions_time_zone");
        assert_eq!(told["column_type"], "timestamp without time zone");
        assert_eq!(told["read_as"], setting.unwrap_or("UTC"));
        scene.topic.send(0, b"{}");
        scene.topic.flush();
        scene.decided(1).await;
        let warned = dispatcher.events("executions_time_zone_doubtful");
        assert_eq!(warned.len(), usize::from(doubtful), "{database_zone} {setting:?} {change}");
        assert!(warned.iter().all(|line| line["database_zone"] == database_zone), "{warned:?}");
        assert_eq!(dispatcher.events("executions_time_zone").len(), 1);
    }
}
