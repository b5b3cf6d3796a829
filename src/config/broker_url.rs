//! Celery's broker URLs, read as kombu reads them.
//!
//! One deliberate difference: a bare `rediss://` checks the server's certificate (kombu does not); say
//! `?ssl_cert_reqs=none` to give that up. `optional` checks it too: so does Python, where a client has no other choice.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// Where tasks go.
#[derive(Debug, Clone)]
pub enum Broker {
    /// `redis://`, `rediss://`, `redis+socket://`.
    Redis(RedisAddress),
    /// `amqp://`, `amqps://`.
    Amqp(AmqpAddress),
}

/// A Redis server and database.
#[derive(Debug, Clone)]
pub struct RedisAddress {
    /// Host and port, or the path of a Unix socket.
    pub endpoint: RedisEndpoint,
    /// ACL user; the default user when `None`.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<SecretString>,
    /// Number of the database.
    pub database: i64,
}

/// How to reach a Redis server.
#[derive(Debug, Clone)]
pub enum RedisEndpoint {
    /// TCP, with or without TLS.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// TLS settings; plain text when `None`.
        tls: Option<RedisTls>,
    },
    /// A Unix socket.
    Socket(PathBuf),
}

/// TLS towards Redis.
#[derive(Debug, Clone)]
pub struct RedisTls {
    /// Whether the server's certificate is checked.
    pub check: CertificateCheck,
    /// PEM file with the authorities to trust; the system's when `None`.
    pub authorities: Option<PathBuf>,
    /// PEM files of our own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Whether the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateCheck {
    /// Chain and host name.
    Full,
    /// Not at all.
    None,
}

/// A RabbitMQ server and virtual host.
#[derive(Debug, Clone)]
pub struct AmqpAddress {
    /// The whole URL, with the virtual host as AMQP clients expect it.
    pub url: SecretString,
    /// The host name or address, without the brackets of IPv6: our AMQP client takes an address in brackets for `localhost`.
    pub host: String,
    /// The URL without its credentials, for logs.
    pub redacted: String,
}

impl Broker {
    /// Reads a broker URL.
    ///
    /// # Errors
    /// One sentence on what is wrong; never the URL itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, _) = text.split_once("://").ok_or("expected a URL such as redis://host:6379/0 or amqp://host:5672/vhost")?;
        match scheme {
            "redis" | "rediss" | "redis+socket" => RedisAddress::parse(text).map(Self::Redis),
            "amqp" | "amqps" | "pyamqp" => AmqpAddress::parse(text).map(Self::Amqp),
            "sentinel" | "unix" => Err(format!("{scheme}:// is not supported; use redis://, rediss:// or redis+socket://")),
            _ => Err("the scheme is none of redis, rediss, redis+socket, amqp, amqps".to_owned()),
        }
    }
}

impl RedisAddress {
    /// Reads a `redis://`, `rediss://` or `redis+socket://` URL.
    ///
    /// # Errors
    /// One sentence on what is wrong; never the URL itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_shape(text)?;
        // kombu takes credentials without a host, as in `redis+socket://:password@/path`; the URL standard does not.
        let hostless =
            text.split_once("@/").filter(|(head, _)| head.split_once("://").is_some_and(|(_, user)| !user.contains('/')));
        let url = hostless.map_or_else(|| Url::parse(text), |(head, path)| Url::parse(&format!("{head}@localhost/{path}")));
        let url = url.map_err(|error| format!("not a URL: {error}"))?;
        let query = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let password = url.password().map(decoded).transpose()?.or_else(|| query("password")).map(SecretString::from);
        let user = Some(decoded(url.username())?).filter(|user| !user.is_empty());
        if url.scheme() == "redis+socket" {
            let database = database(&query("virtual_host").unwrap_or_default())?;
            return Ok(Self { endpoint: RedisEndpoint::Socket(PathBuf::from(decoded(url.path())?)), user, password, database });
        }
        let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
        let tls = if url.scheme() == "rediss" { Some(RedisTls::parse(&query)?) } else { None };
        let endpoint =
            RedisEndpoint::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port: url.port().unwrap_or(6379), tls };
        let path = url.path().trim_matches('/');
        let database = if path.is_empty() { database(&query("virtual_host").unwrap_or_default())? } else { database(path)? };
        Ok(Self { endpoint, user, password, database })
    }

    /// The address without its credentials, for logs.
    pub fn redacted(&self) -> String {
        match &self.endpoint {
            RedisEndpoint::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "rediss" } else { "redis" };
                format!("{scheme}://{host}:{port}/{}", self.database)
            }
            RedisEndpoint::Socket(path) => format!("redis+socket://{}?virtual_host={}", path.display(), self.database),
        }
    }
}

