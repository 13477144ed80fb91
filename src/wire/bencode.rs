//! Bencode (BEP 3): a writer for answers, and a strict reader for whoever checks them.
//!
//! The writer appends and trusts its caller: dictionary keys in byte order, none twice, an `end`
//! for every `begin_`. The reader accepts only what a correct writer makes, one text per value, so
//! that tests and the load generator notice when the writer's caller was wrong. The reader is the
//! one thing in `wire` that allocates; a tracker never calls it.

use std::net::IpAddr;

/// Lists and dictionaries within each other that the reader follows: it recurses.
const DEPTH_MAX: usize = 16;

/// Appends values to a buffer.
///
/// ```text
/// integer i-42e    bytes 4:spam    list l..e    dictionary d key value key value ..e
/// ```
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    #[must_use]
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.out.push(b'i');
        if value < 0 {
            self.out.push(b'-');
        }
        write_decimal(self.out, value.unsigned_abs());
        self.out.push(b'e');
    }

    /// An integer that may be larger than an `i64`.
    pub fn unsigned(&mut self, value: u64) {
        self.out.push(b'i');
        write_decimal(self.out, value);
        self.out.push(b'e');
    }

    /// A byte string; in a dictionary every other one is a key, and keys are in byte order.
    pub fn bytes(&mut self, value: &[u8]) {
        self.string_of(value.len());
        self.raw(value);
    }

    /// The head of a byte string whose `len` bytes follow in pieces, through [`Writer::raw`].
    pub fn string_of(&mut self, len: usize) {
        write_decimal(self.out, len as u64);
        self.out.push(b':');
    }

    /// A piece of the byte string that [`Writer::string_of`] began.
    pub fn raw(&mut self, piece: &[u8]) {
        self.out.extend_from_slice(piece);
    }

    /// A dictionary entry: a key and an integer.
    pub fn entry(&mut self, key: &str, value: u64) {
        self.bytes(key.as_bytes());
        self.unsigned(value);
    }

    /// A byte string that is the text of an IP address (RFC 5952).
    pub fn ip(&mut self, ip: IpAddr) {
        let mut text = Text { bytes: [0; IP_TEXT_BYTES_MAX], len: 0 };
        match ip {
            // By hand: the formatting machinery took half of the time of answers that have 200.
            IpAddr::V4(ip) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        text.push(b'.');
                    }
                    if octet >= 100 {
                        text.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        text.push(b'0' + octet / 10 % 10);
                    }
                    text.push(b'0' + octet % 10);
                }
            }
            IpAddr::V6(ip) => {
                let written = std::fmt::Write::write_fmt(&mut text, format_args!("{ip}"));
                written.expect("no address is longer");
            }
        }
        self.bytes(&text.bytes[..text.len]);
    }

    /// A dictionary, up to its [`Writer::end`].
    pub fn begin_dictionary(&mut self) {
        self.out.push(b'd');
    }

    /// A list, up to its [`Writer::end`].
    pub fn begin_list(&mut self) {
        self.out.push(b'l');
    }

    /// The end of what began last.
    pub fn end(&mut self) {
        self.out.push(b'e');
    }
}

/// Bytes of the longest text of an address: one of IPv6 that ends in one of IPv4.
const IP_TEXT_BYTES_MAX: usize = 45;

/// A text on the stack, so that its length is known before it is appended.
struct Text {
    bytes: [u8; IP_TEXT_BYTES_MAX],
    len: usize,
}

