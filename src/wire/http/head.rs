//! The head of a request: its end, its request line, its fields (RFC 9112).
//!
//! Stricter than RFC 9112 wherever leniency would let two parsers disagree about where a request
//! ends; the only leniency is one empty line before a request (section 2.2). Costs one pass to find
//! the end and one to read; borrows everything.

use memchr::{memchr, memchr3};

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::wire::error::ParseError;

/// Where the head at the start of `buffer` ends: the index after its blank line; `None`: not yet.
///
/// `searched` is how long `buffer` was when this last said `None`, else 0: bytes before it are not
/// looked at again, so a request that arrives byte by byte costs what one that arrives whole does.
///
/// # Errors
/// [`ParseError::BadRequest`] at the first bare CR, bare LF or NUL, or at a second leading empty
/// line; [`ParseError::HeadTooLarge`] when no end can come within [`HTTP_HEAD_BYTES_MAX`] bytes.
pub fn head_end(buffer: &[u8], searched: usize) -> Result<Option<usize>, ParseError> {
    let window = &buffer[..buffer.len().min(HTTP_HEAD_BYTES_MAX)];
    let mut at = searched.min(window.len());
    // The last byte seen may be a CR whose LF had not come yet.
    if at > 0 && window[at - 1] == b'\r' {
        at -= 1;
    }
    while let Some(found) = memchr3(b'\r', b'\n', 0, &window[at..]) {
        at += found;
        match window[at..] {
            [b'\r'] => break,
            [b'\r', b'\n', ..] => {}
            _ => return Err(ParseError::BadRequest),
        }
        let line_is_empty = at == 0 || window[..at].ends_with(b"\r\n");
        let end = at + 2;
        match at {
            0 => {}
            2 if line_is_empty => return Err(ParseError::BadRequest),
            _ if line_is_empty => return Ok(Some(end)),
            _ => {}
        }
        at = end;
    }
    if window.len() < HTTP_HEAD_BYTES_MAX { Ok(None) } else { Err(ParseError::HeadTooLarge) }
}

/// `GET` or `HEAD`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// Wants head and body.
    Get,
    /// Wants the head that GET would have got.
    Head,
}

/// The versions of HTTP that have this syntax.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.0: one request per connection unless it says otherwise.
    Http10,
    /// HTTP/1.1: many requests per connection unless it says otherwise.
    Http11,
}

/// A request's head, borrowed. A request has no body, so this is all of it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// GET or HEAD.
    pub method: Method,
    /// The target up to its first `?`: begins with `/`, nothing decoded.
    pub path: &'a [u8],
    /// The target after its first `?` and before any `#`; empty if there is none.
    pub query: &'a [u8],
    /// 1.0 or 1.1.
    pub version: Version,
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// Whether the client wants to go on as a WebSocket; see [`super::Upgrade`].
    pub upgrade: bool,
    /// Whole field lines, each checked by [`Head::parse`], with their CRLFs.
    field_lines: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads exactly one head, blank line included, as [`head_end`] delimits it.
    ///
    /// # Errors
    /// [`ParseError::BadRequest`] for anything but HTTP/1.0 or 1.1 without a body,
    /// [`ParseError::MethodNotAllowed`] for a method that is neither GET nor HEAD, and
    /// [`ParseError::HeadTooLarge`] beyond the bounds of bytes and fields. Close the connection.
    pub fn parse(head: &'a [u8]) -> Result<Self, ParseError> {
        if head.len() > HTTP_HEAD_BYTES_MAX {
            return Err(ParseError::HeadTooLarge);
        }
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        let (request_line, field_lines) = split_line(head)?;
        let (method, target, version) = parse_request_line(request_line)?;
        let method = match method {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            _ => return Err(ParseError::MethodNotAllowed),
        };
        let (path, query) = parse_target(target)?;
        let Options { keep_alive, upgrade } = parse_fields(field_lines, version)?;
        Ok(Self { method, path, query, version, keep_alive, upgrade, field_lines })
    }

    /// The fields in order: name as sent, value without the blanks around it.
    #[must_use]
    pub const fn fields(&self) -> Fields<'a> {
        Fields { rest: self.field_lines }
    }
}

/// Iterator over (name, value) of a parsed head. Names are compared without regard to case.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // The blank line at the end has no colon, so it is no field either.
        let (line, rest) = split_line(self.rest).ok()?;
        self.rest = rest;
        parse_field(line).ok()
    }
}

