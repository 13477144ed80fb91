//! Listens to the admin listener of a tracker, and tries again when it is lost.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{SendError, Sender};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

/// How long the tracker may take for anything: it says something every second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts, and between two looks at the largest swarms.
const PAUSE: Duration = Duration::from_secs(1);
const SWARMS_EVERY: u32 = 5;
/// Bytes of an answer at the most.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// Where the tracker answers operators, and what opens it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    place: Place,
    token: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    Tcp(String),
    Unix(PathBuf),
}

/// Not a place where a tracker could answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an address and port such as 127.0.0.1:6970, or unix: and a path")]
pub struct TargetError;

impl Target {
    /// This one, with a token.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let place = match text.strip_prefix(UNIX) {
            Some("") => return Err(TargetError),
            Some(path) => Place::Unix(PathBuf::from(path)),
            None => {
                let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
                let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.ok_or(TargetError)?;
                Place::Tcp(text.to_owned())
            }
        };
        Ok(Self { place, token: None })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(name) => f.write_str(name),
            Place::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// What is heard of a tracker.
#[derive(Debug)]
pub(super) enum Heard {
    Status(Status),
    News(Box<News>),
    Swarms(Swarms),
    /// Why nothing is heard.
    Trouble(String),
}

/// What runs there, and since when.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    pub version: String,
    /// Seconds since 1970.
    pub started: f64,
    pub workers: usize,
}

/// A second of a tracker.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct News {
    pub sample: Sample,
    pub workers: Vec<Worker>,
    pub findings: Vec<Finding>,
}

/// Of its figures those that are shown; what is not known is `null`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Sample {
    pub time: Option<f64>,
    pub udp_announces: Option<f64>,
    pub http_announces: Option<f64>,
    pub web_announces: Option<f64>,
    pub connects: Option<f64>,
    pub scrapes: Option<f64>,
    pub offers: Option<f64>,
    pub answers: Option<f64>,
    pub refusals: Option<f64>,
    pub drops: Option<f64>,
    pub kernel_drops: Option<f64>,
    pub received_bytes: Option<f64>,
    pub sent_bytes: Option<f64>,
    pub udp_p50: Option<f64>,
    pub udp_p99: Option<f64>,
    pub http_p99: Option<f64>,
    pub swarms: Option<f64>,
    pub seeders: Option<f64>,
    pub leechers: Option<f64>,
    pub web_peers: Option<f64>,
    pub ipv6_peers: Option<f64>,
    pub evicted: Option<f64>,
    pub http_connections: Option<f64>,
    pub web_connections: Option<f64>,
    pub store_bytes: Option<f64>,
    pub store_budget_bytes: Option<f64>,
    pub resident_bytes: Option<f64>,
}

impl Sample {
    /// Announces a second, all transports together.
    pub fn announces(&self) -> f64 {
        let all = [self.udp_announces, self.http_announces, self.web_announces];
        all.into_iter().flatten().sum()
    }
}

/// A second of one worker.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Worker {
    pub load: Option<f64>,
    pub waiting: Option<f64>,
    pub requests: f64,
    pub peers: u64,
    pub drops: f64,
}

