//! The query of an announce or a scrape (BEP 3, BEP 7, BEP 23, BEP 48).
//!
//! Names are compared exactly and never decoded. Binary values are percent-decoded, `+` staying a
//! plus; numbers and words are taken as sent. A number is ASCII digits and nothing else. What an
//! announce cannot do without (`info_hash`, `peer_id`, `port`) must be right; all else that is
//! unreadable counts as missing. Every step is linear in the query.

use std::net::{IpAddr, SocketAddr};

use memchr::memchr2;

use super::head::split_once;
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

/// Bytes of the longest text that can be an IP address with scope and port.
const IP_TEXT_BYTES_MAX: usize = 72;

/// Iterator over (name, raw value) of a query.
///
/// Splits on `&`, then on the first `=`; parts without `=` are skipped. `?` separates like `&`:
/// clients append `?info_hash=..` to announce URLs that have a query already.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Parameters<'a> {
    /// The parameters of what follows the first `?` of a target.
    #[must_use]
    pub const fn new(query: &'a [u8]) -> Self {
        Self { rest: query }
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = memchr2(b'&', b'?', self.rest).unwrap_or(self.rest.len());
            let (part, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            if let Some(parameter) = split_once(part, b'=') {
                return Some(parameter);
            }
        }
        None
    }
}

/// The `N` bytes that `value` stands for; `None` if it is a broken escape or another length.
///
/// `%XX` in either case is a byte, every other byte is itself: `+` is a plus (it is no form field),
/// and bytes from 0x80 up are taken as they are.
#[must_use]
pub fn percent_decode<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    (percent_decode_into(value, &mut out)? == N).then_some(out)
}

/// Decodes to the start of `out`; the length, or `None` if broken or too long.
fn percent_decode_into(mut value: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        let (byte, rest) = match value {
            [b'%', high, low, rest @ ..] => (hex_digit(*high)? << 4 | hex_digit(*low)?, rest),
            [b'%', ..] => return None,
            [byte, rest @ ..] => (*byte, rest),
            [] => return Some(length),
        };
        *out.get_mut(length)? = byte;
        length += 1;
        value = rest;
    }
}

/// The value of a hexadecimal digit.
const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// An announce and what HTTP alone asks about its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnnounceQuery {
    /// What every transport means by an announce.
    pub announce: Announce,
    /// Whether peers are wanted as bytes (BEP 23) rather than as dictionaries: unless `compact=0`.
    pub compact: bool,
    /// Whether the dictionaries may leave out `peer id`: iff `no_peer_id=1`.
    pub no_peer_id: bool,
    /// The address it would like to be known by: the first readable `ip`, `ipv4` or `ipv6`. Not to
    /// be believed from just anybody. Canonical: IPv4-mapped IPv6 is folded.
    pub ip: Option<IpAddr>,
}

impl AnnounceQuery {
    /// Reads the query of an announce. Of a repeated parameter the first wins.
    ///
    /// # Errors
    /// In this order: more than one `info_hash`, none, one that is not 20 bytes; `peer_id` missing
    /// or not 20 bytes; `port` missing or not a number up to 65535 (0 is a number).
    pub fn parse(query: &[u8]) -> Result<Self, ParseError> {
        let raw = Raw::parse(query)?;
        let info_hash = raw.info_hash.ok_or(ParseError::MissingInfoHash)?;
        let info_hash = percent_decode(info_hash).ok_or(ParseError::BadInfoHash)?;
        let peer_id = raw.peer_id.and_then(percent_decode).ok_or(ParseError::BadPeerId)?;
        let port = raw.port.and_then(Number::parse).and_then(|port| match port {
            Number::Value(port) => u16::try_from(port).ok(),
            Number::Overflow => None,
        });
        let announce = Announce {
            info_hash: InfoHash(info_hash),
            peer_id: PeerId(peer_id),
            port: port.ok_or(ParseError::BadPort)?,
            uploaded: saturating(raw.uploaded).unwrap_or(0),
            downloaded: saturating(raw.downloaded).unwrap_or(0),
            left: match raw.left.and_then(Number::parse) {
                Some(Number::Value(left)) => Left::Bytes(left),
                Some(Number::Overflow) | None => Left::Unknown,
            },
            event: raw.event.map_or(Event::None, Event::from_http),
            num_want: saturating(raw.num_want).map_or(NumWant::Default, |count| {
                NumWant::Count(u32::try_from(count).unwrap_or(u32::MAX))
            }),
            key: raw.key.and_then(parse_key),
        };
        Ok(Self {
            announce,
            compact: raw.compact != Some(b"0"),
            no_peer_id: raw.no_peer_id == Some(b"1"),
            ip: raw.ip,
        })
    }
}

