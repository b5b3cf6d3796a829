//! What is old and over goes; what is young or in flight stays.

use std::process::Stdio;

use uuid::Uuid;

use super::{DAY, Ledger};
use crate::support::dispatcher::Setting;
use crate::support::topic::TestTopic;
use crate::support::unique;

/// A dispatcher with the rights of docs/postgres-role.sql and no other.
async fn setting(ledger: &Ledger, topic: &TestTopic) -> Setting {
    let mut setting = Setting::new(topic, &ledger.database);
    let role = unique("role");
    ledger.database.run(include_str!("../../../docs/postgres-role.sql")).await;
    ledger.database.run(&format!("create role {role} login password '{role}' in role trigger_dispatcher")).await;
    setting.set("POSTGRES_USER", &role).set("POSTGRES_PASSWORD", &role).set("AUTO_MIGRATE", "false");
    setting
}

fn output(setting: &Setting, arguments: &[&str]) -> String {
    let output = setting.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Partitions with something in them: number 0 is 50 to 60 days old, number 6 is today's.
async fn filled(ledger: &mut Ledger) {
    ledger.ten_days_each().await;
    for days in [55, 45, 35, 25, 0] {
        ledger.past(days * DAY).await;
    }
    let running = ledger.past(45 * DAY).await;
    ledger
        .database
        .run(&format!("update dispatcher.slots set leased_until = now() + interval '1 min' where pipeline_id = '{running}'"))
        .await;
    let unpublished = ledger.past(35 * DAY).await;
    ledger
        .database
        .run(&format!(
            "update dispatcher.publications p set enqueued_at = null from dispatcher.triggers t
             where t.pipeline_id = '{unpublished}' and p.publication_id = t.publication_id;
             insert into dispatcher.starts (trigger_id, finished_at, leased_until) values
                 (gen_random_uuid(), now() - interval '50 days', now() - interval '50 days'),
                 (gen_random_uuid(), null, now() - interval '50 days'),
                 (gen_random_uuid(), now() - interval '1 day', now() - interval '50 days'),
                 (gen_random_uuid(), null, now())"
        ))
        .await;
}

const COUNTS: &str =
    "select (select count(*) from dispatcher.triggers) * 1000000 + (select count(*) from dispatcher.publications) * 10000
    + (select count(*) from dispatcher.starts) * 100 + (select count(*) from dispatcher.slots)";

#[tokio::test(flavor = "multi_thread")]
async fn prune_drops_what_is_old_and_over_and_says_so() {
    let mut ledger = Ledger::create().await;
    filled(&mut ledger).await;
    let topic = TestTopic::create(1).await;
    let setting = setting(&ledger, &topic).await;
    assert_eq!(ledger.database.number(COUNTS).await, 7_070_407);

    let said = output(&setting, &["prune", "--older-than", "18d", "--dry-run"]);
    for line in
        ["triggers_number_0 (until", "would be dropped", "triggers_number_1 (until", "in flight", "starts: 2 ", "slots: 5 "]
    {
        assert!(said.contains(line), "{line} in\n{said}");
    }
    assert_eq!(ledger.database.number(COUNTS).await, 7_070_407, "nothing was done");

    let said = output(&setting, &["prune", "--older-than", "18d"]);
    let of = |partition: &str| {
        said.lines().find(|line| line.starts_with(partition)).unwrap_or_else(|| panic!("{partition} in\n{said}"))
    };
    assert!(of("triggers_number_0 ").ends_with(": dropped"), "{said}");
    assert!(of("publications_number_0 ").ends_with(": dropped"), "{said}");
    for kept in ["triggers_number_1 ", "publications_number_1 ", "triggers_number_2 ", "publications_number_2 "] {
        assert!(of(kept).ends_with(": kept, something in it is in flight"), "{said}");
    }
    assert!(!said.contains("number_4 ("), "it has rows that are younger\n{said}");
    assert_eq!(of("starts:"), "starts: 2 marks of the worker guard deleted");
    let numbers = |ledger: &str, numbers: &[i32]| -> Vec<String> {
        numbers.iter().map(|number| format!("{ledger}_number_{number}")).collect()
    };
    for of in ["triggers", "publications"] {
        let expected = numbers(of, &[1, 2, 4, 5, 6, 7]);
        let left: Vec<_> = ledger.partitions(of).await.into_iter().filter(|name| name.contains("number")).collect();
        assert_eq!(left, expected);
    }
    // A later prune finds them over.
    ledger.database.run("update dispatcher.slots set leased_until = now() - interval '1 day'; update dispatcher.publications set enqueued_at = now()").await;
    output(&setting, &["prune", "--older-than", "18d"]);
    assert_eq!(ledger.triggers().await, 1, "today's");
    assert_eq!(ledger.database.number("select count(*) from dispatcher.starts").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_may_prune_at_once_while_claims_go_on() {
    let mut ledger = Ledger::create().await;
    filled(&mut ledger).await;
    let topic = TestTopic::create(1).await;
    let setting = setting(&ledger, &topic).await;
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = setting.command(&["prune", "--older-than", "18d"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for number in 0..200 {
        assert_eq!(ledger.claim(Uuid::new_v4(), &number.to_string()).await, (1, 0));
    }
    let mut said = String::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8(output.stdout).unwrap();
    }
    for partition in ["triggers_number_0", "triggers_number_3", "publications_number_0", "publications_number_3"] {
        let drops = said.lines().filter(|line| line.starts_with(partition) && line.ends_with(": dropped")).count();
        assert_eq!(drops, 1, "{partition} in\n{said}");
    }
    assert_eq!(ledger.partitions("triggers").await.iter().filter(|name| name.contains("number")).count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_makes_partitions_and_with_a_retention_prunes_by_itself() {
    let mut ledger = Ledger::create().await;
    filled(&mut ledger).await;
    let topic = TestTopic::create(1).await;
    let mut setting = setting(&ledger, &topic).await;
    ledger.database.run("drop table dispatcher.triggers_number_7, dispatcher.publications_number_7").await;

    // Nor is what never started published anew: that would be another publication, of today.
    setting.set("TRIGGER_WORKER_GUARD", "no");
    let dispatcher = setting.start();
    dispatcher.wait_for_event("ledger_partition_made");
    assert!(dispatcher.stop().success());
    assert_eq!(ledger.triggers().await, 7, "kept for ever");

    setting.set("LEDGER_RETENTION_DAYS", "18");
    let dispatcher = setting.start();
    let deleted = dispatcher.wait_for_event("ledger_rows_deleted");
    assert_eq!(dispatcher.events("ledger_partition_dropped").len(), 4, "{deleted}");
    assert_eq!(dispatcher.events("ledger_upkeep_failed").len(), 0);
    assert!(dispatcher.stop().success());
    assert_eq!(ledger.triggers().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_in_which_a_signal_could_start_again_is_refused_with_one_line_and_64() {
    let ledger = Ledger::create().await;
    let topic = TestTopic::create(1).await;
    let setting = setting(&ledger, &topic).await;
    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut setting = setting.clone();
        for (name, value) in variables {
            setting.set(name, value);
        }
        let output = setting.run(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let week = ("MAX_SIGNAL_AGE_SECONDS", "604800");
    for (variables, arguments, name) in [
        (&[week][..], &["prune", "--older-than", "6d"][..], "--older-than: must be at least 7"),
        (&[week, ("LEDGER_RETENTION_DAYS", "6")], &["run"], "LEDGER_RETENTION_DAYS: must be at least 7"),
        (
            &[("MAX_SIGNAL_AGE_SECONDS", "0"), ("LEDGER_RETENTION_DAYS", "6")],
            &["run"],
            "LEDGER_RETENTION_DAYS: signals of any age",
        ),
        (&[("TRIGGER_LEASE_SECONDS", "604800")], &["prune", "--older-than", "6"], "--older-than: must be at least 7"),
        (&[], &["prune"], "LEDGER_RETENTION_DAYS: is not set"),
        (&[], &["prune", "--older-than", "0d"], "expected a number of days"),
        (&[], &["prune", "--older-than", "soon"], "expected a number of days"),
    ] {
        let (code, said) = with(variables, arguments);
        assert_eq!((code, said.lines().count()), (Some(64), 1), "{arguments:?}: {said}");
        assert!(said.contains(name), "{said}");
    }
    let (code, said) = with(&[week], &["prune", "--older-than", "7d"]);
    assert_eq!(code, Some(0), "{said}");
}
