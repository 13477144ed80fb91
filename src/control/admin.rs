//! The admin listener: health, metrics, statistics and the dashboard.
//!
//! Loopback only: it has no authentication. A page of another site, opened in a browser on this
//! machine, could still send requests here, under a name of its own that resolves to 127.0.0.1. So
//! a name with a dot in it, which somebody may own, is refused.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use axum::Router;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use super::metrics::{self, Form};
use super::swarms::Asked;
use super::{State, dashboard, stats};
use crate::swarm::LARGEST;
use crate::tracker::access::parse_hex;

/// The address of the admin listener cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("admin address {address}: {source}")]
pub struct AdminBindError {
    /// Which one.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Listens for operators.
///
/// # Errors
/// If the address is taken or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpListener, AdminBindError> {
    let error = |source| AdminBindError { address, source };
    let listener = TcpListener::bind(address).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Serves operators as a task of the control thread.
///
/// # Errors
/// If the listener cannot be handed to the executor.
pub fn spawn(listener: TcpListener, state: State) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(prometheus))
        .route("/stats.json", get(statistics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/samples", get(samples))
        .route("/api/v1/events", get(events))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/swarms", get(swarms))
        .route("/api/v1/swarms/{info_hash}", get(swarm))
        .route("/api/v1/clients", get(clients))
        .with_state(state)
        .merge(dashboard::router())
        .layer(from_fn(refuse_other_names));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}

/// Lets requests through that call us by an address or by a name of this network.
async fn refuse_other_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    if host.is_none_or(is_ours) {
        return next.run(request).await;
    }
    let advice = "call the admin listener by its address, or by a name without a dot: localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, advice).into_response()
}

/// Whether a `Host` is an address or a name without a dot, with or without a port.
fn is_ours(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !name.contains(['.', ':']) || ip.parse::<IpAddr>().is_ok()
}

async fn health(Shared(state): Shared<State>) -> Response {
    if state.is_healthy() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response()
    }
}

async fn prometheus(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|field| field.to_str().ok());
    let form = Form::accepted(accepted.unwrap_or_default());
    match metrics::render(&state.snapshot(), form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn statistics(Shared(state): Shared<State>) -> Response {
    let text = stats::render(&state.total(), state.published.len(), state.started.elapsed());
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// What runs here, and since when.
#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    /// Seconds since 1970.
    started: f64,
    workers: usize,
    listeners: &'a [String],
}

async fn status(Shared(state): Shared<State>) -> Response {
    json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        started: state.started_at,
        workers: state.published.len(),
        listeners: &state.listeners,
    })
}

async fn samples(Shared(state): Shared<State>) -> Response {
    json(&state.known().history)
}

/// A sample every second, for as long as somebody listens.
async fn events(
    Shared(state): Shared<State>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    // The value that is there already is what happened before: see `samples`.
    let stream = WatchStream::from_changes(state.news.subscribe());
    let event = |text: std::sync::Arc<str>| Ok(Event::default().event("sample").data(text));
    Sse::new(stream.map(event)).keep_alive(KeepAlive::default())
}

async fn findings(Shared(state): Shared<State>) -> Response {
    json(&state.findings())
}

/// How many are wanted.
#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn swarms(Shared(state): Shared<State>, Query(limit): Query<Limit>) -> Response {
    // No worker knows more of its own.
    json(&state.swarms(limit.limit.unwrap_or(LARGEST).min(LARGEST)))
}

async fn swarm(Shared(state): Shared<State>, Path(info_hash): Path<String>) -> Response {
    let Some(info_hash) = parse_hex(info_hash.as_bytes()) else {
        return problem(StatusCode::BAD_REQUEST, "an info_hash is 40 hex digits");
    };
    match state.ask(info_hash).await {
        Asked::Known(swarm) => json(&swarm),
        Asked::Unknown => problem(StatusCode::NOT_FOUND, "no such swarm here"),
        Asked::Busy => problem(StatusCode::SERVICE_UNAVAILABLE, "its worker does not answer"),
    }
}

/// The clients that peers use.
#[derive(Serialize)]
struct Clients {
    clients: Vec<super::pages::Share>,
}

async fn clients(Shared(state): Shared<State>) -> Response {
    json(&Clients { clients: state.clients() })
}

/// What went wrong, in words.
#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, json(&Problem { error })).into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_are_refused() {
        for host in ["localhost:6970", "throng", "127.0.0.1", "127.0.0.1:6970", "[::1]:6970", ""] {
            assert!(is_ours(host), "{host}");
        }
        for host in ["example.org", "example.org:6970", "localhost.a.org", "127.0.0.1.a.io", "a:x"]
        {
            assert!(!is_ours(host), "{host}");
        }
    }
}