/// Splits after the first CRLF, which belongs to neither part.
fn split_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    let end = memchr3(b'\r', b'\n', 0, bytes).ok_or(ParseError::BadRequest)?;
    let (line, rest) = bytes.split_at(end);
    Ok((line, rest.strip_prefix(b"\r\n").ok_or(ParseError::BadRequest)?))
}

/// Splits `method SP target SP version` (RFC 9112 section 3): single spaces, no other blanks.
fn parse_request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), ParseError> {
    let (method, rest) = split_once(line, b' ').ok_or(ParseError::BadRequest)?;
    let (target, version) = split_once(rest, b' ').ok_or(ParseError::BadRequest)?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(ParseError::BadRequest),
    };
    // Bytes from 0x80 up are no URI, yet some clients forget to escape an info_hash.
    let is_control = |byte: u8| byte <= b' ' || byte == 0x7f;
    let has_control = target.iter().fold(false, |seen, &byte| seen | is_control(byte));
    if !is_token(method) || target.is_empty() || has_control {
        return Err(ParseError::BadRequest);
    }
    Ok((method, target, version))
}

/// The path and query of a target in origin form (`/path?query`) or absolute form
/// (`http://authority/path?query`, whose authority is ignored).
fn parse_target(target: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    let target = memchr(b'#', target).map_or(target, |fragment| &target[..fragment]);
    let target = if target.starts_with(b"/") { target } else { strip_authority(target)? };
    let (path, query) = split_once(target, b'?').unwrap_or((target, b""));
    Ok((if path.is_empty() { b"/" } else { path }, query))
}

/// What follows the authority of an absolute-form target: empty, or from its first `/` or `?`.
fn strip_authority(target: &[u8]) -> Result<&[u8], ParseError> {
    let colon = memchr(b':', target).ok_or(ParseError::BadRequest)?;
    let (scheme, rest) = target.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(ParseError::BadRequest);
    }
    let rest = rest.strip_prefix(b"://").ok_or(ParseError::BadRequest)?;
    match rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len()) {
        0 => Err(ParseError::BadRequest),
        end => Ok(&rest[end..]),
    }
}

/// How a connection goes on after a request.
struct Options {
    keep_alive: bool,
    upgrade: bool,
}

/// Checks every field line and the blank line after them; says how the connection goes on.
fn parse_fields(mut lines: &[u8], version: Version) -> Result<Options, ParseError> {
    let (mut host_count, mut length_count) = (0, 0);
    let (mut close, mut keep_alive) = (false, false);
    let (mut wants_upgrade, mut to_websocket) = (false, false);
    for _ in 0..=HTTP_HEADERS_MAX {
        let (line, rest) = split_line(lines)?;
        lines = rest;
        if line.is_empty() {
            if !rest.is_empty() || host_count > 1 || length_count > 1 {
                return Err(ParseError::BadRequest);
            }
            let stays_open = keep_alive || version == Version::Http11;
            // RFC 9110 section 7.8: to HTTP/1.0 the field means nothing.
            let upgrade = wants_upgrade && to_websocket && version == Version::Http11;
            return Ok(Options { keep_alive: stays_open && !close, upgrade });
        }
        let (name, value) = parse_field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => host_count += 1,
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                let mut protocols = value.split(|&byte| byte == b',').map(trim_blanks);
                to_websocket |= protocols.any(|name| name.eq_ignore_ascii_case(b"websocket"));
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|&byte| byte == b',').map(trim_blanks) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    wants_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                length_count += 1;
                if value.is_empty() || value.iter().any(|&byte| byte != b'0') {
                    return Err(ParseError::BadRequest);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                return Err(ParseError::BadRequest);
            }
            _ => {}
        }
    }
    Err(ParseError::HeadTooLarge)
}

/// Splits a field line at its colon. A folded line or a blank before the colon makes the name no
/// token.
fn parse_field(line: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    let (name, value) = split_once(line, b':').ok_or(ParseError::BadRequest)?;
    if is_token(name) { Ok((name, trim_blanks(value))) } else { Err(ParseError::BadRequest) }
}

/// Splits at the first `separator`, which belongs to neither part.
pub(super) fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Without the spaces and tabs around it (RFC 9110 section 5.6.3: OWS).
fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether this is a token: one or more of the characters that may stand in names (RFC 9110
/// section 5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// Which bytes may stand in a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"!#$%&'*+-.^_`|~0123456789\
        ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < allowed.len() {
        table[allowed[i] as usize] = true;
        i += 1;
    }
    table
};
