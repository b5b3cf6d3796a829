//! A subject that runs, as a process with a log of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::clock::{wait_closely, wait_for};
use crate::kafka::Topic;
use crate::platform::Platform;
use crate::process::{Usage, usage};
use crate::results::complain;
use crate::services::Services;
use crate::subject::{Kind, Subject};

/// How an instance runs: the subject's own configuration, but for what names the run.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    subject: Subject,
    variables: Vec<(&'static str, String)>,
    log: PathBuf,
}

impl Setting {
    pub(crate) fn new(services: &Services, platform: &Platform, topic: &Topic, name: &str, subject: &Subject) -> Self {
        let own = [
            ("KAFKA_BOOTSTRAP_SERVERS", services.kafka.clone()),
            ("KAFKA_SIGNAL_TOPIC", topic.name.clone()),
            ("KAFKA_CONSUMER_GROUP", name.to_owned()),
            ("KAFKA_AUTO_OFFSET_RESET", "earliest".to_owned()),
            ("CELERY_BROKER_URL", services.redis.clone()),
            ("CELERY_TASK_QUEUE", name.to_owned()),
            // Port 0: a free one.
            ("HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
        ];
        let variables = own.into_iter().chain(platform.variables()).collect();
        Self { subject: subject.clone(), variables, log: std::env::temp_dir().join(format!("{name}.log")) }
    }

    /// The same with a log of its own, for one of several instances.
    pub(crate) fn numbered(&self, number: usize, subject: &Subject) -> Self {
        Self { subject: subject.clone(), log: self.log.with_extension(format!("{number}.log")), ..self.clone() }
    }

    pub(crate) fn start(&self) -> anyhow::Result<Instance> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.subject.command();
        // The subject's own changes win.
        for (name, value) in &self.variables {
            if command.get_envs().all(|(own, _)| own != *name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.subject.name))?;
        Ok(Instance { child, name: self.subject.name.clone(), kind: self.subject.kind, log: self.log.clone(), ended: false })
    }
}

/// A running instance. Killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    name: String,
    kind: Kind,
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

    /// What it has logged so far.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("{}", self.log.display()))
    }

    /// Fails, with its last words, if it has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            self.ended = true;
            let log = self.log()?;
            let last: Vec<_> = log.lines().rev().take(5).collect();
            anyhow::bail!("{} ended, {status}:\n{}", self.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    /// Waits until it has its partitions.
    pub(crate) fn wait_ready(&mut self, platform: &mut Platform, partitions: i32) -> anyhow::Result<()> {
        wait_closely("partitions", Duration::from_secs(120), Duration::from_millis(1), || {
            self.check()?;
            self.is_ready(platform, partitions)
        })
    }

    fn is_ready(&self, platform: &mut Platform, partitions: i32) -> anyhow::Result<Option<()>> {
        let ready = match self.kind {
            Kind::Dispatcher => platform.partitions()? >= i64::from(partitions),
            Kind::Contender => self.log()?.lines().any(|line| line == "ready"),
        };
        Ok(ready.then_some(()))
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-s", signal, &self.pid().to_string()]).status()?;
        anyhow::ensure!(told.success(), "cannot signal {}", self.name);
        Ok(())
    }

    /// SIGTERM, and waits for an end in order. Gives the lines of its log that are warnings or worse.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<String>> {
        self.signal("TERM")?;
        let status = wait_for("the end of the process", Duration::from_secs(60), || Ok(self.child.try_wait()?))?;
        self.ended = true;
        anyhow::ensure!(status.success(), "{} did not end in order, {status}: {}", self.name, self.log.display());
        let log = self.log()?;
        let is_warning = |line: &&str| line.contains(r#""level":"warn""#) || line.contains(r#""level":"error""#);
        let warnings: Vec<String> = log.lines().filter(is_warning).take(100).map(str::to_owned).collect();
        if let Some(first) = warnings.first() {
            complain(&format!("{} logged {} warnings; the first: {first}", self.name, warnings.len()));
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
