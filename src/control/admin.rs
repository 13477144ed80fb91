//! The admin listeners: health, metrics, statistics, the dashboard, and what operators change.
//!
//! [`super::door`] says who may ask for what. `openapi.json` describes all of it for programs, and
//! is served too.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tracing::info;

use super::door::{Door, Token, guard};
use super::lists::{self, Change, ListError, Lists};
use super::metrics::{self, Form};
use super::swarms::{Asked, PEERS_MAX};
use super::{State, dashboard, stats};
use crate::swarm::LARGEST;
use crate::tracker::access::hashes::parse_hex;

/// How long a request may take to come.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may wait for whoever asked to read on.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// What most answers are.
const JSON: &str = "application/json";
/// Bytes of a list that takes another's place: ten million hashes. Of any other body.
const LIST_BYTES_MAX: usize = 512 << 20;
const BODY_BYTES_MAX: usize = 16 << 20;
/// What all of this is, for programs.
const OPENAPI: &str = include_str!("openapi.json");
/// Who may open a Unix socket: its owner and its group.
const UNIX_MODE: u32 = 0o660;

/// Where operators come in.
#[derive(Debug)]
pub enum Bound {
    /// By TCP.
    Tcp(TcpListener),
    /// By a Unix socket.
    Unix(UnixListener),
}

impl Bound {
    /// Its address, to be called by; none, if that is a path.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Listens for operators.
///
/// # Errors
/// If the address is taken or not ours.
pub fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Tcp(listener))
}

/// Listens for operators at a path. A socket that nobody listens at any more is replaced.
///
/// # Errors
/// If somebody listens there, or there is something else.
pub fn bind_unix(path: &FilePath) -> io::Result<Bound> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(UNIX_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener))
}

/// Serves operators as tasks of the control thread: so many connections at once at the most, events
/// that somebody listens to among them.
///
/// # Errors
/// If a listener cannot be handed to the executor.
pub fn spawn(
    listeners: Vec<Bound>,
    token: Option<&Token>,
    connections_max: usize,
    state: &State,
) -> io::Result<()> {
    // Each listener holds a place while it waits for the next connection.
    let room = Arc::new(Semaphore::new(connections_max + listeners.len()));
    for listener in listeners {
        let room = room.clone();
        match listener {
            Bound::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let router = router(state.clone(), Door::Tcp(token.cloned()));
                tokio::spawn(serve(listener, router, room));
            }
            Bound::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                let router = router(state.clone(), Door::Unix);
                tokio::spawn(serve(listener, router, room));
            }
        }
    }
    Ok(())
}

/// Serves the connections of a listener. Whoever does not say what it wants, or does not read what
/// it gets, is not waited for, and there are no more at once than there is room for: their
/// descriptors are the peers', too.
async fn serve<L: Listener>(mut listener: L, router: Router, room: Arc<Semaphore>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let (stream, _) = listener.accept().await;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(READ_WITHIN));
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::spawn(async move {
            // Whoever goes in the middle has its reasons.
            let _ = connection.await;
            drop(place);
        });
    }
}

fn router(state: State, door: Door) -> Router {
    let whole = DefaultBodyLimit::max(LIST_BYTES_MAX);
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(prometheus))
        .route("/stats.json", get(statistics))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/status", get(status))
        .route("/api/v1/samples", get(samples))
        .route("/api/v1/events", get(events))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/swarms", get(swarms))
        .route("/api/v1/swarms/{info_hash}", get(swarm).delete(forget))
        .route("/api/v1/swarms/{info_hash}/peers", get(peers))
        .route("/api/v1/clients", get(clients))
        .route("/api/v1/lists", get(all_lists))
        .route("/api/v1/lists/{list}", get(one_list))
        .route("/api/v1/lists/{list}", put(replace_list).layer(whole))
        .route("/api/v1/lists/{list}/add", post(add_to_list))
        .route("/api/v1/lists/{list}/remove", post(remove_from_list))
        .route("/api/v1/lists/{list}/reload", post(reload_list))
        .route("/api/v1/log", get(log).put(set_log))
        .with_state(state)
        .merge(dashboard::router())
        .fallback(nothing_there)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(map_response(in_json))
        .layer(from_fn_with_state(door, guard))
}