impl Text {
    const fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        let end = self.len + piece.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(piece.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Appends a number in decimal digits, without formatting machinery or allocation.
pub fn write_decimal(out: &mut Vec<u8>, mut value: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        let [.., digit] = (value % 10).to_be_bytes();
        digits[first] += digit;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// What bencoded bytes say; byte strings are borrowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// From `i64::MIN` to `u64::MAX`.
    Integer(i128),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Self>),
    /// A dictionary, in the order of its keys.
    Dictionary(Vec<(&'a [u8], Self)>),
}

/// Why bytes are not one bencoded value in its only correct form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum BencodeError {
    /// They end before the value does.
    Truncated,
    /// A byte that can neither begin nor continue a value here.
    UnexpectedByte,
    /// A number with leading zeros, or minus zero.
    NotCanonical,
    /// A number outside of `i64::MIN..=u64::MAX`.
    Overflow,
    /// A dictionary key that is not greater than the one before it.
    UnsortedKeys,
    /// More than 16 lists and dictionaries within each other.
    TooDeep,
    /// Bytes after the value.
    TrailingBytes,
}

impl<'a> Value<'a> {
    /// Reads exactly one value.
    ///
    /// # Errors
    /// The first reason why this is not the text that a correct writer makes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BencodeError> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(0)?;
        if reader.rest.is_empty() { Ok(value) } else { Err(BencodeError::TrailingBytes) }
    }

    /// The value at `key`, if this is a dictionary that has it.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Self> {
        let Self::Dictionary(entries) = self else { return None };
        let index = entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&entries[index].1)
    }

    /// The integer, if it is one.
    #[must_use]
    pub const fn as_integer(&self) -> Option<i128> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    /// The byte string, if it is one.
    #[must_use]
    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(value) = self { Some(value) } else { None }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(values) = self { Some(values) } else { None }
    }

    /// The entries in the order of their keys, if it is a dictionary.
    #[must_use]
    pub fn as_dictionary(&self) -> Option<&[(&'a [u8], Self)]> {
        if let Self::Dictionary(entries) = self { Some(entries) } else { None }
    }
}

/// What is left to read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        let first = *self.rest.first().ok_or(BencodeError::Truncated)?;
        if matches!(first, b'd' | b'l') && depth == DEPTH_MAX {
            return Err(BencodeError::TooDeep);
        }
        match first {
            b'0'..=b'9' => self.bytes().map(Value::Bytes),
            b'i' => {
                self.rest = &self.rest[1..];
                let negative = self.take(b'-');
                let magnitude = i128::from(self.number(b'e')?);
                let value = if negative { -magnitude } else { magnitude };
                match value {
                    0 if negative => Err(BencodeError::NotCanonical),
                    _ if value < i128::from(i64::MIN) => Err(BencodeError::Overflow),
                    _ => Ok(Value::Integer(value)),
                }
            }
            b'l' => {
                self.rest = &self.rest[1..];
                let mut values = Vec::new();
                while !self.take(b'e') {
                    values.push(self.value(depth + 1)?);
                }
                Ok(Value::List(values))
            }
            b'd' => {
                self.rest = &self.rest[1..];
                let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
                while !self.take(b'e') {
                    let key = self.bytes()?;
                    if entries.last().is_some_and(|(last, _)| *last >= key) {
                        return Err(BencodeError::UnsortedKeys);
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                Ok(Value::Dictionary(entries))
            }
            _ => Err(BencodeError::UnexpectedByte),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], BencodeError> {
        let length = self.number(b':')?;
        // A length beyond the address space is beyond these bytes too.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(BencodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Decimal digits and the byte that ends them.
    fn number(&mut self, end: u8) -> Result<u64, BencodeError> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(count);
        match rest.first() {
            None => return Err(BencodeError::Truncated),
            Some(&byte) if byte != end || digits.is_empty() => {
                return Err(BencodeError::UnexpectedByte);
            }
            Some(_) => self.rest = &rest[1..],
        }
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(BencodeError::NotCanonical);
        }
        let value = digits.iter().try_fold(0_u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        });
        value.ok_or(BencodeError::Overflow)
    }

    /// Whether `byte` is next; if so it is read.
    fn take(&mut self, byte: u8) -> bool {
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// Reads `bytes` and writes back what was read: the reader accepts only what the writer makes. And
/// writes a value of them and reads it back: the reader accepts all that the writer makes.
///
/// # Panics
/// At the first difference.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    if let Ok(value) = Value::parse(bytes) {
        let mut out = Vec::new();
        write_value(&mut Writer::new(&mut out), &value);
        assert_eq!(out, bytes);
    }
    let value = value_of(&mut &bytes[..], 0);
    let mut out = Vec::new();
    write_value(&mut Writer::new(&mut out), &value);
    assert_eq!(Value::parse(&out), Ok(value));
}

