//! The opening handshake of a WebSocket (RFC 6455 section 4.2).

use tungstenite::handshake::derive_accept_key;

use super::head::{Head, Method};
use crate::wire::error::ParseError;

/// A request to go on as a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Key`: 16 bytes in Base64.
    key: &'a [u8],
    /// `Origin`: the page that asks, if a browser does.
    pub origin: Option<&'a [u8]>,
}

impl<'a> Upgrade<'a> {
    /// Reads the handshake of a head that says so ([`Head::upgrade`]).
    ///
    /// # Errors
    /// [`ParseError::UpgradeRequired`] for a version other than 13, [`ParseError::BadUpgrade`] for
    /// what is no handshake.
    pub fn parse(head: &Head<'a>) -> Result<Self, ParseError> {
        if head.method != Method::Get {
            return Err(ParseError::BadUpgrade);
        }
        let (mut keys, mut versions, mut origins) = (Once::No, Once::No, Once::No);
        for (name, value) in head.fields() {
            let once = match name.len() {
                6 if name.eq_ignore_ascii_case(b"origin") => &mut origins,
                17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => &mut keys,
                21 if name.eq_ignore_ascii_case(b"sec-websocket-version") => &mut versions,
                _ => continue,
            };
            once.add(value);
        }
        match versions {
            Once::Yes(b"13") => {}
            Once::Yes(_) | Once::No => return Err(ParseError::UpgradeRequired),
            Once::Twice => return Err(ParseError::BadUpgrade),
        }
        let origin = match origins {
            Once::Yes(origin) => Some(origin),
            Once::No => None,
            Once::Twice => return Err(ParseError::BadUpgrade),
        };
        match keys {
            Once::Yes(key) if is_key(key) => Ok(Self { key, origin }),
            _ => Err(ParseError::BadUpgrade),
        }
    }

    /// Appends the response after which the connection is a WebSocket. No extension and no
    /// subprotocol is agreed to, whatever is offered.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\n\
              Upgrade: websocket\r\n\
              Connection: Upgrade\r\n\
              Sec-WebSocket-Accept: ",
        );
        out.extend_from_slice(derive_accept_key(self.key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// A field that may come once.
#[derive(Clone, Copy)]
enum Once<'a> {
    No,
    Yes(&'a [u8]),
    Twice,
}

impl<'a> Once<'a> {
    const fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::No => Self::Yes(value),
            _ => Self::Twice,
        };
    }
}

