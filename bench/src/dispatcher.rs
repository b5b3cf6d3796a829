//! The program under test, as a process with a log of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;

use crate::clock::wait_for;
use crate::kafka::Topic;
use crate::platform::Platform;
use crate::process::{Usage, usage};
use crate::results::complain;
use crate::services::Services;

/// The program, built beside this one.
pub(crate) static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("trigger-dispatcher")
});

/// How an instance runs: its default configuration, but for what names the run.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    variables: Vec<(String, String)>,
    log: PathBuf,
}

impl Setting {
    /// `changes` are variables that differ from the defaults.
    pub(crate) fn new(services: &Services, platform: &Platform, topic: &Topic, name: &str, changes: &[(String, String)]) -> Self {
        let own = [
            ("KAFKA_BOOTSTRAP_SERVERS", services.kafka.clone()),
            ("KAFKA_SIGNAL_TOPIC", topic.name.clone()),
            ("KAFKA_CONSUMER_GROUP", name.to_owned()),
            ("CELERY_BROKER_URL", services.redis.clone()),
            ("CELERY_TASK_QUEUE", name.to_owned()),
            // Port 0: a free one.
            ("HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
        ];
        let own = own.into_iter().chain(platform.variables()).map(|(name, value)| (name.to_owned(), value));
        let variables = own.chain(changes.iter().cloned()).collect();
        Self { variables, log: std::env::temp_dir().join(format!("{name}.log")) }
    }

    pub(crate) fn start(&self) -> anyhow::Result<Instance> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(PROGRAM.as_path());
        // An empty environment and another folder: nothing of a developer's may join in.
        command.arg("run").env_clear().envs(self.variables.iter().cloned()).current_dir(std::env::temp_dir());
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let child = command.spawn().with_context(|| format!("cannot run {}", PROGRAM.display()))?;
        Ok(Instance { child, log: self.log.clone(), ended: false })
    }
}

/// A running instance. Killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Instance {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.pid())
    }

    /// Fails, with its last words, if it has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            self.ended = true;
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            anyhow::bail!("the dispatcher ended, {status}:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    /// SIGTERM, and waits for an end in order. Gives the lines of its log that are warnings or worse.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<String>> {
        let told = Command::new("kill").arg(self.pid().to_string()).status()?;
        anyhow::ensure!(told.success(), "cannot signal the dispatcher");
        let status = wait_for("the dispatcher's end", Duration::from_secs(60), || Ok(self.child.try_wait()?))?;
        self.ended = true;
        anyhow::ensure!(status.success(), "the dispatcher did not end in order, {status}: {}", self.log.display());
        let log = std::fs::read_to_string(&self.log)?;
        let is_warning = |line: &&str| line.contains(r#""level":"warn""#) || line.contains(r#""level":"error""#);
        let warnings: Vec<String> = log.lines().filter(is_warning).map(str::to_owned).collect();
        if let Some(first) = warnings.first() {
            complain(&format!("the dispatcher logged {} warnings; the first: {first}", warnings.len()));
        }
        std::fs::remove_file(&self.log)?;
        Ok(warnings)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended just now.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Reads `NAME=VALUE`.
pub(crate) fn change(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
