//! Row-level security that would hide rows from the dispatcher's role: PostgreSQL refuses, and the error says what to grant.

use std::sync::Arc;
use std::time::Duration;

use trigger_dispatcher::store::StoreError;
use trigger_dispatcher::store::refresh::Refresher;
use trigger_dispatcher::telemetry::Metrics;

use super::{World, pipelines};

/// A world whose role is not a superuser, so that policies bind it.
async fn with_a_role_of_its_own() -> (World, String) {
    let mut world = World::create().await;
    let role = world.database.role().await;
    world
        .anew(|config| {
            config.postgres.user.clone_from(&role);
            config.postgres.password = role.clone().into();
        })
        .await
        .unwrap();
    (world, role)
}

#[track_caller]
fn assert_says_what_to_grant(error: &StoreError, table: &str) {
    let text = error.to_string();
    for part in [table, "(42501)", "BYPASSRLS", "FORCE ROW LEVEL SECURITY"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[tokio::test]
async fn executions_that_a_policy_hides_stop_claims_and_the_error_says_what_to_grant() {
    let (mut world, role) = with_a_role_of_its_own().await;
    let [busy, idle] = pipelines();
    world.database.execution(busy, "RUNNING").await;
    assert!(!world.starts(busy).await);
    // A policy for others: ours sees no row. First with the session and the plan of before, then with new ones.
    world.database.run("alter table executions enable row level security").await;
    for _ in 0..2 {
        let error = world.try_claim(&[busy], "").await.unwrap_err();
        assert_says_what_to_grant(&error, "executions");
    }
    assert_eq!(world.database.number("select count(*) from dispatcher.triggers").await, 0);
    world.database.run(&format!("alter role {role} bypassrls")).await;
    assert!(!world.starts(busy).await);
    assert!(world.starts(idle).await);
}

#[tokio::test]
async fn an_owner_without_force_reads_all_and_one_with_force_is_refused() {
    let (mut world, role) = with_a_role_of_its_own().await;
    let [busy] = pipelines();
    world.database.execution(busy, "RUNNING").await;
    world
        .database
        .run(&format!("alter table executions enable row level security; alter table executions owner to {role}"))
        .await;
    assert!(!world.starts(busy).await);
    world.database.run("alter table executions force row level security").await;
    assert_says_what_to_grant(&world.try_claim(&[busy], "").await.unwrap_err(), "executions");
}

#[tokio::test]
async fn pipelines_or_scanners_that_a_policy_hides_stop_the_refresh_and_the_old_rules_stay() {
    let (world, _) = with_a_role_of_its_own().await;
    world.database.pipeline("watches", &["AAPL"]).await;
    let mut refresher = Refresher::new(world.store.clone(), Duration::from_secs(30), Arc::new(Metrics::default()));
    refresher.refresh().await.unwrap();
    for table in ["pipelines", "scanners"] {
        world.database.run(&format!("alter table {table} enable row level security")).await;
        assert_says_what_to_grant(&refresher.refresh().await.unwrap_err(), table);
        assert_eq!(refresher.rules().load().len(), 1, "the rules of before");
        world.database.run(&format!("alter table {table} disable row level security")).await;
        refresher.refresh().await.unwrap();
    }
}

/// The code alone would not tell: a right that is missing has the same one, and another remedy.
#[tokio::test]
async fn a_right_that_is_missing_does_not_ask_for_bypassrls() {
    let (mut world, role) = with_a_role_of_its_own().await;
    world.database.run(&format!("revoke select on executions from {role}")).await;
    let text = world.try_claim(&pipelines::<1>(), "").await.unwrap_err().to_string();
    assert!(text.contains("(42501)") && !text.contains("BYPASSRLS"), "{text}");
}
