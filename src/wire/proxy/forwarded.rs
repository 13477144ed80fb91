//! The client's address in a header field that a proxy wrote: `Forwarded` (RFC 7239), or a plain
//! list as in `X-Forwarded-For`, `X-Real-IP` and `CF-Connecting-IP`.
//!
//! Each proxy appends the address that it was reached from, so the rightmost entry is the only one
//! that the nearest proxy vouches for; if that entry is a trusted proxy too, it vouches for the
//! next one, and so on. Whatever is left of the first address that nobody trusts, the client may
//! have written itself. Therefore values are read from right to left, quoted strings included: no
//! byte that a client sent can change how the entries after it are read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::{memrchr, memrchr2};

use super::parse_port;

/// The field whose entries have parameters.
const FORWARDED: &[u8] = b"Forwarded";

/// Why the fields of a request do not say who the client is. Answer 400.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ForwardedError {
    /// No field has the name.
    Missing,
    /// The entry that counts is no IP address: `unknown`, `_hidden`, empty, with a zone, or broken.
    Unreadable,
}

/// The client's address, folded if it is IPv4-mapped, from the fields called `name` of a request
/// that a trusted proxy sent.
///
/// The values of several such fields are one list (RFC 9110 section 5.3). From its right end on,
/// hops that are `trusted` are passed over; the first other one is the client, or the leftmost if
/// all are trusted. An entry is an address, alone or with a port, as in `192.0.2.1`,
/// `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, and may be quoted; in
/// `Forwarded` it is the element's only `for` parameter. Names are compared without regard to case.
///
/// Costs one pass over the fields: from each, as much of its right end as is trusted, and an entry.
///
/// # Errors
/// [`ForwardedError::Missing`] without such a field, and [`ForwardedError::Unreadable`] if the list
/// has an unreadable entry where the client or a trusted hop is looked for. Entries further left do
/// not matter.
pub fn forwarded_for<'a>(
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    name: &[u8],
    trusted: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, ForwardedError> {
    let has_parameters = name.eq_ignore_ascii_case(FORWARDED);
    let mut client = None;
    // Fields come in order, yet the last one counts first: one that is trusted throughout leaves
    // the say to those before it, any other takes it from them.
    for (_, value) in fields.into_iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)) {
        client = match (walk(value, has_parameters, &trusted), client) {
            (Walk::AllTrusted(_), Some(earlier)) => Some(earlier),
            (Walk::AllTrusted(leftmost), None) => Some(Ok(leftmost)),
            (Walk::Client(found), _) => Some(found),
        };
    }
    client.unwrap_or(Err(ForwardedError::Missing))
}

/// What one value says.
enum Walk {
    /// Nothing but trusted hops; the leftmost of them.
    AllTrusted(IpAddr),
    /// The rightmost entry that is not a trusted hop: the client, or unreadable.
    Client(Result<IpAddr, ForwardedError>),
}

/// Walks one value from its right end.
fn walk(value: &[u8], has_parameters: bool, trusted: &impl Fn(IpAddr) -> bool) -> Walk {
    let mut entries = value;
    loop {
        match split_last_hop(entries, has_parameters) {
            None => return Walk::Client(Err(ForwardedError::Unreadable)),
            Some((_, hop)) if !trusted(hop) => return Walk::Client(Ok(hop)),
            Some((None, hop)) => return Walk::AllTrusted(hop),
            Some((Some(before), _)) => entries = before,
        }
    }
}

/// The address in the last entry, and the entries before it, if any; `None` if it is unreadable.
fn split_last_hop(entries: &[u8], has_parameters: bool) -> Option<(Option<&[u8]>, IpAddr)> {
    if has_parameters {
        let (before, element) = split_last_unquoted(entries, b',')?;
        Some((before, parse_element(element)?))
    } else {
        let (before, entry) = split_last(entries, memrchr(b',', entries));
        Some((before, parse_entry(entry)?))
    }
}

/// The parts before and after the separator at `at`, or all of it and nothing before.
fn split_last(bytes: &[u8], at: Option<usize>) -> (Option<&[u8]>, &[u8]) {
    match at {
        Some(at) => (Some(&bytes[..at]), &bytes[at + 1..]),
        None => (None, bytes),
    }
}

/// Splits at the last `separator` that is outside quoted strings (RFC 9110 section 5.6.4); `None`
/// if there is a quote after it that has no partner.
///
/// Read backwards, a quote outside a string closes one, and the next quote without a backslash
/// opens it: only inside a string can there be backslashes, and there they come in pairs.
fn split_last_unquoted(bytes: &[u8], separator: u8) -> Option<(Option<&[u8]>, &[u8])> {
    let mut end = bytes.len();
    while let Some(at) = memrchr2(separator, b'"', &bytes[..end]) {
        if bytes[at] == separator {
            return Some(split_last(bytes, Some(at)));
        }
        if is_escaped(bytes, at) {
            return None;
        }
        end = memrchr(b'"', &bytes[..at])?;
        while is_escaped(bytes, end) {
            end = memrchr(b'"', &bytes[..end])?;
        }
    }
    Some(split_last(bytes, None))
}

/// Whether the byte at `at` follows a backslash that does not itself follow one, and so on.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// The address in an element of `Forwarded`, `for=192.0.2.1;by=10.0.0.1;proto=https` (RFC 7239
/// section 4); parameters other than `for` are skipped.
fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    let mut pairs = Some(element);
    while let Some(rest) = pairs {
        let (before, pair) = split_last_unquoted(rest, b';')?;
        pairs = before;
        let pair = trim_blanks(str::from_utf8(pair).ok()?);
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
    }
    parse_node(node?)
}

/// The address in an entry of a plain list.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    parse_node(trim_blanks(str::from_utf8(entry).ok()?))
}

/// An address with or without port, quoted or not. A node of RFC 7239 needs no backslashes, so a
/// quoted one that has some is not read.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = match text.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => text,
    };
    let (ip, port): (IpAddr, &str) = if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        (ip.parse::<Ipv6Addr>().ok()?.into(), port)
    } else if let Ok(ip) = text.parse() {
        (ip, "")
    } else {
        let (ip, port) = text.split_at(text.find(':')?);
        (ip.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    if !port.is_empty() {
        parse_port(port.strip_prefix(':')?)?;
    }
    Some(ip.to_canonical())
}

/// Without the spaces and tabs around it (RFC 9110 section 5.6.3: OWS).
fn trim_blanks(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}
