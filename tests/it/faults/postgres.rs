//! PostgreSQL fails: the service waits, says so once, and goes on by itself.

use std::time::Duration;

use crate::support::dispatcher::Setting;
use crate::support::drill::{Drill, SECONDS_TO_RECOVER, assert_calm, outlast};
use crate::support::gate::{Gate, Weather};
use crate::support::names::Names;
use crate::support::scene::signal;
use crate::support::{host_and_port, service, unique, wait_for, wait_until};

/// A fault that SQL can make and mend. `ROLE` and `DATABASE` stand for the service's role and the test's database.
struct Fault {
    begin: &'static str,
    mend: &'static str,
    /// Whether it is met by new sessions only.
    needs_new_sessions: bool,
    /// What the log says.
    says: &'static str,
}

/// Refuses every write of `table` with an error of PostgreSQL's own.
const REFUSE: &str = "create function refuse() returns trigger language plpgsql as $$ begin
    raise exception using errcode = '{code}', message = 'refused by the test'; end $$;
    create trigger refuse before insert or update on {table} for each statement execute function refuse()";

/// Plays the faults one after the other, each with an instance of its own.
async fn play(faults: &[Fault]) {
    let mut drill = Drill::new(faults.len() * 3).await;
    assert!(drill.scene.setting.run(&["migrate"]).status.success());
    let (database, role) = (drill.scene.database.name.clone(), drill.scene.database.role().await);
    drill.scene.setting.set("POSTGRES_USER", &role).set("POSTGRES_PASSWORD", &role);
    let fill_in = |sql: &str| sql.replace("ROLE", &role).replace("DATABASE", &database);
    for fault in faults {
        let dispatcher = drill.start().await;
        drill.scene.database.run(&fill_in(fault.begin)).await;
        if fault.needs_new_sessions {
            drill.scene.database.end_sessions().await;
        }
        drill.round();
        let failed = dispatcher.wait_for_event("claim_failed");
        // A session that was ended may be all that the claim's one line tells; then others tell what became of the next.
        wait_for(&format!("{} after {failed}", fault.says), 60, || {
            dispatcher.lines().iter().any(|line| line.contains(fault.says)).then_some(())
        });
        // Several attempts, and one line.
        outlast(Duration::from_secs(1));
        drill.assert_nothing_moved();
        drill.scene.database.run(&fill_in(fault.mend)).await;
        drill.recovers().await;
        assert_calm(dispatcher, 1);
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_meanwhile_is_waited_for() {
    play(&[
        Fault {
            begin: "revoke insert on dispatcher.triggers from ROLE",
            mend: "grant insert on dispatcher.triggers to ROLE",
            needs_new_sessions: false,
            says: "(42501)",
        },
        Fault {
            begin: "revoke select on executions from ROLE",
            mend: "grant select on executions to ROLE",
            needs_new_sessions: false,
            says: "(42501)",
        },
    ])
    .await;
}

#[tokio::test]
async fn a_role_that_may_no_longer_log_in_is_waited_for() {
    play(&[
        Fault {
            begin: "alter role ROLE password 'another'",
            mend: "alter role ROLE password 'ROLE'",
            needs_new_sessions: true,
            says: "(28P01)",
        },
        Fault {
            begin: "alter role ROLE connection limit 0",
            mend: "alter role ROLE connection limit -1",
            needs_new_sessions: true,
            says: "(53300)",
        },
    ])
    .await;
}

#[tokio::test]
async fn a_database_that_only_reads_is_left_and_waited_for() {
    let refuse = REFUSE.replace("{code}", "25006").replace("{table}", "dispatcher.progress");
    play(&[
        Fault {
            begin: "alter database DATABASE set default_transaction_read_only = on",
            mend: "alter database DATABASE set default_transaction_read_only = off",
            needs_new_sessions: true,
            says: "does not allow writes",
        },
        // The session's own server has become a standby.
        Fault { begin: String::leak(refuse), mend: "drop function refuse() cascade", needs_new_sessions: false, says: "(25006)" },
    ])
    .await;
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let refuse = REFUSE.replace("{code}", "53100").replace("{table}", "dispatcher.triggers");
    play(&[Fault {
        begin: String::leak(refuse),
        mend: "drop function refuse() cascade",
        needs_new_sessions: false,
        says: "(53100)",
    }])
    .await;
}

#[tokio::test]
async fn a_table_of_ours_that_is_gone_is_waited_for() {
    play(&[
        Fault {
            begin: "alter table dispatcher.triggers rename to gone",
            mend: "alter table dispatcher.gone rename to triggers",
            needs_new_sessions: false,
            says: "(42P01)",
        },
        Fault {
            begin: "alter schema dispatcher rename to gone",
            mend: "alter schema gone rename to dispatcher",
            needs_new_sessions: false,
            says: "(42P01)",
        },
    ])
    .await;
}

#[tokio::test]
async fn executions_that_are_gone_or_lack_a_column_are_waited_for() {
    play(&[
        Fault {
            begin: "alter table executions rename to gone",
            mend: "alter table gone rename to executions",
            needs_new_sessions: false,
            says: "(42P01)",
        },
        Fault {
            begin: "alter table executions rename column status to gone",
            mend: "alter table executions rename column gone to status",
            needs_new_sessions: false,
            says: "(42703)",
        },
    ])
    .await;
}

#[tokio::test]
async fn a_claim_of_a_session_that_only_reads_drops_the_session() {
    let mut drill = Drill::new(3).await;
    let dispatcher = drill.start().await;
    let sessions =
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'trigger-dispatcher'";
    let before: Vec<i32> = drill.scene.database.rows(sessions, &[]).await.iter().map(|row| row.get(0)).collect();
    let refuse = REFUSE.replace("{code}", "25006").replace("{table}", "dispatcher.progress");
    drill.scene.database.run(&refuse).await;
    drill.round();
    dispatcher.wait_for_event("claim_failed");
    let kept = "select pid from pg_stat_activity where pid = any ($1)";
    wait_until("the session's end", 30, async || {
        Some(drill.scene.database.rows(kept, &[&before]).await.len()).filter(|kept| *kept < before.len())
    })
    .await;
    drill.scene.database.run("drop function refuse() cascade").await;
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

/// No one needs to mend anything: an error drops the session, and a new one looks how the table is now.
#[tokio::test]
async fn executions_that_are_altered_are_looked_at_anew() {
    for change in
        ["alter column pipeline_id type text", "drop column symbol", "drop column created_at", "alter column id type text"]
    {
        let mut drill = Drill::new(3).await;
        let dispatcher = drill.start().await;
        drill.scene.database.run(&format!("alter table executions {change}")).await;
        drill.round();
        drill.recovers().await;
        assert_calm(dispatcher, 1);
    }
}

pub(super) fn postgres_behind_a_gate(setting: &mut Setting) -> Gate {
    let gate = Gate::closed(&host_and_port(&service("TEST_POSTGRES_URL")));
    setting.set("POSTGRES_HOST", &gate.address.ip().to_string()).set("POSTGRES_PORT", &gate.address.port().to_string());
    gate
}

#[tokio::test]
async fn a_postgresql_that_takes_a_second_for_each_answer_loses_and_doubles_nothing() {
    let mut drill = Drill::new(4).await;
    let mut gate = postgres_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    gate.weather(Weather::Slow(Duration::from_secs(1)));
    drill.round();
    let before = drill.sent();
    wait_until("slow claims", 60, async || Some(drill.scene.total().await).filter(|total| total.consumed == before)).await;
    drill.round();
    gate.weather(Weather::Fair);
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

/// Kafka is polled on, though nothing can be decided for longer than the group would wait; what waits is bounded.
#[tokio::test]
async fn an_outage_longer_than_the_groups_patience_keeps_the_group_and_bounds_memory() {
    const LARGE: usize = 700;
    let mut drill = Drill::new(4).await;
    let patience = Duration::from_secs(6);
    let milliseconds = patience.as_millis().to_string();
    drill
        .scene
        .setting
        .set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", &milliseconds)
        .set("KAFKA_CONFIG_MAX_POLL_INTERVAL_MS", &milliseconds);
    let mut gate = postgres_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    let before = dispatcher.peak_memory();
    gate.close();
    drill.round();
    dispatcher.wait_for_event("claim_failed");
    // Far more than may wait in memory: 32 MiB in the batch, 16 MiB in librdkafka, and what it has just fetched.
    let mut large = signal("large", "NOBODY");
    large["metadata"] = "x".repeat(240 * 1024).into();
    let large = large.to_string();
    for _ in 0..LARGE {
        drill.scene.topic.send(0, large.as_bytes());
    }
    drill.scene.topic.flush();
    outlast(patience + Duration::from_secs(3));
    let taken = dispatcher.peak_memory() - before;
    assert!(taken < 96 << 20, "{} MiB of {} MiB", taken >> 20, (LARGE * large.len()) >> 20);
    assert_eq!(drill.scene.topic.committed(&drill.scene.setting.group), [Some(drill.sent() - 20)]);
    gate.open();
    // The first of what waited is there within seconds, the rest as fast as it is read.
    wait_for("the tasks", SECONDS_TO_RECOVER, || Some(drill.scene.queue.len() as i64).filter(|tasks| *tasks == drill.sent()));
    let all = drill.sent() + LARGE as i64;
    let total = wait_until("all of it", 60, async || Some(drill.scene.total().await).filter(|total| total.consumed == all)).await;
    assert_eq!((total.triggered, total.unmatched), (drill.sent(), LARGE as i64));
    drill.scene.committed(all);
    assert_eq!(drill.scene.queue.len() as i64, drill.sent());
    assert_calm(dispatcher, 1);
}

/// Packets vanish: no connection is refused or cut, and nothing is answered. That is the database's fault and no stall of Kafka's.
#[tokio::test]
async fn a_postgresql_that_swallows_everything_is_waited_for_and_is_no_stall_of_the_intake() {
    let mut drill = Drill::new(4).await;
    drill.scene.setting.set("STALL_SECONDS", "1");
    let mut gate = postgres_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    let dispatcher = drill.start().await;
    gate.weather(Weather::Hole);
    drill.round();
    outlast(Duration::from_secs(4));
    drill.assert_nothing_moved();
    assert_eq!(dispatcher.events("intake_stalled"), Vec::<serde_json::Value>::new());
    gate.weather(Weather::Fair);
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}

#[tokio::test]
async fn a_postgresql_whose_name_moves_to_another_address_is_found_there() {
    let mut drill = Drill::new(3).await;
    let mut first = postgres_behind_a_gate(&mut drill.scene.setting);
    let mut second = Gate::beside(&first);
    let name = format!("{}.test", unique("postgres").replace('_', "-"));
    let names = Names::give(&mut drill.scene.setting, &name, *first.address.ip());
    drill.scene.setting.set("POSTGRES_HOST", &name).set("POSTGRES_SSLMODE", "disable");
    first.open();
    let dispatcher = drill.start().await;
    first.close();
    drill.round();
    dispatcher.wait_for_event("claim_failed");
    drill.assert_nothing_moved();
    second.open();
    names.point(&name, *second.address.ip());
    drill.recovers().await;
    assert_calm(dispatcher, 1);
}
