//! What operators and probes ask over HTTP. Read only; must never wait for a dependency, or an outage of one would
//! restart every instance.

mod connections;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Takes the address, so that a taken one is told at start.
///
/// # Errors
/// The address cannot be taken.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("HTTP_ADDRESS {address} cannot be taken"))
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(text))
        .with_state(metrics);
    connections::serve(&listener, router, &stop).await;
}

/// Ready if a record that came now would be decided and its tasks enqueued, as far as is known; else says why not.
async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let reasons = metrics.health().troubles();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons});
    (status, [("content-type", "application/json")], format!("{answer}\n"))
}

/// OpenMetrics for whoever asks for it, as Prometheus does; the classic text for all others.
async fn text(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> impl IntoResponse {
    let mut asked = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (text, kind) = if asked.any(|value| value.contains("application/openmetrics-text")) {
        (metrics.text(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (metrics.classic_text(), "text/plain; version=0.0.4; charset=utf-8")
    };
    match text {
        Ok(text) => (StatusCode::OK, [("content-type", kind)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain; charset=utf-8")], error.to_string()),
    }
}
