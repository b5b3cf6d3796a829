//! `offsets set`: nobody is overrun, and what was decided stays decided.

use super::{output, reaches, refusal, send, set};
use crate::support::scene::{Scene, signal};
use crate::support::{service, wait_until};

#[tokio::test]
async fn an_offset_is_not_set_while_the_partition_is_read_nor_without_a_yes() {
    let scene = Scene::new(1).await;
    let dispatcher = scene.setting.start();
    send(&scene, 0, 5);
    reaches(&scene, [5]).await;
    let line = refusal(&scene, &set("0", "earliest"));
    assert!(line.contains("/0 is being read by trigger-dispatcher at") && line.contains("stop its instances first"), "{line}");
    assert!(dispatcher.stop().success());

    // Everything was decided, and stays as it is.
    let line = refusal(&scene, &set("0", "earliest"));
    assert!(line.contains("is decided already") && line.contains("would change nothing"), "{line}");
    send(&scene, 0, 5);
    let unasked = scene.setting.run(&["offsets", "set", "--partition", "0", "--to", "8"]);
    let (said, line) = (String::from_utf8_lossy(&unasked.stdout), String::from_utf8_lossy(&unasked.stderr));
    assert!(said.contains("5 → 8; 3 offsets are not decided"), "{said}");
    assert!(line.contains("add --yes") && line.lines().count() == 1, "{line}");
    assert_eq!(scene.total().await.next_offset, Some(5), "nothing moved");
}

/// The incident: signals that were discarded as busy started when the offset was set back, and were counted twice.
#[tokio::test]
async fn set_back_only_what_was_skipped_is_decided_and_nothing_is_counted_twice() {
    let mut scene = Scene::new(1).await;
    let [a, b, c] = [
        scene.database.pipeline("a", &["AAPL"]).await,
        scene.database.pipeline("b", &["MSFT"]).await,
        scene.database.pipeline("c", &["TSLA"]).await,
    ];
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    scene.decided(1).await;
    // Busy: its pipeline has just been triggered.
    scene.send(&[signal("2", "AAPL"), signal("3", "NOBODY")]);
    assert_eq!(scene.decided(3).await.busy, 1);
    assert_eq!(scene.enqueued(1), [a]);
    assert!(dispatcher.stop().success());
    // Two are skipped, and one is decided behind them.
    scene.send(&[signal("4", "MSFT"), signal("5", "NOBODY"), signal("6", "TSLA")]);
    let said = output(&scene, &set("0", "5"));
    assert!(said.contains("3 → 5; 2 offsets are not decided"), "{said}");
    let dispatcher = scene.setting.start();
    reaches(&scene, [6]).await;
    assert_eq!(scene.enqueued(2), [a, c]);
    assert!(dispatcher.stop().success());
    // The pipeline of the busy signal is idle again: still its signal stays discarded.
    scene.database.run("update dispatcher.slots set leased_until = now()").await;

    let said = output(&scene, &set("0", "earliest"));
    assert!(said.contains("6 → 0; 2 offsets that were skipped are decided now, 4 keep their disposition"), "{said}");
    let dispatcher = scene.setting.start();
    let total = wait_until("the skipped ones", 60, async || {
        Some(scene.total().await).filter(|total| total.next_offset == Some(6) && total.consumed == 6)
    })
    .await;
    assert_eq!((total.triggered, total.busy, total.unmatched, total.redelivered), (3, 1, 2, 0), "each record once: {total:?}");
    assert_eq!(scene.enqueued(3), [a, c, b]);
    assert_eq!(dispatcher.events("progress_behind_kafka").len(), 0, "the operator's word counts");
    // And it goes on behind.
    send(&scene, 0, 1);
    assert_eq!(reaches(&scene, [7]).await[0].consumed, 7);
    assert!(dispatcher.stop().success());
    let line = refusal(&scene, &set("0", "earliest"));
    assert!(line.contains("is decided already"), "now all of them are: {line}");
}

/// At a terminal the command asks, and does nothing without a yes.
#[tokio::test]
async fn at_a_terminal_the_command_asks_first() {
    // A terminal of the command's own, at which somebody types the answer.
    const TERMINAL: &str = "
import os, pty, sys
answers = [sys.argv[1].encode()]
typed = lambda fd: answers.pop() if answers else b''
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2:], lambda fd: os.read(fd, 1024), typed)))
";
    let mut scene = Scene::new(1).await;
    let dispatcher = scene.setting.start();
    send(&scene, 0, 5);
    reaches(&scene, [5]).await;
    assert!(dispatcher.stop().success());
    send(&scene, 0, 5);
    for (answer, code, next_offset, said) in
        [("\n", 1, 5, "nothing was changed"), ("n\n", 1, 5, "nothing"), ("y\n", 0, 8, "Set.")]
    {
        scene.setting.wrapper = [service("TEST_PYTHON").as_str(), "-c", TERMINAL, answer].map(str::to_owned).to_vec();
        let output = scene.setting.run(&["offsets", "set", "--partition", "0", "--to", "8"]);
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(seen.contains("5 → 8; 3 offsets are not decided") && seen.contains("Go on? [y/N]"), "{seen}");
        assert!(seen.contains(said) && output.status.code() == Some(code), "{answer:?} {:?}: {seen}", output.status);
        assert_eq!(scene.total().await.next_offset, Some(next_offset));
    }
}
