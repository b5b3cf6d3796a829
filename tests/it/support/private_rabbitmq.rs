//! A RabbitMQ of a test's own, for what would hurt all others: alarms, and SIGKILL. It takes seconds to start.

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Ended, with all that it left, when it goes out of scope.
pub(crate) struct PrivateRabbitmq {
    pub(crate) url: String,
    folder: TempDir,
}

impl PrivateRabbitmq {
    pub(crate) fn start() -> Self {
        let mut rabbitmq = Self { url: String::new(), folder: tempfile::tempdir().unwrap() };
        rabbitmq.services(&["up", "rabbitmq"]);
        let told = rabbitmq.services(&["env", "rabbitmq"]).stdout;
        let told = String::from_utf8(told).unwrap();
        let url = told.lines().find_map(|line| line.strip_prefix("export TEST_AMQP_URL=")).unwrap();
        url.clone_into(&mut rabbitmq.url);
        rabbitmq
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("services")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.args(arguments).env("TRIGGER_DISPATCHER_SERVICES", self.data());
        command
    }

    fn services(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// `rabbitmqctl` for this node.
    pub(crate) fn order(&self, arguments: &[&str]) {
        let output = Command::new(self.data().join("rabbitmqctl")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        self.services(&["kill", "rabbitmq"]);
    }

    /// Starts it again, on the same port and with what it has kept.
    pub(crate) fn up(&self) {
        self.services(&["start", "rabbitmq"]);
    }
}

impl Drop for PrivateRabbitmq {
    fn drop(&mut self) {
        // Dead already is fine; and dead it need not be asked to end.
        for arguments in [["kill", "rabbitmq"], ["down", "--wipe"]] {
            self.command(&arguments).output().ok();
        }
    }
}