/// Whether it is the Base64 of 16 bytes: 22 digits, of which the last has four bits to spare, and
/// two signs of equality.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key {
        [digits @ .., b'=', b'='] => digits.len() == 22 && digits.iter().all(is_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Upgrade: websocket";
    const CONNECTION: &str = "Connection: Upgrade";
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    const VERSION: &str = "Sec-WebSocket-Version: 13";

    /// What comes of a request; `None`: it does not ask to go on as a WebSocket.
    fn parsed(line: &str, fields: &[&str]) -> Option<Result<Option<String>, ParseError>> {
        let text = format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n"));
        let head = Head::parse(text.as_bytes()).expect("a head");
        let text = |origin: &[u8]| String::from_utf8_lossy(origin).into_owned();
        head.upgrade.then(|| Upgrade::parse(&head).map(|upgrade| upgrade.origin.map(text)))
    }

    #[test]
    fn a_handshake_is_one_of_http_1_1_and_version_13_with_one_key() {
        use ParseError::{BadUpgrade, UpgradeRequired};
        let get = "GET / HTTP/1.1";
        let key = |key: &str| format!("Sec-WebSocket-Key: {key}");
        let version = |version: &str| format!("Sec-WebSocket-Version: {version}");
        for (line, key, version, expected) in [
            (get, KEY, VERSION, Ok(None)),
            (get, &KEY.to_uppercase(), VERSION, Ok(None)),
            (get, &key("  AAAAAAAAAAAAAAAAAAAAAA==\t"), VERSION, Ok(None)),
            (get, &key("+/+/+/+/+/+/+/+/+/+/+/=="), VERSION, Ok(None)),
            (get, KEY, &VERSION.to_lowercase(), Ok(None)),
            ("HEAD / HTTP/1.1", KEY, VERSION, Err(BadUpgrade)),
            ("HEAD / HTTP/1.1", KEY, &version("8"), Err(BadUpgrade)),
            (get, KEY, "X: y", Err(UpgradeRequired)),
            (get, KEY, &version(""), Err(UpgradeRequired)),
            (get, KEY, &version("0"), Err(UpgradeRequired)),
            (get, KEY, &version("8"), Err(UpgradeRequired)),
            (get, KEY, &version("12"), Err(UpgradeRequired)),
            (get, KEY, &version("14"), Err(UpgradeRequired)),
            (get, KEY, &version("113"), Err(UpgradeRequired)),
            (get, KEY, &version("13,13"), Err(UpgradeRequired)),
            (get, "X: y", &version("12"), Err(UpgradeRequired)),
            (get, KEY, &format!("{VERSION}\r\n{VERSION}"), Err(BadUpgrade)),
            (get, KEY, &format!("{VERSION}\r\n{}", version("8")), Err(BadUpgrade)),
            (get, "X: y", VERSION, Err(BadUpgrade)),
            (get, &format!("{KEY}\r\n{KEY}"), VERSION, Err(BadUpgrade)),
            (get, &key(""), VERSION, Err(BadUpgrade)),
            (get, &key("=="), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAAAAAAAAAAAAA=="), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAAAAAAAAAAAAAAA=="), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAAAAAAAAAAAAAAA="), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAAAAAAAAAAAAAAAA"), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAAAAAAAAAAAAAA"), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAA AAAAAAAAAAA=="), VERSION, Err(BadUpgrade)),
            (get, &key("AAAAAAAAAA-AAAAAAAAAAA=="), VERSION, Err(BadUpgrade)),
            (get, &key("\"AAAAAAAAAAAAAAAAAAAAAA==\""), VERSION, Err(BadUpgrade)),
        ] {
            let fields = [UPGRADE, CONNECTION, key, version];
            assert_eq!(parsed(line, &fields), Some(expected), "{line} {fields:?}");
        }
        assert_eq!(parsed("GET / HTTP/1.0", &[UPGRADE, CONNECTION, KEY, VERSION]), None);
    }

    #[test]
    fn a_request_asks_for_it_in_two_fields() {
        for (fields, asks) in [
            (&[UPGRADE, CONNECTION][..], true),
            (&["upgrade: WebSocket", "connection: UPGRADE"], true),
            (&["Upgrade: h2c, websocket", "Connection: keep-alive, Upgrade"], true),
            (&["Upgrade: h2c", UPGRADE, "Connection: x", CONNECTION], true),
            (&[UPGRADE], false),
            (&[CONNECTION], false),
            (&[UPGRADE, "Connection: keep-alive"], false),
            (&[UPGRADE, "Connection: upgrades"], false),
            (&["Upgrade: websockets", CONNECTION], false),
            (&["Upgrade: websocket/13", CONNECTION], false),
            (&["Upgrade:", CONNECTION], false),
        ] {
            let all = [fields, &[KEY, VERSION]].concat();
            assert_eq!(parsed("GET / HTTP/1.1", &all), asks.then_some(Ok(None)), "{fields:?}");
        }
    }

    #[test]
    fn an_origin_comes_once_or_not_at_all() {
        for (fields, origin) in [
            (&["Origin: https://one.example"][..], Ok(Some("https://one.example".to_owned()))),
            (&["ORIGIN:\tnull "], Ok(Some("null".to_owned()))),
            (&["Origin:"], Ok(Some(String::new()))),
            (&["X-Origin: https://one.example"], Ok(None)),
            // As long as the names that mean something.
            (&["Cookie: a", "If-Modified-Since: a", "X-WebSocket-Version-X: a"], Ok(None)),
            (&["Origin: a", "Origin: a"], Err(ParseError::BadUpgrade)),
            (&["Origin: a", "oRIGIN: b"], Err(ParseError::BadUpgrade)),
        ] {
            let all = [&[UPGRADE, CONNECTION, KEY, VERSION], fields].concat();
            assert_eq!(parsed("GET / HTTP/1.1", &all), Some(origin), "{fields:?}");
        }
    }

    /// The key and its answer are those of RFC 6455 section 1.3.
    #[test]
    fn the_response_agrees_to_websocket_and_to_nothing_else() {
        let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b";
        let text = format!(
            "GET / HTTP/1.1\r\n{UPGRADE}\r\n{CONNECTION}\r\n{KEY}\r\n{VERSION}\r\n{offers}\r\n\r\n"
        );
        let head = Head::parse(text.as_bytes()).expect("a head");
        let mut out = b"before".to_vec();
        Upgrade::parse(&head).expect("a handshake").write_response(&mut out);
        let expected = "beforeHTTP/1.1 101 Switching Protocols\r\n\
                        Upgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
