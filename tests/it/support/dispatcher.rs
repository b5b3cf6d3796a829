//! The real program as a process, with its log.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::database::TestDatabase;
use super::topic::TestTopic;
use super::{PATIENCE, service, unique, wait_for};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_trigger-dispatcher");

/// Variables of one dispatcher; several instances may share them.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) group: String,
    pub(crate) queue: String,
    /// Words before the program's name: what starts it in surroundings of its own.
    pub(crate) wrapper: Vec<String>,
}

impl Setting {
    /// For the topic and the database, on Redis, with a group and a queue of its own.
    pub(crate) fn new(topic: &TestTopic, database: &TestDatabase) -> Self {
        let (group, queue) = (unique("group"), unique("queue"));
        let mut setting =
            Self { variables: database.variables(), group: group.clone(), queue: queue.clone(), wrapper: Vec::new() };
        setting.set("KAFKA_BOOTSTRAP_SERVERS", &service("TEST_KAFKA"));
        setting.set("KAFKA_SIGNAL_TOPIC", &topic.name);
        setting.set("KAFKA_CONSUMER_GROUP", &group);
        setting.set("CELERY_BROKER_URL", &service("TEST_REDIS_URL"));
        setting.set("CELERY_TASK_QUEUE", &queue);
        // Port 0: each instance takes a free one.
        setting.set("HTTP_ADDRESS", "127.0.0.1:0");
        setting
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let words: Vec<_> = self.wrapper.iter().map(String::as_str).chain([PROGRAM]).chain(arguments.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        // An empty folder: no .env of a developer's may join in.
        command.args(&words[1..]).env_clear().envs(self.variables.iter().cloned()).current_dir(std::env::temp_dir());
        command
    }

    /// Starts an instance and waits until it reads partitions, or, where others have them all, its group.
    pub(crate) fn start(&self) -> Instance {
        let instance = self.launch();
        instance.wait_for_event("partitions_changed");
        instance
    }

    /// Starts an instance and waits for nothing.
    pub(crate) fn launch(&self) -> Instance {
        let mut child = self.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let log = Log::default();
        let (sink, out) = (Arc::clone(&log.0), child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Instance { child, log, reader: Some(reader), started: Instant::now() }
    }

    /// Runs a command that ends by itself.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// What an instance has said so far; it outlives the instance.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Its lines of one event.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        let lines = self.lines();
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|line| line["event"] == event).collect()
    }

    /// The sum of a number over all lines of an event.
    pub(crate) fn sum(&self, event: &str, field: &str) -> u64 {
        self.events(event).iter().filter_map(|line| line[field].as_u64()).sum()
    }
}

/// A running dispatcher. Killed when it goes out of scope.
pub(crate) struct Instance {
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
    started: Instant,
}

impl Instance {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been running.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Memory that it has had at most, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }

    /// Its log lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Its log lines of one event so far.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        self.log.events(event)
    }

    pub(crate) fn wait_for_event(&self, event: &str) -> Value {
        wait_for(&format!("the event {event}"), PATIENCE, || self.events(event).pop())
    }

    /// The sum of a number over all lines of an event.
    pub(crate) fn sum(&self, event: &str, field: &str) -> u64 {
        self.log.sum(event, field)
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.ended(60)
    }

    /// Waits for its end; its log is complete then.
    pub(crate) fn ended(mut self, seconds: u64) -> ExitStatus {
        let status = wait_for("the end of an instance", seconds, || self.child.try_wait().unwrap());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Ended already is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