/// Something that an operator should know.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Finding {
    pub level: String,
    pub title: String,
    pub detail: String,
    pub remedy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Swarms {
    pub swarms: Vec<Swarm>,
    pub sizes: Vec<Size>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Swarm {
    pub info_hash: String,
    pub seeders: u32,
    pub leechers: u32,
    pub completed: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Size {
    pub peers: u64,
    pub swarms: u64,
}

/// Why the tracker is not heard.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it wants a token: --token-file FILE")]
    Token,
    #[error("it answers {0}: is that a throng?")]
    Answer(StatusCode),
    #[error("it says what no throng says: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it says nothing")]
    Silent,
    #[error("it has ended the connection")]
    Ended,
    #[error("its answer is too long")]
    Long,
    /// The other end is gone: so is the screen.
    #[error("nobody listens")]
    Deaf,
}

impl<T> From<SendError<T>> for Lost {
    fn from(_: SendError<T>) -> Self {
        Self::Deaf
    }
}

/// Tells `sender` what a tracker says, until nobody listens.
pub(super) fn listen(target: &Target, sender: &Sender<Heard>) {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let trouble = |text: String| sender.send(Heard::Trouble(text)).is_ok();
    match executor {
        Ok(executor) => executor.block_on(async {
            loop {
                // A tracker that goes on for ever does not come back from this.
                let Err(lost) = follow(target, sender).await;
                if matches!(lost, Lost::Deaf) || !trouble(lost.to_string()) {
                    return;
                }
                sleep(PAUSE).await;
            }
        }),
        Err(error) => drop(trouble(error.to_string())),
    }
}

/// Nothing that could ever be.
enum Never {}

/// Tells what a tracker says, until it is lost.
async fn follow(target: &Target, sender: &Sender<Heard>) -> Result<Never, Lost> {
    let status = get(target, "/api/v1/status").await?;
    sender.send(Heard::Status(json(status).await?))?;
    let swarms = get(target, "/api/v1/swarms").await?;
    sender.send(Heard::Swarms(json(swarms).await?))?;
    let mut events = get(target, "/api/v1/events").await?.into_body();
    let (mut text, mut seconds) = (Vec::new(), 0);
    loop {
        let frame = timeout(PATIENCE, events.frame()).await.map_err(|_| Lost::Silent)?;
        let frame = frame.ok_or(Lost::Ended)??;
        let Some(data) = frame.data_ref() else { continue };
        text.extend_from_slice(data);
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Some(news) = line.strip_prefix(b"data: ") else { continue };
            sender.send(Heard::News(serde_json::from_slice(news)?))?;
            seconds += 1;
            if seconds % SWARMS_EVERY == 0 {
                let swarms = get(target, "/api/v1/swarms").await?;
                sender.send(Heard::Swarms(json(swarms).await?))?;
            }
        }
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Lost::Long);
        }
    }
}

/// The answer to a question, if it is one.
async fn get(target: &Target, path: &str) -> Result<Response<Incoming>, Lost> {
    let asking = async {
        // By its address: it does not answer to names that others may own.
        let (mut sender, host) = match &target.place {
            Place::Tcp(name) => {
                let addresses: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
                let stream = TcpStream::connect(&addresses[..]).await?;
                let host = stream.peer_addr()?.to_string();
                (start(stream).await?, host)
            }
            Place::Unix(path) => {
                (start(UnixStream::connect(path).await?).await?, "localhost".to_owned())
            }
        };
        let mut request = Request::get(path).header(HOST, host);
        if let Some(token) = &target.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(std::io::Error::other)?;
        let answer = sender.send_request(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED => Err(Lost::Token),
            status => Err(Lost::Answer(status)),
        }
    };
    timeout(PATIENCE, asking).await.map_err(|_| Lost::Silent)?
}

/// Begins to speak HTTP over a connection, which a task of its own drives.
async fn start(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Empty<Bytes>>, Lost> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What an answer says.
async fn json<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, Lost> {
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| Lost::Silent)? {
        if let Some(data) = frame?.data_ref() {
            text.extend_from_slice(data);
        }
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Lost::Long);
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_a_name_or_a_path() {
        for (text, shown) in [
            ("127.0.0.1:6970", "127.0.0.1:6970"),
            ("[::1]:6970", "[::1]:6970"),
            ("localhost:1", "localhost:1"),
            ("http://localhost:6970/", "localhost:6970"),
            ("unix:/run/throng/admin.sock", "unix:/run/throng/admin.sock"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), shown);
        }
        for text in ["", "localhost", "localhost:", "localhost:70000", "unix:", "https://a/"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError), "{text}");
        }
    }

    #[test]
    fn news_are_read_with_what_is_not_known_left_out() {
        let text = r#"{"sample":{"time":5,"udp_announces":10.5,"http_announces":2,"udp_p99":null},
            "workers":[{"load":0.5,"waiting":null,"requests":1,"peers":2,"drops":0}],
            "findings":[{"level":"warning","title":"a","detail":"b","remedy":null}]}"#;
        let news: News = serde_json::from_str(text).expect("news");
        assert_eq!((news.sample.announces(), news.sample.udp_p99), (12.5, None));
        assert_eq!((news.workers[0].load, news.findings[0].title.as_str()), (Some(0.5), "a"));
    }
}
