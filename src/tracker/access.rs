//! Which swarms this tracker serves: an allow or a deny list of info_hashes.
//!
//! A list is a sorted array, shared by all cores and never changed: a new list replaces it whole.

use std::sync::Arc;

use crate::wire::id::InfoHash;

/// The rule in force.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Everything is served.
    #[default]
    Open,
    /// Only listed swarms are.
    Allow(Arc<[InfoHash]>),
    /// All but listed swarms are.
    Deny(Arc<[InfoHash]>),
}

impl Access {
    /// Whether `info_hash` is served.
    #[must_use]
    pub fn allows(&self, info_hash: &InfoHash) -> bool {
        match self {
            Self::Open => true,
            Self::Allow(list) => list.binary_search(info_hash).is_ok(),
            Self::Deny(list) => list.binary_search(info_hash).is_err(),
        }
    }
}

/// A line of a list that is no info_hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: an info_hash is 40 hexadecimal digits")]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
}

/// Reads a list: one info_hash in 40 hexadecimal digits a line. Empty lines, text behind `#` or
/// `;`, a byte order mark and CRLF line ends are tolerated; order and repetition do not matter.
///
/// # Errors
/// [`BadLine`] for the first line that is anything else.
pub fn parse_list(text: &[u8]) -> Result<Arc<[InfoHash]>, BadLine> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let mut list = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let end = line.iter().position(|byte| b"#;".contains(byte)).unwrap_or(line.len());
        let line = line[..end].trim_ascii();
        if !line.is_empty() {
            list.push(parse_hex(line).ok_or(BadLine { line: index + 1 })?);
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(list.into())
}

/// Reads an `info_hash` in 40 hexadecimal digits; `None` if it is anything else.
#[must_use]
pub fn parse_hex(hex: &[u8]) -> Option<InfoHash> {
    let digits: [u8; 40] = hex.try_into().ok()?;
    let mut hash = [0; 20];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(InfoHash(hash))
}

/// Reads `bytes` as a list in two ways, and asks for what is in it and for what is not.
///
/// # Panics
/// At the first difference.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let mut expected = std::collections::BTreeSet::new();
    let mut bad = None;
    let text = text.strip_prefix("\u{EF}\u{BB}\u{BF}").unwrap_or(&text);
    for (index, line) in text.split('\n').enumerate() {
        let digits = line.split(['#', ';']).next().expect("a first piece");
        let digits = digits.trim_matches(|c: char| c.is_ascii_whitespace());
        if digits.is_empty() {
            continue;
        }
        if digits.chars().count() != 40 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            bad = bad.or(Some(index + 1));
            continue;
        }
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
        expected.insert(InfoHash(std::array::from_fn(|n| byte(2 * n))));
    }
    let list = parse_list(bytes);
    assert_eq!(list.as_ref().err().map(|error| error.line), bad);
    let Ok(list) = list else { return };
    assert!(list.iter().eq(expected.iter()));
    for hash in &expected {
        let InfoHash(mut near) = *hash;
        near[19] ^= 1;
        for hash in [*hash, InfoHash(near)] {
            assert_eq!(Access::Allow(list.clone()).allows(&hash), expected.contains(&hash));
            assert_eq!(Access::Deny(list.clone()).allows(&hash), !expected.contains(&hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_tolerate_what_people_write() {
        let a = "0123456789abcdef0123456789abcdef01234567";
        let text = format!("\u{FEFF}# a list\r\n\r\n{}\r\n  {a} # twice\n;end", a.to_uppercase());
        let list = parse_list(text.as_bytes()).expect("a good list");
        assert_eq!(list.len(), 1);
        assert_eq!(format!("{:?}", list[0]), a);
        assert!(parse_list(b"").expect("an empty list").is_empty());
    }

    #[test]
    fn the_order_of_a_list_does_not_matter() {
        let lines = [5, 1, 7, 3, 1].map(|byte: u8| format!("{byte:02x}").repeat(20));
        let list = parse_list(lines.join("\n").as_bytes()).expect("a good list");
        assert_eq!(list.len(), 4);
        for byte in 0..8 {
            let hash = InfoHash([byte; 20]);
            let listed = byte % 2 == 1;
            assert_eq!(Access::Allow(list.clone()).allows(&hash), listed, "{byte}");
            assert_eq!(Access::Deny(list.clone()).allows(&hash), !listed, "{byte}");
        }
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let good = "00".repeat(20);
        for bad in ["00", "zz", &"00".repeat(21), &"0g".repeat(20), "00 00"] {
            let text = format!("{good}\n\n{bad}\n{bad}");
            assert_eq!(parse_list(text.as_bytes()), Err(BadLine { line: 3 }), "{bad}");
        }
    }

    #[test]
    fn allow_and_deny_are_opposites() {
        let list: Arc<[InfoHash]> = [InfoHash([1; 20]), InfoHash([3; 20])].into();
        for (byte, listed) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
            let hash = InfoHash([byte; 20]);
            assert_eq!(Access::Allow(list.clone()).allows(&hash), listed);
            assert_eq!(Access::Deny(list.clone()).allows(&hash), !listed);
            assert!(Access::Open.allows(&hash));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_the_model_reads_them(
            bytes in vec(any::<u8>(), 0..200),
            lines in vec("[0-9a-fA-F]{38,41}[ #;\r]?[g\t]?", 0..8),
        ) {
            check(&bytes);
            check(lines.join("\n").as_bytes());
        }
    }
}