/// The raw values of the parameters that an announce knows, each the first of its name.
#[derive(Default)]
struct Raw<'a> {
    info_hash: Option<&'a [u8]>,
    peer_id: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
    uploaded: Option<&'a [u8]>,
    downloaded: Option<&'a [u8]>,
    left: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
    num_want: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    compact: Option<&'a [u8]>,
    no_peer_id: Option<&'a [u8]>,
    /// The first that could be read.
    ip: Option<IpAddr>,
}

impl<'a> Raw<'a> {
    fn parse(query: &'a [u8]) -> Result<Self, ParseError> {
        let mut raw = Self::default();
        for (name, value) in Parameters::new(query) {
            let first = match name {
                b"info_hash" if raw.info_hash.is_some() => {
                    return Err(ParseError::SeveralInfoHashes);
                }
                b"info_hash" => &mut raw.info_hash,
                b"peer_id" => &mut raw.peer_id,
                b"port" => &mut raw.port,
                b"uploaded" => &mut raw.uploaded,
                b"downloaded" => &mut raw.downloaded,
                b"left" => &mut raw.left,
                b"event" => &mut raw.event,
                b"numwant" | b"num_want" => &mut raw.num_want,
                b"key" => &mut raw.key,
                b"compact" => &mut raw.compact,
                b"no_peer_id" => &mut raw.no_peer_id,
                b"ip" | b"ipv4" | b"ipv6" => {
                    raw.ip = raw.ip.or_else(|| parse_ip(value));
                    continue;
                }
                _ => continue,
            };
            first.get_or_insert(value);
        }
        Ok(raw)
    }
}

/// A number in plain ASCII digits: no sign, no blank, no prefix, any count of leading zeros.
enum Number {
    /// It fits.
    Value(u64),
    /// It is a number, and too large.
    Overflow,
}

impl Number {
    fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let value = text.iter().try_fold(0_u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        });
        Some(value.map_or(Self::Overflow, Self::Value))
    }
}

/// The number, or the largest there is if it overflows; `None` if missing or unreadable.
fn saturating(text: Option<&[u8]>) -> Option<u64> {
    match Number::parse(text?)? {
        Number::Value(value) => Some(value),
        Number::Overflow => Some(u64::MAX),
    }
}

/// A `key` as 32 bits: clients send up to 8 hexadecimal digits; others are folded (FNV-1a), so that
/// the same text gives the same number. An empty one is none, or strangers would share it.
fn parse_key(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let number =
        text.iter().try_fold(0_u32, |key, &digit| Some(key << 4 | u32::from(hex_digit(digit)?)));
    let fold = |hash: u32, &byte: &u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    number.filter(|_| text.len() <= 8).or_else(|| Some(text.iter().fold(0x811c_9dc5, fold)))
}

/// An address literal, or the address of an endpoint literal (BEP 7 allows both).
fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    let mut text = [0; IP_TEXT_BYTES_MAX];
    let length = percent_decode_into(value, &mut text)?;
    let text = str::from_utf8(&text[..length]).ok()?;
    let ip = text.parse().or_else(|_| text.parse().map(|endpoint: SocketAddr| endpoint.ip()));
    ip.ok().map(|ip: IpAddr| ip.to_canonical())
}

/// The swarms that a scrape asks about, in order, repeated ones repeatedly; each may be unreadable
/// by itself. Unbounded: the caller takes as many as it answers.
pub fn scrape_hashes(query: &[u8]) -> impl Iterator<Item = Result<InfoHash, ParseError>> + Clone {
    Parameters::new(query)
        .filter(|(name, _)| *name == b"info_hash")
        .map(|(_, value)| percent_decode(value).map(InfoHash).ok_or(ParseError::BadInfoHash))
}
