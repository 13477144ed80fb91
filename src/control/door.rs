//! Who may ask what at the admin listeners.
//!
//! Whoever can open a Unix socket may do anything. Elsewhere a token opens everything, if there is
//! one; without one, what comes from this machine may read, and nothing may change anything or see
//! peers' addresses. [`Door`] is asked before every request.
//!
//! Browsers are in between: a page of another site can send requests to this machine, and may even
//! have them carry a password that the operator typed here once. It cannot read what comes back. So
//! what only reads is safe, under names that nobody else owns; what changes something must not come
//! from another page.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use subtle::ConstantTimeEq;

use super::admin::problem;

/// What opens everything.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// This one: of characters that a field can carry, and too long to be guessed.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether `shown` is it. Takes as long for any that is as long.
    fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

/// How requests come in.
#[derive(Clone)]
pub enum Door {
    /// By a Unix socket.
    Unix,
    /// By TCP, with a token if there is one.
    Tcp(Option<Token>),
}

/// What a request may do wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Closed {
    /// It calls us by a name that somebody else may own.
    OtherName,
    /// It comes from another page.
    OtherPage,
    /// It shows no token, or a wrong one.
    NoToken,
    /// It shall do what only a token opens, and there is none.
    TokenNeeded,
}

impl Closed {
    fn answer(self) -> Response {
        match self {
            Self::OtherName => {
                let advice = "call the admin listener by its address, or by a name without a dot";
                problem(StatusCode::MISDIRECTED_REQUEST, advice)
            }
            Self::OtherPage => problem(StatusCode::FORBIDDEN, "another page sent this"),
            Self::NoToken => {
                let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"throng\", charset=\"UTF-8\"")];
                let advice = "show the token: Authorization: Bearer, or as any user's password";
                (ask, problem(StatusCode::UNAUTHORIZED, advice)).into_response()
            }
            Self::TokenNeeded => {
                let advice = "this needs a token: set admin.token_file, or use a Unix socket";
                problem(StatusCode::FORBIDDEN, advice)
            }
        }
    }
}

/// Lets requests through that may do what they ask for.
pub async fn guard(Shared(door): Shared<Door>, request: Request, next: Next) -> Response {
    match door.check(request.method(), request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(closed) => closed.answer(),
    }
}

impl Door {
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Closed> {
        let field = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = field(header::HOST);
        if !host.is_none_or(is_ours) {
            return Err(Closed::OtherName);
        }
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        if !reads {
            // Programs send neither field.
            let page = field(header::ORIGIN).map(|origin| origin.split_once("://"));
            let is_own = page.is_none_or(|page| page.map(|(_, page)| page) == host);
            let site = field(header::HeaderName::from_static("sec-fetch-site"));
            if !is_own || !site.is_none_or(|site| ["same-origin", "none"].contains(&site)) {
                return Err(Closed::OtherPage);
            }
        }
        // Those who watch whether we are alive have no secrets.
        if ["/health", "/ready"].contains(&path) && reads {
            return Ok(());
        }
        match self {
            Self::Unix => Ok(()),
            Self::Tcp(None) if reads && !path.ends_with("/peers") => Ok(()),
            Self::Tcp(None) => Err(Closed::TokenNeeded),
            Self::Tcp(Some(token)) => {
                let shown = headers.get(header::AUTHORIZATION).map(|shown| shown.as_bytes());
                let is_right = shown.and_then(shown_token).is_some_and(|shown| token.is(&shown));
                if is_right { Ok(()) } else { Err(Closed::NoToken) }
            }
        }
    }
}

/// What an `Authorization` field shows: a bearer token (RFC 6750), or a password (RFC 7617).
fn shown_token(field: &[u8]) -> Option<Vec<u8>> {
    let space = field.iter().position(|&byte| byte == b' ')?;
    let (scheme, shown) = (&field[..space], field[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(shown.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(shown).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_vec())
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        fields.iter().map(|(name, text)| (name.parse().expect("a name"), value(text))).collect()
    }

    fn ask(
        door: &Door,
        method: Method,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> Result<(), Closed> {
        door.check(&method, path, &headers(fields))
    }

    #[test]
    fn other_names_are_refused() {
        for host in ["localhost:6970", "throng", "127.0.0.1", "127.0.0.1:6970", "[::1]:6970", ""] {
            assert!(is_ours(host), "{host}");
        }
        for host in ["example.org", "example.org:6970", "localhost.a.org", "127.0.0.1.a.io", "a:x"]
        {
            assert!(!is_ours(host), "{host}");
        }
        let fields = [("host", "example.org")];
        for door in [Door::Unix, Door::Tcp(None), Door::Tcp(Some(Token::new(TOKEN)))] {
            assert_eq!(ask(&door, Method::GET, "/health", &fields), Err(Closed::OtherName));
        }
    }

    #[test]
    fn without_a_token_one_may_read_what_is_nobodys_secret() {
        let door = Door::Tcp(None);
        for path in ["/", "/metrics", "/health", "/ready", "/api/v1/swarms/00"] {
            assert_eq!(ask(&door, Method::GET, path, &[]), Ok(()), "{path}");
        }
        let peers = ask(&door, Method::GET, "/api/v1/swarms/00/peers", &[]);
        assert_eq!(peers, Err(Closed::TokenNeeded));
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            assert_eq!(ask(&door, method, "/health", &[]), Err(Closed::TokenNeeded));
        }
        for method in [Method::PUT, Method::GET] {
            assert_eq!(ask(&Door::Unix, method, "/api/v1/swarms/00/peers", &[]), Ok(()));
        }
    }

    #[test]
    fn with_a_token_everything_but_health_needs_it() {
        let door = Door::Tcp(Some(Token::new(TOKEN)));
        for path in ["/health", "/ready"] {
            assert_eq!(ask(&door, Method::GET, path, &[]), Ok(()));
        }
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for right in [
            format!("Bearer {TOKEN}"),
            format!("bearer  {TOKEN} "),
            basic(&format!("anybody:{TOKEN}")),
            basic(&format!(":{TOKEN}")),
        ] {
            let fields = [("authorization", right.as_str())];
            for (method, path) in [(Method::GET, "/metrics"), (Method::PUT, "/api/v1/log")] {
                assert_eq!(ask(&door, method, path, &fields), Ok(()), "{right}");
            }
        }
        for wrong in [
            String::new(),
            "Bearer".to_owned(),
            "Bearer 0123456789abcde".to_owned(),
            format!("Bearer {TOKEN}0"),
            format!("Digest {TOKEN}"),
            format!("Basic {TOKEN}"),
            basic(TOKEN),
            basic(&format!("{TOKEN}:")),
        ] {
            let fields = [("authorization", wrong.as_str())];
            let asked = ask(&door, Method::GET, "/metrics", &fields);
            assert_eq!(asked, Err(Closed::NoToken), "{wrong}");
        }
        assert_eq!(ask(&door, Method::GET, "/metrics", &[]), Err(Closed::NoToken));
    }

    #[test]
    fn what_changes_something_does_not_come_from_another_page() {
        let change = |fields: &[_]| ask(&Door::Unix, Method::POST, "/api/v1/lists/reload", fields);
        let (host, own) = (("host", "localhost:6970"), ("origin", "http://localhost:6970"));
        assert_eq!(change(&[host, own, ("sec-fetch-site", "same-origin")]), Ok(()));
        for page in ["http://localhost:80", "https://example.org", "null"] {
            assert_eq!(change(&[host, ("origin", page)]), Err(Closed::OtherPage), "{page}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(change(&[host, ("sec-fetch-site", site)]), Err(Closed::OtherPage));
        }
    }
}
