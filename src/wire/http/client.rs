//! The client's half of BEP 3, BEP 23 and BEP 48 over HTTP, for the load generator and the tests:
//! requests written, heads of responses read. Bodies are for the reader of bencode.

use std::fmt::Display;
use std::io::Write;

use memchr::memmem;

use super::head::split_once;
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::id::InfoHash;

/// The end of a head: of its last line, and the empty line.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What the requests of one client have in common.
#[derive(Clone, Debug)]
pub struct RequestForm {
    /// The path of announces, with its slash.
    pub announce_path: String,
    /// The path of scrapes.
    pub scrape_path: String,
    /// The `Host` field: host and port.
    pub host: String,
    /// Whether the connection is to stay open.
    pub keep_alive: bool,
}

impl RequestForm {
    /// Appends an announce that asks for compact peers. `peer_id` is escaped where it must be.
    pub fn write_announce(&self, out: &mut Vec<u8>, announce: &Announce) {
        self.begin(out, &self.announce_path);
        out.extend_from_slice(b"?info_hash=");
        percent_encode(out, &announce.info_hash.0);
        out.extend_from_slice(b"&peer_id=");
        percent_encode(out, &announce.peer_id.0);
        let Announce { port, uploaded, downloaded, .. } = announce;
        write(out, &format_args!("&port={port}&uploaded={uploaded}&downloaded={downloaded}"));
        if let Left::Bytes(left) = announce.left {
            write(out, &format_args!("&left={left}"));
        }
        match announce.event {
            Event::None => {}
            Event::Completed => out.extend_from_slice(b"&event=completed"),
            Event::Started => out.extend_from_slice(b"&event=started"),
            Event::Stopped => out.extend_from_slice(b"&event=stopped"),
            Event::Paused => out.extend_from_slice(b"&event=paused"),
        }
        if let NumWant::Count(count) = announce.num_want {
            write(out, &format_args!("&numwant={count}"));
        }
        if let Some(key) = announce.key {
            write(out, &format_args!("&key={key:08x}"));
        }
        out.extend_from_slice(b"&compact=1");
        self.end(out);
    }

    /// Appends a scrape of `hashes`.
    pub fn write_scrape(&self, out: &mut Vec<u8>, hashes: &[InfoHash]) {
        self.begin(out, &self.scrape_path);
        for (index, hash) in hashes.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"?info_hash=" } else { b"&info_hash=" });
            percent_encode(out, &hash.0);
        }
        self.end(out);
    }

    fn begin(&self, out: &mut Vec<u8>, path: &str) {
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(path.as_bytes());
    }

    fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b"\r\nUser-Agent: throng-load\r\nAccept: */*\r\n");
        if !self.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write(out: &mut Vec<u8>, text: &impl Display) {
    write!(out, "{text}").expect("a vector takes everything");
}

/// Appends `bytes` with everything escaped but letters, digits, `-`, `.`, `_` and `~`.
pub fn percent_encode(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// The head of a response: what a client of a tracker must know of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: u16,
    /// Bytes of the head, its empty line included.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
}

/// Why bytes are not the head of a response with a body of known length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseError {
    /// The first line is not `HTTP/1.x NNN ...`.
    StatusLine,
    /// A line that is no field.
    Field,
    /// No `Content-Length`, two that differ, or one that is no number.
    ContentLength,
    /// A body in pieces: a tracker's answer is short and has a length.
    TransferEncoding,
}

impl ResponseHead {
    /// Reads the head at the start of `bytes`; `None` while it is not whole.
    ///
    /// # Errors
    /// See [`ResponseError`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ResponseError> {
        let Some(end) = memmem::find(bytes, HEAD_END) else { return Ok(None) };
        let mut lines = bytes[..end].split(|&byte| byte == b'\n').map(|line| match line {
            [line @ .., b'\r'] => line,
            line => line,
        });
        let (status, minor) = status_line(lines.next().unwrap_or_default())?;
        let mut length = None;
        let mut keep_alive = minor != b'0';
        for line in lines {
            let (name, value) = split_once(line, b':').ok_or(ResponseError::Field)?;
            let value = value.trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                let digits = std::str::from_utf8(value).ok().filter(|_| is_number(value));
                let bytes = digits.and_then(|digits| digits.parse::<usize>().ok());
                let bytes = bytes.ok_or(ResponseError::ContentLength)?;
                if length.is_some_and(|before| before != bytes) {
                    return Err(ResponseError::ContentLength);
                }
                length = Some(bytes);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(ResponseError::TransferEncoding);
            } else if name.eq_ignore_ascii_case(b"connection") {
                if value.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                } else if value.eq_ignore_ascii_case(b"keep-alive") {
                    keep_alive = true;
                }
            }
        }
        let body_bytes = length.ok_or(ResponseError::ContentLength)?;
        Ok(Some(Self { status, head_bytes: end + HEAD_END.len(), body_bytes, keep_alive }))
    }
}

