//! What needs no Kafka.

use crate::program::{command, csv, flat_then_up, run};
use std::fs;

#[test]
fn all_mistakes_of_the_configuration_are_one_line_each() {
    let (_, said) = run(&["mock", "--rate", "0", "--seed", "x", "--count", "-"], 64);
    let named: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(named, ["--rate", "--count", "--seed", "--brokers"], "{said}");
    run(&["nonsense"], 64);
    run(&["replay", "--nonsense"], 64);
    run(&[], 64);
    assert!(run(&["--help"], 0).0.contains("replay"));
}

#[test]
fn bad_lines_are_named_with_file_line_and_reason_and_the_rest_is_emitted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut good = csv(&flat_then_up());
    let first = flat_then_up()[0].csv_line();
    good = good.replacen(&first, &format!("{first}\n{first}\n2020-13-01,1,1,1,1,1\n2020-01-02,1,1,1,-1,1"), 1);
    fs::write(folder.path().join("A.csv"), good).unwrap();
    fs::write(folder.path().join("B.csv"), "date,close\n2020-01-01,1\n").unwrap();
    fs::create_dir(folder.path().join("C.csv")).unwrap();

    let (out, said) = run(&["replay", "--csv", path, "--print"], 65);
    assert_eq!(out.matches("golden_cross").count(), 1, "{out}");
    for complaint in [
        "A.csv, line 3: date 2020-01-01 repeats; the first one stays",
        "A.csv, line 4: date \"2020-13-01\" is not YYYY-MM-DD",
        "A.csv, line 5: close is not a finite price above 0 and up to 1e12",
        "B.csv, line 1: the header lacks the column(s) open, high, low, volume; the file is skipped",
        "C.csv: Is a directory",
        "201 bars read",
        "1 signals emitted, 0 emitted earlier, 5 bad lines or records",
    ] {
        assert!(said.contains(complaint), "{complaint}: {said}");
    }
}

#[test]
fn a_folder_without_bars_is_a_mistake_and_a_missing_one_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(run(&["replay", "--print", "--csv", path], 64).1.contains("no .csv file in this folder"));
    let missing = format!("{path}/missing");
    assert!(run(&["replay", "--print", "--csv", &missing], 74).1.contains("No such file"));
}

#[test]
fn a_walk_prints_the_same_crosses_each_time() {
    let walk = || {
        let arguments = ["replay", "--print", "--random-walk", "2000", "--ticker-count", "3", "--death-cross"];
        run(&arguments, 0).0
    };
    let first = walk();
    assert!(first.contains("golden_cross") && first.contains("death_cross"), "{first}");
    assert_eq!(first, walk());
}

#[test]
fn a_secret_in_the_environment_is_never_repeated() {
    let mut command = command(&["mock", "--rate", "1", "--brokers", "h:1"]);
    let output = command.env("KAFKA_CONFIG_SECURITY_PROTOCOL", "s3cret").output().unwrap();
    let (_, said) = crate::program::texts(&output, 64);
    assert!(said.contains("KAFKA_CONFIG_SECURITY_PROTOCOL") && !said.contains("s3cret"), "{said}");
}
