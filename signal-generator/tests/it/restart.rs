//! The same bar never emits twice, also after a restart: killed at each worst moment, in each batch, and doubled.

use crate::kafka::{brokers, committed, crosses_in, starts_in, topic, written};
use crate::program::{Crosses, Running, command, csv, flat_then_up, run, until, write_walks};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread;

#[test]
fn a_crash_at_any_moment_of_a_transaction_neither_loses_nor_repeats_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let expected = &write_walks(folder.path(), 3, 1_500);
    let path = folder.path().to_str().unwrap();
    // How many signals stand in the topic after the crash: written at all, and committed.
    let all = expected.len();
    let cases = [
        ("started-acknowledged", 0, 0),
        ("started-committed", 0, 0),
        ("batch-acknowledged", all, 0),
        ("batch-committed", all, all),
    ];
    thread::scope(|scope| {
        for (moment, written, committed) in cases {
            scope.spawn(move || crash_at(moment, path, (written, committed), expected));
        }
    });
}

fn crash_at(moment: &str, path: &str, after_crash: (usize, usize), expected: &Crosses) {
    let (brokers, topic) = (brokers(), topic());
    let to = ["--brokers", &brokers, "--topic", &topic];
    let arguments = [&["replay", "--death-cross", "--csv", path], to.as_slice()].concat();
    let crashed = command(&arguments).env("SIGNAL_GENERATOR_CRASH_AT", moment).output().expect("the program starts");
    assert_eq!(crashed.status.signal(), Some(6), "{moment}: {crashed:?}");
    assert_eq!((written(&topic).len(), committed(&topic).len()), after_crash, "{moment}");

    run(&arguments, 0);
    assert_eq!(crosses_in(&committed(&topic)), *expected, "{moment}");
}

#[test]
fn killed_in_every_batch_before_and_after_its_commit_it_emits_each_bar_once() {
    let folder = tempfile::tempdir().unwrap();
    let expected = write_walks(folder.path(), 24, 8_000);
    let batches = expected.len().div_ceil(500);
    assert!(batches > 2, "{}", expected.len());
    let (path, brokers, topic) = (folder.path().to_str().unwrap(), brokers(), topic());
    let to = ["--brokers", &brokers, "--topic", &topic];
    let arguments = [&["replay", "--death-cross", "--csv", path], to.as_slice()].concat();
    for batch in 0..batches {
        for moment in ["batch-acknowledged", "batch-committed"] {
            let crashed = command(&arguments).env("SIGNAL_GENERATOR_CRASH_AT", moment).output().unwrap();
            assert_eq!(crashed.status.signal(), Some(6), "{batch}, {moment}: {crashed:?}");
        }
    }
    let (_, said) = run(&arguments, 0);
    assert!(said.contains("0 signals emitted"), "the last crash was after the last commit: {said}");
    assert_eq!(crosses_in(&committed(&topic)), expected);
    assert!(written(&topic).len() > expected.len(), "aborted attempts stay in the log");
}

#[test]
fn a_second_generator_of_the_same_source_takes_over_and_the_first_one_cannot_emit_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (brokers, topic, bars) = (brokers(), topic(), flat_then_up());
    let file = folder.path().join("A.csv");
    fs::write(&file, csv(&bars[..200])).unwrap();
    let path = folder.path().to_str().unwrap();
    let arguments = ["follow", "--poll", "0.05", "--csv", path, "--brokers", &brokers, "--topic", &topic];
    let state = format!("{topic}.generator-state");
    let starts = |count| {
        until("it has started", || (starts_in(&state) == count).then_some(()));
    };

    let first = Running::start(&arguments);
    starts(1);
    let second = Running::start(&arguments);
    starts(2);
    fs::write(&file, csv(&bars)).unwrap();

    let (_, said) = first.wait(69);
    assert!(said.contains("another generator with the same --source has taken over"), "{said}");
    until("the second one emits", || (committed(&topic).len() == 1).then_some(()));
    second.terminate(0);
    assert_eq!(committed(&topic).len(), 1);
}