async fn nothing_there() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing of that name: see /api/v1/openapi.json")
}

/// What the library refuses by itself, in the form of all other problems.
async fn in_json(answer: Response) -> Response {
    let is_json = |field: &HeaderValue| field == JSON;
    let is_ours = answer.headers().get(header::CONTENT_TYPE).is_some_and(is_json);
    let (status, allow) = (answer.status(), answer.headers().get(header::ALLOW).cloned());
    if is_ours || !status.is_client_error() {
        return answer;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => "not with this method: see /api/v1/openapi.json",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too long",
        _ => "that is not what is asked here: see /api/v1/openapi.json",
    };
    let mut answer = problem(status, error);
    answer.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    answer
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, JSON)], OPENAPI).into_response()
}

/// Whether peers are served, and the workers go on.
async fn health(Shared(state): Shared<State>) -> Response {
    match state.stuck() {
        None if !state.is_serving() => {
            (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response()
        }
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(worker) => {
            let text = format!("worker {worker} has not moved for some seconds\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Whether peers are served.
async fn ready(Shared(state): Shared<State>) -> Response {
    if state.is_serving() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response()
    }
}

async fn prometheus(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|field| field.to_str().ok());
    let form = Form::accepted(accepted.unwrap_or_default());
    match metrics::render(&state.snapshot(), form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn statistics(Shared(state): Shared<State>) -> Response {
    let text = stats::render(&state.total(), state.published.len(), state.started.elapsed());
    ([(header::CONTENT_TYPE, JSON)], text).into_response()
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
    limit: Option<u32>,
}

async fn swarms(Shared(state): Shared<State>, Query(limit): Query<Limit>) -> Response {
    // No worker knows more of its own.
    let limit = limit.limit.and_then(|limit| usize::try_from(limit).ok());
    json(&state.swarms(limit.unwrap_or(LARGEST).min(LARGEST)))
}

fn no_info_hash() -> Response {
    problem(StatusCode::BAD_REQUEST, "an info_hash is 40 hexadecimal digits")
}

fn told(asked: Asked<impl Serialize>) -> Response {
    match asked {
        Asked::Known(known) => json(&known),
        Asked::Unknown => problem(StatusCode::NOT_FOUND, "no such swarm here"),
        Asked::Busy => problem(StatusCode::SERVICE_UNAVAILABLE, "its worker does not answer"),
    }
}

async fn swarm(Shared(state): Shared<State>, Path(info_hash): Path<String>) -> Response {
    match parse_hex(info_hash.as_bytes()) {
        Some(info_hash) => told(state.describe(info_hash).await),
        None => no_info_hash(),
    }
}

async fn forget(Shared(state): Shared<State>, Path(info_hash): Path<String>) -> Response {
    match parse_hex(info_hash.as_bytes()) {
        Some(info_hash) => told(state.forget(info_hash).await),
        None => no_info_hash(),
    }
}

/// Which part of something long is wanted.
#[derive(Deserialize)]
struct Page {
    from: Option<u32>,
    limit: Option<u32>,
}

async fn peers(
    Shared(state): Shared<State>,
    Path(info_hash): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    let (from, most) = (page.from.unwrap_or(0), page.limit.unwrap_or(PEERS_MAX).min(PEERS_MAX));
    match parse_hex(info_hash.as_bytes()) {
        Some(info_hash) => told(state.peers(info_hash, from, most).await),
        None => no_info_hash(),
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

/// The lists that have a file.
#[derive(Serialize)]
struct AllLists {
    lists: Vec<lists::Status>,
}

async fn all_lists(Shared(state): Shared<State>) -> Response {
    match off_thread(state.lists, |lists| Ok(lists.status())).await {
        Ok(lists) => json(&AllLists { lists }),
        Err(wrong) => wrong,
    }
}

/// What is asked of a list.
#[derive(Deserialize)]
struct Entry {
    has: Option<String>,
}

/// A list, and whether it has what was asked for.
#[derive(Serialize)]
struct OneList {
    #[serde(flatten)]
    status: lists::Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    has: Option<bool>,
}

async fn one_list(
    Shared(state): Shared<State>,
    Path(list): Path<String>,
    Query(entry): Query<Entry>,
) -> Response {
    let Ok(name) = list.parse::<lists::Name>() else { return no_such_list() };
    let look = move |lists: &Lists| {
        let has = entry.has.map(|entry| lists.has(name, &entry)).transpose()?;
        let status = lists.status().into_iter().find(|status| status.list == name);
        status.map(|status| OneList { status, has }).ok_or(ListError::NoFile { name })
    };
    match off_thread(state.lists, look).await {
        Ok(list) => json(&list),
        Err(wrong) => wrong,
    }
}

async fn replace_list(
    Shared(state): Shared<State>,
    Path(list): Path<String>,
    text: Bytes,
) -> Response {
    // Without a word nobody empties a list on purpose.
    if text.is_empty() {
        return problem(StatusCode::BAD_REQUEST, "nothing was sent: an empty list has a comment");
    }
    change_list(state, &list, Change::Replace(text.into())).await
}

async fn add_to_list(
    Shared(state): Shared<State>,
    Path(list): Path<String>,
    text: Bytes,
) -> Response {
    change_list(state, &list, Change::Add(text.into())).await
}

async fn remove_from_list(
    Shared(state): Shared<State>,
    Path(list): Path<String>,
    text: Bytes,
) -> Response {
    change_list(state, &list, Change::Remove(text.into())).await
}

async fn reload_list(Shared(state): Shared<State>, Path(list): Path<String>) -> Response {
    change_list(state, &list, Change::Reload).await
}

async fn change_list(state: State, list: &str, change: Change) -> Response {
    let Ok(name) = list.parse::<lists::Name>() else { return no_such_list() };
    match off_thread(state.lists, move |lists| lists.change(name, change)).await {
        Ok(status) => {
            info!("{} has been changed by the API: {} entries", name.key(), status.entries);
            json(&status)
        }
        Err(wrong) => wrong,
    }
}

fn no_such_list() -> Response {
    problem(StatusCode::NOT_FOUND, "the lists are allow, deny and ban")
}

/// Does something to the lists that may take seconds, where nobody else waits for it.
async fn off_thread<T: Send + 'static>(
    lists: Lists,
    act: impl FnOnce(&Lists) -> Result<T, ListError> + Send + 'static,
) -> Result<T, Response> {
    match tokio::task::spawn_blocking(move || act(&lists)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let status = match &error {
                ListError::Sent(_) => StatusCode::BAD_REQUEST,
                ListError::NoFile { .. } => StatusCode::NOT_FOUND,
                ListError::Line { .. } => StatusCode::CONFLICT,
                ListError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(problem(status, &error.to_string()))
        }
        Err(error) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    }
}

/// What is logged.
#[derive(Serialize)]
struct Log {
    level: String,
}

async fn log(Shared(state): Shared<State>) -> Response {
    json(&Log { level: state.log.level() })
}

async fn set_log(Shared(state): Shared<State>, level: String) -> Response {
    // An empty filter lets nothing through, which is not what anybody means who says nothing.
    if level.trim().is_empty() {
        return problem(StatusCode::BAD_REQUEST, "name a level, or off");
    }
    match state.log.set(level.trim()) {
        Ok(()) => json(&Log { level: state.log.level() }),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

/// What went wrong, in words.
#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

/// An answer that says what is wrong.
pub(super) fn problem(status: StatusCode, error: &str) -> Response {
    (status, json(&Problem { error })).into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
