//! HTTP connections: how many, and for how long. A client that sends nothing, or half of a request, holds up neither others nor a stop.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Seldom;

/// Connections at the same time; one more ends the oldest. A probe has its answer long before so many others have come.
const MOST: usize = 64;
/// How long a connection may take for its one request and the answer.
const TIME: Duration = Duration::from_secs(10);
/// How long to wait when the system gives no connection: descriptors may have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until told to stop. Then connections are closed at once: answers take no time, so whoever has none yet has not asked.
pub(super) async fn serve(listener: &TcpListener, router: Router, stop: &CancellationToken) {
    let service = TowerToHyperService::new(router);
    let mut connections = FuturesUnordered::new();
    let mut newest = VecDeque::with_capacity(MOST);
    let seldom = Seldom::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if newest.len() == MOST {
                        newest.pop_front().iter().for_each(AbortHandle::abort);
                    }
                    let (handle, registration) = AbortHandle::new_pair();
                    newest.push_back(handle);
                    connections.push(Abortable::new(answer(stream, service.clone()), registration));
                }
                Err(error) => {
                    if seldom.now("http_accept_failed") {
                        tracing::warn!(event = "http_accept_failed", %error);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn answer(stream: TcpStream, service: TowerToHyperService<Router>) {
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // A client that sends nonsense, or goes away, is no fault of ours.
    if let Ok(Err(error)) = tokio::time::timeout(TIME, connection).await {
        tracing::debug!(event = "http_connection_failed", %error);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::supervise::Companion;

    async fn server() -> (std::net::SocketAddr, CancellationToken, Companion, tokio::sync::oneshot::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (ended, end) = tokio::sync::oneshot::channel();
        let told = stop.clone();
        let server = Companion::start(async move {
            serve(&listener, Router::new().route("/", get(async || "yes")), &told).await;
            ended.send(()).unwrap();
        });
        (address, stop, server, end)
    }

    async fn connect(address: std::net::SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// What the server says until it closes the connection.
    async fn said(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        // A connection that is reset says no more either.
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut text)).await.unwrap().ok();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_up_a_stop() {
        let (address, stop, _server, end) = server().await;
        let mut half = connect(address, "GET / HTTP/1.1\r\nHos").await;
        assert!(said(&mut connect(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).await.contains("200 OK"));
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(1), end).await.unwrap().unwrap();
        assert_eq!(said(&mut half).await, "");
    }

    #[tokio::test]
    async fn more_connections_than_allowed_end_the_oldest_and_a_request_is_still_answered() {
        let (address, _stop, _server, _end) = server().await;
        let mut halves = Vec::new();
        for _ in 0..MOST * 3 {
            halves.push(connect(address, "GET / HTTP/1.1\r\n").await);
        }
        let answer = said(&mut connect(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
        assert!(answer.contains("200 OK") && answer.ends_with("yes"), "{answer}");
        let took = std::time::Duration::from_secs(5);
        for half in &mut halves[..MOST * 2] {
            assert_eq!(tokio::time::timeout(took, said(half)).await.unwrap(), "", "closed long before its time is over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_given_up_after_its_time() {
        let (address, _stop, _server, _end) = server().await;
        let mut half = connect(address, "GET / HTTP/1.1\r\n").await;
        let begin = tokio::time::Instant::now();
        let mut nothing = Vec::new();
        half.read_to_end(&mut nothing).await.ok();
        assert!(begin.elapsed() <= TIME * 2, "{:?}", begin.elapsed());
        assert_eq!(nothing, b"");
    }
}
