use crate::kafka::{brokers, committed, topic};
use crate::program::{Running, csv, flat_then_up, until};
use std::fs::{self, OpenOptions};
use std::io::Write;

#[test]
fn a_file_that_grows_emits_when_its_line_is_whole_and_sigterm_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let (brokers, topic, bars) = (brokers(), topic(), flat_then_up());
    let file = folder.path().join("GROW.csv");
    fs::write(&file, csv(&bars[..200])).unwrap();
    let path = folder.path().to_str().unwrap();
    let mut running = Running::start(&["follow", "--poll", "0.05", "--csv", path, "--brokers", &brokers, "--topic", &topic]);

    // The bad line comes first, and has been read when the cross after it has been emitted.
    let mut open = OpenOptions::new().append(true).open(&file).unwrap();
    writeln!(open, "2030-01-01,1,1,1,nothing,1\n{}", bars[200].csv_line()).unwrap();
    until("the cross is emitted", || (committed(&topic).len() == 1).then_some(()));

    // A file that is replaced as a whole, and a new one.
    let replacement = folder.path().join("new");
    fs::write(&replacement, csv(&bars)).unwrap();
    fs::rename(&replacement, &file).unwrap();
    fs::write(folder.path().join("LATER.csv"), csv(&bars)).unwrap();
    let records = until("the new file is read", || Some(committed(&topic)).filter(|records| records.len() > 1));
    let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(keys.contains(&"GROW") && keys.contains(&"LATER"), "{keys:?}");

    assert!(!running.has_ended());
    let (_, said) = running.terminate(65);
    assert_eq!(said.matches("GROW.csv, line 202: close \"nothing\" is not a number").count(), 1, "told once: {said}");
    assert!(said.contains("2 signals emitted, 1 emitted earlier, 1 bad lines"), "{said}");
}
