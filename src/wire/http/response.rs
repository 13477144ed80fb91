//! Responses: one status line, the few fields that clients read, a body of known length.
//!
//! No byte of a request ever reaches a response's head, and none of it is formatted: fixed text and
//! one number.

use crate::wire::bencode::write_decimal;

/// Bytes of the longest head of a response, for reserving once.
const RESPONSE_HEAD_BYTES_MAX: usize = 256;

/// The status codes that a tracker needs. What BEP 3 calls a failure is an [`Status::Ok`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// 200: an answer, be it a failure reason.
    Ok,
    /// 400: no request that we can read.
    BadRequest,
    /// 403: a page that is not let in.
    Forbidden,
    /// 404: neither an announce nor a scrape.
    NotFound,
    /// 405: neither GET nor HEAD.
    MethodNotAllowed,
    /// 426: a WebSocket of another version.
    UpgradeRequired,
    /// 431: a head beyond the bounds.
    HeadTooLarge,
}

impl Status {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::UpgradeRequired,
        Self::HeadTooLarge,
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::UpgradeRequired => 426,
            Self::HeadTooLarge => 431,
        }
    }

    /// The words (RFC 9110, RFC 6585).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::UpgradeRequired => "Upgrade Required",
            Self::HeadTooLarge => "Request Header Fields Too Large",
        }
    }
}

/// What a body is. No browser takes any for what it is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// Bencode. Where browsers look into plain text, they find it to be text or not, but never a
    /// page (WHATWG MIME Sniffing section 7.2), so that no field need forbid it.
    Plain,
    /// A page.
    Html,
    /// A JSON object.
    Json,
}

impl Content {
    const fn fields(self) -> &'static [u8] {
        match self {
            Self::Plain => b"text/plain",
            Self::Html => b"text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff",
            // Any page may read the totals; nothing else is in them.
            Self::Json => {
                b"application/json\r\nX-Content-Type-Options: nosniff\r\n\
                  Access-Control-Allow-Origin: *"
            }
        }
    }
}

/// Appends the response of a tracker: see [`write_response_of`].
pub fn write_response(
    out: &mut Vec<u8>,
    status: Status,
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) {
    write_response_of(out, status, Content::Plain, body, keep_alive, head_only);
}

/// Appends a response. `keep_alive` is said outright, for HTTP/1.0; `head_only` answers HEAD: the
/// head that GET would have got, `Content-Length` included, and no body.
pub fn write_response_of(
    out: &mut Vec<u8>,
    status: Status,
    content: Content,
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) {
    out.reserve(RESPONSE_HEAD_BYTES_MAX + body.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, status.code().into());
    out.push(b' ');
    out.extend_from_slice(status.reason().as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(content.fields());
    out.extend_from_slice(b"\r\nContent-Length: ");
    write_decimal(out, body.len() as u64);
    out.extend_from_slice(match status {
        Status::MethodNotAllowed => b"\r\nAllow: GET, HEAD".as_slice(),
        Status::UpgradeRequired => b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        _ => b"",
    });
    out.extend_from_slice(if keep_alive {
        b"\r\nConnection: keep-alive\r\n\r\n".as_slice()
    } else {
        b"\r\nConnection: close\r\n\r\n"
    });
    if !head_only {
        out.extend_from_slice(body);
    }
}
