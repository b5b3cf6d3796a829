//! A host name of a dispatcher's own, which a test can let point elsewhere.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::dispatcher::PROGRAM;

/// What stands in `/etc/hosts` for one process and its children only, by a mount namespace of their own.
pub(crate) struct Names {
    folder: TempDir,
}

impl Names {
    pub(crate) fn new(name: &str, address: &str) -> Self {
        let names = Self { folder: tempfile::tempdir().unwrap() };
        names.point(name, address);
        names
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }

    /// The name has another address from now on.
    pub(crate) fn point(&self, name: &str, address: &str) {
        // In place: what is mounted is this very file.
        std::fs::write(self.file(), format!("127.0.0.1 localhost\n{address} {name}\n")).unwrap();
    }

    /// The program, with these names.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"",
            "sh",
        ]);
        command.arg(self.file()).arg(PROGRAM);
        command
    }
}
