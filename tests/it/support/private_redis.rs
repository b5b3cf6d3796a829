//! A Redis of a test's own, which the test may break as it likes.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::wait_for;

/// Ended with SIGKILL when it goes out of scope.
pub(crate) struct PrivateRedis {
    pub(crate) port: u16,
    child: Option<Child>,
    folder: TempDir,
}

impl PrivateRedis {
    /// Keeps every command before it answers, so that a kill loses nothing; and never evicts.
    pub(crate) fn start() -> Self {
        let mut redis = Self { port: free_port(), child: None, folder: tempfile::tempdir().unwrap() };
        redis.up();
        redis
    }

    /// Starts it again, on the same port and with what it has kept.
    pub(crate) fn up(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--daemonize", "no"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"]);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server, which scripts/test installs");
        let child = self.child.insert(child);
        wait_for("the private redis", 60, || {
            assert_eq!(child.try_wait().unwrap(), None, "redis-server ended by itself");
            let mut connection =
                redis::Client::open(format!("redis://127.0.0.1:{}/0", self.port)).unwrap().get_connection().ok()?;
            // Not while it still reads what it has kept.
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running redis");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends the running server a signal, STOP or CONT.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("a running redis").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// One command as an administrator gives it.
    pub(crate) fn order(&self, command: &str) {
        let mut words = command.split_whitespace();
        let mut order = redis::cmd(words.next().unwrap());
        for word in words {
            order.arg(word);
        }
        order.query::<redis::Value>(&mut self.connect()).unwrap();
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ended already is fine.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Below the ports that Linux hands out to outgoing connections: a client that knocks at a dead server's port could else be
/// given that very port.
pub(super) fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(10_000..20_000)).find(is_free).unwrap()
}
