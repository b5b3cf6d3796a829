//! Whoever reads the log may stop reading. The flow, SIGTERM and the watchdog do not wait for that.

use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::scene::{Scene, signal};
use super::support::{stopwatch, wait_for};

/// More signals than a full pipe of 64 KiB and the lines that wait have room for.
const SIGNALS: i64 = 20_000;

/// An instance whose log nobody reads: neither what it says on stdout nor on stderr.
fn unread(scene: &Scene) -> Child {
    scene.setting.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends signals of which each has its log lines, and waits until they are decided.
async fn decide_many(scene: &Scene) {
    for number in 0..SIGNALS {
        scene.topic.send_json(0, &signal(&format!("signal-{number}"), "NOBODY"));
    }
    scene.topic.flush();
    assert_eq!(scene.decided(SIGNALS).await.consumed, SIGNALS);
}

async fn talkative() -> Scene {
    let mut scene = Scene::new(1).await;
    scene.setting.set("LOG_SIGNALS_PER_SECOND", "1000000");
    scene
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

fn end(mut child: Child) -> ExitStatus {
    wait_for("the end of an instance", 30, || child.try_wait().unwrap())
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_neither_signals_nor_a_stop() {
    let scene = talkative().await;
    let dispatcher = unread(&scene);
    decide_many(&scene).await;
    let took = stopwatch();
    terminate(&dispatcher);
    let status = end(dispatcher);
    assert!(status.success(), "{status}");
    assert!(took() < Duration::from_secs(10), "{:?}", took());
    scene.committed(SIGNALS);
}

#[tokio::test]
async fn whoever_reads_the_log_again_learns_how_many_lines_were_dropped() {
    let scene = talkative().await;
    let mut dispatcher = unread(&scene);
    decide_many(&scene).await;
    let mut out = dispatcher.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    terminate(&dispatcher);
    assert!(end(dispatcher).success());
    let text = reader.join().unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let dropped: u64 = of("log_lines_dropped").iter().map(|line| line["since_start"].as_u64().unwrap()).max().unwrap();
    assert!(dropped > 0);
    let received = of("signal_received").len();
    assert!(received < usize::try_from(SIGNALS).unwrap(), "nothing was dropped: this shows nothing");
    assert_eq!(of("stopped").len(), 1, "the last line is there");
}
