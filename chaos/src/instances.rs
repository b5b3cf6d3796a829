//! The dispatchers: processes that are started, killed, stopped and started again.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Write as _};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clock;
use crate::evidence::Evidence;
use crate::services::signal_process;

/// How much the wall clock of one instance after the other is ahead of the true time. Nothing may depend on it.
const CLOCKS_MS: [i64; 3] = [0, 420_000, -420_000];
/// The signal that a crash point ends its process with.
const ABORTED: i32 = 6;

/// Where in an instance's log the reason of its end stands.
const LAST_LINES: usize = 20;

/// The dispatchers of a deployment. Killed when they go out of scope.
#[derive(Debug)]
pub(crate) struct Instances {
    program: PathBuf,
    variables: Vec<(String, String)>,
    evidence: Arc<Evidence>,
    numbers: Range<usize>,
    running: Vec<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    since: Instant,
    /// The other end of a log that nobody reads.
    _unread: Option<PipeReader>,
}

/// What is in a log that nobody reads when its writer gets it. Linux keeps 64 KiB.
const FULL: usize = 60 * 1024;

impl Instances {
    pub(crate) fn new(numbers: Range<usize>, variables: Vec<(String, String)>, evidence: &Arc<Evidence>) -> anyhow::Result<Self> {
        // Built beside this one.
        let program = std::env::current_exe()?.with_file_name("dispatcher-under-test");
        let running = numbers.clone().map(|_| Mutex::default()).collect();
        Ok(Self { program, variables, evidence: Arc::clone(evidence), numbers, running })
    }

    /// The numbers of its instances.
    pub(crate) fn numbers(&self) -> Range<usize> {
        self.numbers.clone()
    }

    fn command(&self, argument: &str) -> Command {
        let mut command = Command::new(&self.program);
        // An empty environment and another folder: nothing of a developer's may join in.
        command.arg(argument).env_clear().envs(self.variables.iter().cloned()).current_dir(self.evidence.folder());
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn migrate(&self) -> anyhow::Result<()> {
        let output = self.command("migrate").output().with_context(|| format!("cannot run {}", self.program.display()))?;
        anyhow::ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Waits for whoever is busy with the instance. Only one fault at a time concerns an instance.
    fn lock(&self, number: usize) -> MutexGuard<'_, Option<Running>> {
        self.running[number - self.numbers.start].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one that is down; with `crash`, it will die at that point.
    pub(crate) fn start(&self, number: usize, crash: Option<&str>) -> anyhow::Result<()> {
        self.launch(number, None, |command, log| {
            command.stdout(log);
            if let Some(crash) = crash {
                command.env("CHAOS_CRASH", crash);
            }
        })
    }

    /// Kills one and starts it with a log that nobody reads, and that is nearly full.
    pub(crate) fn restart_unread(&self, number: usize) -> anyhow::Result<()> {
        self.kill(number)?;
        let (unread, mut log) = std::io::pipe().context("cannot make a pipe")?;
        log.write_all(&vec![b'\n'; FULL]).context("cannot fill a pipe")?;
        self.launch(number, Some(unread), |command, _| _ = command.stdout(log))?;
        self.evidence.hit("log full");
        Ok(())
    }

    fn launch(&self, number: usize, unread: Option<PipeReader>, prepare: impl FnOnce(&mut Command, File)) -> anyhow::Result<()> {
        let mut slot = self.lock(number);
        anyhow::ensure!(slot.is_none(), "instance {number} runs already");
        let path = self.evidence.folder().join(format!("instance-{number}.log"));
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        let mut command = self.command("run");
        command.env("HOSTNAME", format!("instance-{number}"));
        command.env("CHAOS_CLOCK_OFFSET_MS", CLOCKS_MS[number % CLOCKS_MS.len()].to_string());
        prepare(&mut command, log.try_clone()?);
        let child = command.stderr(log).spawn().context("cannot start an instance")?;
        *slot = Some(Running { child, since: clock::now(), _unread: unread });
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&self, number: usize) -> anyhow::Result<()> {
        if let Some(Running { mut child, .. }) = self.lock(number).take() {
            child.kill()?;
            child.wait()?;
            self.evidence.hit("kill -9");
        }
        Ok(())
    }

    pub(crate) fn restart(&self, number: usize) -> anyhow::Result<()> {
        self.kill(number)?;
        self.start(number, None)
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(&self, number: usize) -> anyhow::Result<ExitStatus> {
        let mut slot = self.lock(number);
        let Running { mut child, .. } = slot.take().with_context(|| format!("instance {number} is down"))?;
        signal_process(child.id(), "TERM")?;
        match clock::wait_for(Duration::from_secs(60), || Ok(child.try_wait()?))? {
            Some(status) => Ok(status),
            None => {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("instance {number} does not end within 60 s after SIGTERM")
            }
        }
    }

    pub(crate) fn signal(&self, number: usize, signal: &str) -> anyhow::Result<()> {
        match &*self.lock(number) {
            Some(running) => signal_process(running.child.id(), signal),
            None => anyhow::bail!("instance {number} is down"),
        }
    }

    /// Whether an instance has died at its crash point; its place is free then. An instance that ended in another way is an
    /// error: nothing that we do should end it.
    pub(crate) fn has_crashed(&self, number: usize) -> anyhow::Result<bool> {
        let mut slot = self.lock(number);
        let Some(status) = slot.as_mut().map(|running| running.child.try_wait()).transpose()?.flatten() else { return Ok(false) };
        *slot = None;
        anyhow::ensure!(status.signal() == Some(ABORTED), "instance {number} ended by itself: {status}");
        Ok(true)
    }

    /// Starts an instance again that has left because its Kafka client was stuck, as a supervisor would. Fails if one has ended
    /// by itself for any other reason.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for number in self.numbers() {
            let mut slot = self.lock(number);
            let Some(status) = slot.as_mut().map(|running| running.child.try_wait()).transpose()?.flatten() else { continue };
            let log = std::fs::read_to_string(self.evidence.folder().join(format!("instance-{number}.log")))?;
            let stalls = log.lines().rev().take(LAST_LINES).any(|line| line.contains("\"intake_stalled\""));
            anyhow::ensure!(status.code() == Some(1) && stalls, "instance {number} ended by itself: {status}");
            self.evidence.hit("left a stuck Kafka client");
            *slot = None;
            drop(slot);
            self.start(number, None)?;
        }
        Ok(())
    }

    /// The processes that run, with their age.
    pub(crate) fn ages(&self) -> Vec<(u32, Duration)> {
        let age = |running: &Running| (running.child.id(), running.since.elapsed());
        self.numbers().filter_map(|number| self.lock(number).as_ref().map(age)).collect()
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        for number in self.numbers() {
            // Nothing more can be done about one that cannot be killed.
            self.kill(number).ok();
        }
    }
}
