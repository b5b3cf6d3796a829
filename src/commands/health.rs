//! `trigger-dispatcher health`: what a container's health check runs, in an image without a shell or curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::ProcessConfig;

const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(config: &ProcessConfig) -> anyhow::Result<()> {
    let address = reachable(config.http_address);
    tokio::time::timeout(TIMEOUT, ask(address)).await.with_context(|| format!("{address} does not answer within {TIMEOUT:?}"))?
}

/// A wildcard address is listened on, not connected to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("{address} does not answer"))?;
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{address} answers {status}");
    }
    Ok(())
}
