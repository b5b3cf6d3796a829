//! A pooler (`pgbouncer`) of a test's own, before the tests' PostgreSQL.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio_postgres::Client;
use url::Url;

use super::database::connect;
use super::private_postgres::unprivileged;
use super::private_redis::free_port;
use super::{service, wait_for};

/// Ended with SIGKILL when it goes out of scope.
pub(crate) struct PgBouncer {
    pub(crate) port: u16,
    child: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// With `pool_mode` transaction or session.
    pub(crate) fn start(pool_mode: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let server = Url::parse(&service("TEST_POSTGRES_URL")).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host={} port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {pool_mode}\ndefault_pool_size = 20\n",
            server.host_str().unwrap(),
            server.port().unwrap(),
            server.username(),
            server.password().unwrap(),
        );
        std::fs::write(&file, settings).unwrap();
        // Debian's folder for it is not on everybody's PATH.
        let debians = Path::new("/usr/sbin/pgbouncer");
        let mut command = Command::new(if debians.exists() { debians } else { Path::new("pgbouncer") });
        if let Some((user, group)) = unprivileged() {
            for path in [folder.path(), &file] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
            }
            command.uid(user).gid(group);
        }
        command.arg("-q").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pgbouncer =
            Self { port, child: command.spawn().expect("pgbouncer, which scripts/test installs"), _folder: folder };
        wait_for("pgbouncer", 30, || {
            assert_eq!(pgbouncer.child.try_wait().unwrap(), None, "pgbouncer ended by itself");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        pgbouncer
    }

    /// Another client of its pool.
    pub(crate) async fn client(&self, database: &str) -> Client {
        connect(&Url::parse(&format!("postgres://anybody:unused@127.0.0.1:{}/{database}", self.port)).unwrap()).await
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Ended already is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