/// Some value that follows from `bytes`, which are used up.
#[cfg(any(test, fuzzing))]
fn value_of<'a>(bytes: &mut &'a [u8], depth: usize) -> Value<'a> {
    let Some((&kind, rest)) = bytes.split_first() else { return Value::Integer(0) };
    *bytes = rest;
    let count = usize::from(kind >> 3);
    let mut take = |count: usize| {
        let (taken, rest) = bytes.split_at(count.min(bytes.len()));
        *bytes = rest;
        taken
    };
    match kind & 7 {
        0..=2 => {
            let number = take(count % 9).iter().fold(0, |n, &byte| n << 8 | i128::from(byte));
            Value::Integer(if kind & 7 == 0 { -(number >> 1) } else { number })
        }
        5 | 6 if depth < DEPTH_MAX => {
            Value::List((0..count % 8).map(|_| value_of(bytes, depth + 1)).collect())
        }
        7 if depth < DEPTH_MAX => {
            let mut entries = std::collections::BTreeMap::new();
            for _ in 0..count % 8 {
                let (key, rest) = bytes.split_at((count % 5).min(bytes.len()));
                *bytes = rest;
                entries.insert(key, value_of(bytes, depth + 1));
            }
            Value::Dictionary(entries.into_iter().collect())
        }
        _ => Value::Bytes(take(count)),
    }
}

