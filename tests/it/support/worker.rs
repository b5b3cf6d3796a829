//! The sample worker under a real Celery.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::dispatcher::Setting;
use super::{service, unique};

/// A running worker. Killed when it goes out of scope.
pub(crate) struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    /// Starts one for the setting's queue and database.
    pub(crate) fn start(setting: &Setting) -> Self {
        let name = format!("{}@localhost", unique("worker"));
        let arguments = [
            "-m",
            "celery",
            "-A",
            "trigger_dispatcher_worker.app",
            "worker",
            "-P",
            "solo",
            "-l",
            "info",
            "-Q",
            &setting.queue,
            "-n",
            &name,
        ];
        let mut command = Command::new(service("TEST_PYTHON"));
        command.args(arguments).env_clear().envs(setting.variables.iter().cloned()).current_dir(std::env::temp_dir());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sink, err) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    /// Its log lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ended already is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
