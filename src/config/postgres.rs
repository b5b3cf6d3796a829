//! Where rules, executions and our ledger are.

use std::path::PathBuf;

use secrecy::SecretString;

use super::environment::{Reader, shape};

/// How the connection to PostgreSQL is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text.
    Disable,
    /// Encrypted; the server's certificate is not checked.
    Require,
    /// Encrypted; the certificate's chain and host name are checked.
    VerifyFull,
}

/// Where rules, executions and our ledger are.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Role.
    pub user: String,
    /// The role's password.
    pub password: SecretString,
    /// Each a host name, an address, or the folder of a Unix socket. They are tried in their order until one takes writes.
    pub hosts: Vec<String>,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// How the connection is protected.
    pub ssl_mode: SslMode,
    /// PEM file with the authorities to trust; the system's when `None`.
    pub ssl_root_certificate: Option<PathBuf>,
    /// Whether `run` makes our schema.
    pub auto_migrate: bool,
}

impl PostgresConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let user = reader.required("POSTGRES_USER");
        let password = reader.secret("POSTGRES_PASSWORD");
        let hosts = hosts(reader);
        let port = reader.number("POSTGRES_PORT", 1, u16::MAX);
        let database = reader.required("POSTGRES_DB");
        let ssl_mode = match reader.optional("POSTGRES_SSLMODE") {
            Some(_) => reader.choice(
                "POSTGRES_SSLMODE",
                &[("disable", SslMode::Disable), ("require", SslMode::Require), ("verify-full", SslMode::VerifyFull)],
            ),
            None => hosts
                .as_ref()
                .map(|hosts| if hosts.iter().all(|host| is_local(host)) { SslMode::Disable } else { SslMode::VerifyFull }),
        };
        let ssl_root_certificate = reader.optional("POSTGRES_SSLROOTCERT").map(PathBuf::from);
        if let Some(path) = ssl_root_certificate.as_ref().filter(|path| !path.is_file()) {
            reader.problem("POSTGRES_SSLROOTCERT", format!("there is no such file, got {}", shape(&path.to_string_lossy())));
        }
        let auto_migrate = reader.choice("AUTO_MIGRATE", &[("true", true), ("false", false)]);
        Some(Self {
            user: user?.to_owned(),
            password: password?,
            hosts: hosts?,
            port: port?,
            database: database?.to_owned(),
            ssl_mode: ssl_mode?,
            ssl_root_certificate,
            auto_migrate: auto_migrate?,
        })
    }
}

/// libpq's list of hosts. Our client takes an address in brackets for a name.
fn hosts(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let list = reader.required("POSTGRES_HOST")?;
    let hosts: Vec<_> = list.split(',').map(|host| host.trim().trim_matches(['[', ']']).to_owned()).collect();
    let is_host = |host: &String| {
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        host.starts_with('/') || is_address || !host.is_empty() && !host.contains([':', '/', '@', '[', ']', ' '])
    };
    if !hosts.iter().all(is_host) {
        let text = "expected a host, or several with a comma between them; the port stands in POSTGRES_PORT";
        reader.problem("POSTGRES_HOST", format!("{text}, got {}", shape(list)));
        return None;
    }
    Some(hosts)
}

/// Whether traffic to `host` stays on this machine.
pub(super) fn is_local(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
