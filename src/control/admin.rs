//! The admin listener: `/health`, `/metrics`, `/stats.json`.
//!
//! Loopback only: it has no authentication.

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{State, metrics, stats};

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
        .with_state(state);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}

async fn health(Shared(state): Shared<State>) -> Response {
    if state.is_healthy() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response()
    }
}

async fn prometheus(Shared(state): Shared<State>) -> Response {
    match metrics::render(&state.counters()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn statistics(Shared(state): Shared<State>) -> Response {
    let text = stats::render(&state.total(), state.published.len(), state.started.elapsed());
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