impl RedisTls {
    fn parse(query: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let check = match query("ssl_cert_reqs").map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("required" | "cert_required" | "optional" | "cert_optional") => CertificateCheck::Full,
            Some("none" | "cert_none") => CertificateCheck::None,
            Some(_) => return Err("ssl_cert_reqs is none of required, optional, none".to_owned()),
        };
        let identity = match (query("ssl_certfile"), query("ssl_keyfile")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err("ssl_certfile and ssl_keyfile go together".to_owned()),
        };
        Ok(Self { check, authorities: query("ssl_ca_certs").map(PathBuf::from), identity })
    }
}

impl AmqpAddress {
    fn parse(text: &str) -> Result<Self, String> {
        check_shape(text)?;
        let text = text.strip_prefix("py").unwrap_or(text);
        let mut url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the host is missing")?;
        let host = decoded(host.trim_matches(['[', ']']))?;
        // kombu takes "", "/" and "//" for the virtual host "/"; AMQP clients want it encoded.
        let virtual_host = match url.path() {
            "" | "/" | "//" => "/".to_owned(),
            path => decoded(&path[1..])?,
        };
        let encoded: String = url::form_urlencoded::byte_serialize(virtual_host.as_bytes()).collect();
        url.set_path(&format!("/{}", encoded.replace('+', "%20")));
        let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
        let redacted = format!("{}://{}:{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
        // What the AMQP client cannot read would fail each connection, and what it says may repeat it.
        decoded(url.username())?;
        decoded(url.password().unwrap_or_default())?;
        if let Some((name, _)) = url.query_pairs().find(|(name, value)| !is_readable(name, value)) {
            return Err(format!("the parameter {name} has a value that the AMQP client cannot read"));
        }
        Ok(Self { url: SecretString::from(url.to_string()), host, redacted })
    }

    /// The URL as text, credentials included: only for the client library, which needs [`Self::host`] besides.
    pub fn expose(&self) -> &str {
        self.url.expose_secret()
    }
}

/// Whether the AMQP client can read a parameter; it passes over those that it does not know.
fn is_readable(name: &str, value: &str) -> bool {
    match name {
        "heartbeat" | "channel_max" => value.parse::<u16>().is_ok(),
        "frame_max" | "connection_timeout" => value.parse::<u32>().is_ok(),
        "auth_mechanism" => ["plain", "amqplain", "external", "anonymous"].contains(&value.to_lowercase().as_str()),
        _ => true,
    }
}

/// Refuses what would be read as something else than was meant: part of the password would be taken for a host, a port or a path,
/// and those are logged.
fn check_shape(text: &str) -> Result<(), &'static str> {
    let (_, rest) = text.split_once("://").unwrap_or_default();
    if rest.contains(';') {
        return Err("give one URL, not a list; write a ; in the password as %3B");
    }
    if rest.contains('#') {
        return Err("write a # as %23");
    }
    if rest.contains(char::is_control) {
        return Err("it has a line break or another control character");
    }
    let (authority, behind) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    // Of the parameters only a value may have one, such as that of `password`.
    let mut names =
        behind.split(['?', '&']).map(|part| if part.starts_with('/') { part } else { part.split('=').next().unwrap_or(part) });
    if !authority.is_empty() && names.any(|name| name.contains('@')) {
        return Err("there is an @ behind the host: write a / in the password as %2F, a ? as %3F and an @ as %40");
    }
    Ok(())
}

fn database(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse::<u32>().map(i64::from).map_err(|_| "the database is not a number".to_owned())
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        let [Some(high), Some(low)] = digits else { return Err("a % is not followed by two hexadecimal digits".to_owned()) };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| "a percent-encoded part is not UTF-8".to_owned())
}