/// The status and the minor version.
fn status_line(line: &[u8]) -> Result<(u16, u8), ResponseError> {
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', code @ ..]
            if code.len() == 3 || code.get(3) == Some(&b' ') =>
        {
            let code = &code[..3];
            if !is_number(code) || !minor.is_ascii_digit() || code[0] == b'0' {
                return Err(ResponseError::StatusLine);
            }
            let status = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
            Ok((status, *minor))
        }
        _ => Err(ResponseError::StatusLine),
    }
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::http::{
        Action, AnnounceQuery, Head, Status, action, head_end, scrape_hashes, write_response,
    };
    use crate::wire::id::PeerId;

    fn form(keep_alive: bool) -> RequestForm {
        RequestForm {
            announce_path: "/announce".to_owned(),
            scrape_path: "/scrape".to_owned(),
            host: "127.0.0.1:6969".to_owned(),
            keep_alive,
        }
    }

    fn read(request: &[u8]) -> Head<'_> {
        assert_eq!(head_end(request, 0), Ok(Some(request.len())), "{}", request.escape_ascii());
        Head::parse(request).expect("our own")
    }

    proptest! {
        #[test]
        fn an_announce_reads_back(
            hash: [u8; 20], id: [u8; 20], port: u16, uploaded: u64, left: u64, want: u32,
            key: Option<u32>, event in 0_u32..5, keep_alive: bool,
        ) {
            let announce = Announce {
                info_hash: InfoHash(hash),
                peer_id: PeerId(id),
                port,
                uploaded,
                downloaded: uploaded / 2,
                left: Left::Bytes(left),
                event: Event::from_udp(event),
                num_want: NumWant::Count(want),
                key,
            };
            let mut request = Vec::new();
            form(keep_alive).write_announce(&mut request, &announce);
            let head = read(&request);
            prop_assert_eq!(action(head.path), Some(Action::Announce));
            prop_assert_eq!(head.keep_alive, keep_alive);
            let query = AnnounceQuery::parse(head.query).expect("our own");
            prop_assert_eq!(query.announce, announce);
            prop_assert!(query.compact);
        }

        #[test]
        fn a_scrape_reads_back(hashes: Vec<[u8; 20]>) {
            let hashes: Vec<InfoHash> = hashes.into_iter().take(20).map(InfoHash).collect();
            let mut request = Vec::new();
            form(true).write_scrape(&mut request, &hashes);
            let head = read(&request);
            prop_assert_eq!(action(head.path), Some(Action::Scrape));
            let read: Vec<_> = scrape_hashes(head.query).collect::<Result<_, _>>().expect("ours");
            prop_assert_eq!(read, hashes);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = ResponseHead::parse(&bytes);
            let _ = ResponseHead::parse(&[b"HTTP/1.1 200 OK\r\n", &bytes[..], HEAD_END].concat());
        }

        #[test]
        fn our_own_responses_read_back_however_they_are_cut(
            body: Vec<u8>, keep_alive: bool, status in 0..Status::ALL.len(), cut in 0_usize..300,
        ) {
            let mut response = Vec::new();
            let status = Status::ALL[status];
            write_response(&mut response, status, &body, keep_alive, false);
            let head = ResponseHead::parse(&response).expect("ours").expect("whole");
            prop_assert_eq!(head.status, status.code());
            prop_assert_eq!(head.keep_alive, keep_alive);
            prop_assert_eq!(head.body_bytes, body.len());
            prop_assert_eq!(&response[head.head_bytes..], &body[..]);
            let cut = cut.min(head.head_bytes - 1);
            prop_assert_eq!(ResponseHead::parse(&response[..cut]), Ok(None));
        }
    }

    #[test]
    fn heads_without_a_sure_length_are_refused() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n", ResponseError::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ResponseError::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", ResponseError::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", ResponseError::ContentLength),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                ResponseError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                ResponseError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                ResponseError::TransferEncoding,
            ),
            ("HTTP/1.1 200 OK\r\nwhat\r\n\r\n", ResponseError::Field),
            ("HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", ResponseError::StatusLine),
            ("HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", ResponseError::StatusLine),
            ("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", ResponseError::StatusLine),
            ("garbage\r\n\r\n", ResponseError::StatusLine),
        ];
        for (text, error) in cases {
            assert_eq!(ResponseHead::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_old_servers_close() {
        let text = b"HTTP/1.0 200\r\ncontent-LENGTH:  3 \r\n\r\nabc";
        let head = ResponseHead::parse(text).expect("a head").expect("whole");
        let expected =
            ResponseHead { status: 200, head_bytes: 37, body_bytes: 3, keep_alive: false };
        assert_eq!(head, expected);
    }
}