#[cfg(any(test, fuzzing))]
fn write_value(writer: &mut Writer<'_>, value: &Value<'_>) {
    match value {
        Value::Integer(value) => match i64::try_from(*value) {
            Ok(value) => writer.integer(value),
            Err(_) => writer.unsigned(u64::try_from(*value).expect("read as an i64 or a u64")),
        },
        Value::Bytes(value) => writer.bytes(value),
        Value::List(values) => {
            writer.begin_list();
            values.iter().for_each(|value| write_value(writer, value));
            writer.end();
        }
        Value::Dictionary(entries) => {
            writer.begin_dictionary();
            for (key, value) in entries {
                writer.bytes(key);
                write_value(writer, value);
            }
            writer.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out));
        out
    }

    #[test]
    fn vectors_of_bep_3() {
        assert_eq!(written(|w| w.bytes(b"spam")), b"4:spam");
        assert_eq!(written(|w| w.bytes(b"")), b"0:");
        assert_eq!(written(|w| w.integer(3)), b"i3e");
        assert_eq!(written(|w| w.integer(-3)), b"i-3e");
        assert_eq!(written(|w| w.integer(0)), b"i0e");
        assert_eq!(written(|w| w.integer(i64::MIN)), b"i-9223372036854775808e");
        assert_eq!(written(|w| w.unsigned(u64::MAX)), b"i18446744073709551615e");
        let list = written(|w| {
            w.begin_list();
            w.bytes(b"spam");
            w.bytes(b"eggs");
            w.end();
        });
        assert_eq!(list, b"l4:spam4:eggse");
        let value = Value::parse(b"d3:cow3:moo4:spaml1:a1:bee").expect("the dictionary of BEP 3");
        assert_eq!(value.get(b"cow").and_then(Value::as_bytes), Some(&b"moo"[..]));
        assert_eq!(value.get(b"spam").and_then(Value::as_list).map(<[_]>::len), Some(2));
        assert_eq!(value.get(b"dog"), None);
        assert_eq!(value.as_dictionary().map(<[_]>::len), Some(2));
        assert_eq!((value.as_integer(), value.as_bytes()), (None, None));
        for number in [i128::from(i64::MIN), i128::from(u64::MAX)] {
            let text = format!("i{number}e");
            assert_eq!(Value::parse(text.as_bytes()), Ok(Value::Integer(number)));
        }
    }

    #[test]
    fn a_scrape_is_binary_safe() {
        let hash = [0, b':', b'e', 0xff].repeat(5);
        let bytes = written(|w| {
            w.begin_dictionary();
            w.bytes(b"files");
            w.begin_dictionary();
            w.bytes(&hash);
            w.begin_dictionary();
            w.bytes(b"complete");
            w.unsigned(7);
            w.end();
            w.end();
            w.end();
        });
        assert!(bytes.starts_with(b"d5:filesd20:\0:e\xff"));
        let value = Value::parse(&bytes).expect("our own text");
        let entry = value.get(b"files").and_then(|files| files.get(&hash)).expect("the hash");
        assert_eq!(entry.get(b"complete").and_then(Value::as_integer), Some(7));
        for end in 0..bytes.len() {
            assert_eq!(Value::parse(&bytes[..end]), Err(BencodeError::Truncated), "{end}");
        }
    }

    #[test]
    fn the_reader_refuses_every_second_form() {
        use BencodeError::*;
        for (bytes, error) in [
            (&b"i03e"[..], NotCanonical),
            (b"i00e", NotCanonical),
            (b"i-0e", NotCanonical),
            (b"i-03e", NotCanonical),
            (b"04:spam", NotCanonical),
            (b"ie", UnexpectedByte),
            (b"i-e", UnexpectedByte),
            (b"i+3e", UnexpectedByte),
            (b"i 3e", UnexpectedByte),
            (b"i1.5e", UnexpectedByte),
            (b"-1:a", UnexpectedByte),
            (b"x", UnexpectedByte),
            (b"e", UnexpectedByte),
            (b"di1e1:ae", UnexpectedByte),
            (b"d1:ae", UnexpectedByte),
            (b"i18446744073709551616e", Overflow),
            (b"i-9223372036854775809e", Overflow),
            (b"99999999999999999999:", Overflow),
            (b"18446744073709551615:", Truncated),
            (b"5:spam", Truncated),
            (b"", Truncated),
            (b"d1:b0:1:a0:e", UnsortedKeys),
            (b"d1:a0:1:a0:e", UnsortedKeys),
            (b"d2:aa0:1:b0:1:a0:e", UnsortedKeys),
            (b"i1e\n", TrailingBytes),
            (b"lee", TrailingBytes),
        ] {
            assert_eq!(Value::parse(bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn depth_is_bounded() {
        for (open, inside) in [(&b"l"[..], &b""[..]), (b"d1:a", b"i0e")] {
            let nested = |depth| [&open.repeat(depth), inside, &b"e".repeat(depth)].concat();
            assert!(Value::parse(&nested(DEPTH_MAX)).is_ok());
            assert_eq!(Value::parse(&nested(DEPTH_MAX + 1)), Err(BencodeError::TooDeep));
        }
        assert_eq!(Value::parse(&b"l".repeat(1 << 20)), Err(BencodeError::TooDeep));
    }

    #[test]
    fn decimals_have_every_length() {
        let mut value = u64::MAX;
        while value > 0 {
            for value in [value, value - 1] {
                let mut out = Vec::new();
                write_decimal(&mut out, value);
                assert_eq!(out, value.to_string().as_bytes());
            }
            value /= 10;
        }
    }

    /// Bencoded text of arbitrary values, from leaves up.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let bytes = vec(any::<u8>(), 0..24);
        let leaf = prop_oneof![
            any::<i64>().prop_map(|value| written(|w| w.integer(value))),
            any::<u64>().prop_map(|value| written(|w| w.unsigned(value))),
            bytes.clone().prop_map(|value| written(|w| w.bytes(&value))),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            let list = vec(inner.clone(), 0..8)
                .prop_map(|items| [&b"l"[..], &items.concat(), b"e"].concat());
            let dictionary = btree_map(bytes.clone(), inner, 0..8).prop_map(|entries| {
                let entry =
                    |(key, value): (Vec<u8>, Vec<u8>)| [written(|w| w.bytes(&key)), value].concat();
                [&b"d"[..], &entries.into_iter().map(entry).collect::<Vec<_>>().concat(), b"e"]
                    .concat()
            });
            prop_oneof![list, dictionary]
        })
    }

    #[test]
    fn addresses_are_the_text_of_the_standard_library() {
        let is_same = |ip: IpAddr| {
            let text = ip.to_string();
            assert_eq!(written(|w| w.ip(ip)), written(|w| w.bytes(text.as_bytes())));
        };
        for octet in 0..=u8::MAX {
            is_same(IpAddr::from([octet, 255 - octet, octet / 10, octet % 10]));
            is_same(IpAddr::from([octet; 16]));
        }
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";
        assert_eq!(longest.len(), IP_TEXT_BYTES_MAX);
        is_same(longest.parse().expect("an address"));
        is_same("::ffff:192.0.2.1".parse().expect("an address"));
        is_same("::".parse().expect("an address"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in text()) {
            prop_assert!(Value::parse(&text).is_ok());
            check(&text);
        }

        #[test]
        fn what_is_read_is_what_would_be_written(
            bytes in vec(any::<u8>(), 0..64),
            words in vec(prop::sample::select(b"dleilei0123:-".to_vec()), 0..24),
        ) {
            check(&bytes);
            check(&words);
        }
    }
}
