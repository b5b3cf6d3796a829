//! A PostgreSQL of a test's own, which the test may break as it likes.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use url::Url;

use super::private_redis::free_port;
use super::wait_for;

/// Ended without a checkpoint when it goes out of scope.
pub(crate) struct PrivatePostgres {
    port: u16,
    child: Option<Child>,
    /// Whom the server runs as, where the tests run as root: PostgreSQL refuses to.
    user: Option<(u32, u32)>,
    bin: PathBuf,
    folder: TempDir,
}

impl PrivatePostgres {
    /// With settings such as `fsync=off`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = unprivileged();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut postgres = Self { port: free_port(), child: None, user, bin: newest_bin(), folder };
        let made = postgres
            .command("initdb")
            .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "-D"])
            .arg(postgres.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = postgres.data().join("postgresql.conf");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &settings.join("\n") + "\n").unwrap();
        postgres.up();
        postgres
    }

    /// Starts it again, on the same port and with what it has kept.
    pub(crate) fn up(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let child = self.child.insert(child);
        wait_for("the private postgres", 60, || {
            assert_eq!(child.try_wait().unwrap(), None, "postgres ended by itself");
            TcpStream::connect(("127.0.0.1", self.port)).ok().filter(|_| self.folder.path().join("data/postmaster.pid").exists())
        });
        let port = self.port.to_string();
        wait_for("the private postgres to take sessions", 60, || {
            let ready = self.command("pg_isready").args(["-h", "127.0.0.1", "-p", &port]).stdout(Stdio::null()).status();
            ready.unwrap().success().then_some(())
        });
    }

    /// What a crash leaves: SIGQUIT ends it at once, with neither a checkpoint nor a flush of its log.
    pub(crate) fn crash(&mut self) {
        let mut child = self.child.take().expect("a running postgres");
        let status = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        child.wait().unwrap();
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("postgres://postgres:unused@127.0.0.1:{}/postgres", self.port)).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.folder.path());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.crash();
        }
    }
}

/// User and group of PostgreSQL's own, where the tests run as root: some servers refuse to.
pub(super) fn unprivileged() -> Option<(u32, u32)> {
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

fn id(arguments: &[&str]) -> u32 {
    let output = Command::new("id").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Debian's programs of the newest version, as scripts/services finds them.
pub(crate) fn newest_bin() -> PathBuf {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    versions
        .last()
        .map(|path| path.join("bin"))
        .filter(|bin| Path::new(bin).is_dir())
        .expect("postgresql, which scripts/test installs")
}
