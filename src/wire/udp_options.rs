//! The options that may follow byte 98 of a UDP announce (BEP 41).
//!
//! Each is a type byte; all but the first two then have a length byte and that many bytes of data:
//!
//! ```text
//! 0  end of options        1  nop        2  URL data: length, then a piece of path and query
//! ```
//!
//! Options are advice. Whatever is malformed ends them, and never harms the announce before it.

use std::iter::FusedIterator;

const NOP: u8 = 1;
const URL_DATA: u8 = 2;

/// Bytes of data that one option can carry.
const OPTION_DATA_BYTES_MAX: usize = 255;

/// The pieces of path and query that `options` carry, to be read as if they were joined.
#[must_use]
pub const fn url_data(options: &[u8]) -> UrlData<'_> {
    UrlData { rest: options }
}

/// Iterator over the pieces: ends at the end option, at an option that BEP 41 does not have, and at
/// a length that runs past the datagram.
#[derive(Clone, Copy, Debug)]
pub struct UrlData<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for UrlData<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            match std::mem::take(&mut self.rest) {
                [NOP, rest @ ..] => self.rest = rest,
                [URL_DATA, length, rest @ ..] => {
                    let (piece, rest) = rest.split_at_checked(usize::from(*length))?;
                    self.rest = rest;
                    return Some(piece);
                }
                // The end option, one that BEP 41 does not have, a lost length, or nothing more.
                _ => return None,
            }
        }
    }
}

impl FusedIterator for UrlData<'_> {}

/// Appends the options that carry `path`, as a client does; none if it is empty. No end option: the
/// end of the datagram is one.
///
/// # Panics
/// Never: pieces are cut to what a length byte can say.
pub fn write_url_data(out: &mut Vec<u8>, path: &[u8]) {
    for piece in path.chunks(OPTION_DATA_BYTES_MAX) {
        let length = u8::try_from(piece.len()).expect("pieces of at most 255 bytes");
        out.extend_from_slice(&[URL_DATA, length]);
        out.extend_from_slice(piece);
    }
}

/// Reads `bytes` as options in two ways.
///
/// # Panics
/// At the first difference.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    let mut expected: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let data = at + 2;
        match bytes[at] {
            1 => at += 1,
            2 if data <= bytes.len() && data + usize::from(bytes[at + 1]) <= bytes.len() => {
                at = data + usize::from(bytes[at + 1]);
                expected.push(&bytes[data..at]);
            }
            _ => break,
        }
    }
    assert_eq!(url_data(bytes).collect::<Vec<_>>(), expected);

    let mut written = Vec::new();
    write_url_data(&mut written, bytes);
    assert_eq!(url_data(&written).collect::<Vec<_>>().concat(), bytes);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vectors_of_bep_41_and_of_chihaya() {
        let nops = [NOP; 255];
        let after_nops = [&nops[..], b"\x02\x01/"].concat();
        let table: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b"\0", &[]),
            (b"\x01", &[]),
            (b"\x02\x05/?a=b", &[b"/?a=b"]),
            (b"\x02\x00", &[b""]),
            (b"\x02\x01", &[]),
            (b"\x02", &[]),
            (b"\x02\x08/c/d?a=b", &[b"/c/d?a=b"]),
            (b"\x02\x02/?\x02\x03a=b", &[b"/?", b"a=b"]),
            (b"\x02\x09/?a=b%20c", &[b"/?a=b%20c"]),
            (b"\x02\x04/?%2\x01\x02\x016", &[b"/?%2", b"6"]),
            (b"\x02\x02/a\x00\x02\x02/b", &[b"/a"]),
            (b"\x02\x02/a\x03\x00\x02\x02/b", &[b"/a"]),
            (b"\x02\x02/a\x02\xff/b", &[b"/a"]),
            (b"\x02\x0d/..%2e%2e/../", &[b"/..%2e%2e/../"]),
            (&nops, &[]),
            (&after_nops, &[b"/"]),
        ];
        for (options, pieces) in table {
            assert_eq!(url_data(options).collect::<Vec<_>>(), *pieces, "{options:?}");
            check(options);
        }
    }

    #[test]
    fn a_long_path_is_split_at_255() {
        let mut options = Vec::new();
        write_url_data(&mut options, &[b'a'; 300]);
        let lengths: Vec<usize> = url_data(&options).map(<[u8]>::len).collect();
        assert_eq!(lengths, [255, 45]);
    }

    #[test]
    fn an_iterator_that_ended_stays_ended() {
        let mut pieces = url_data(b"\x00\x02\x01/");
        assert_eq!((pieces.next(), pieces.next()), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_the_model_reads_them(
            bytes in vec(any::<u8>(), 0..600), small in vec(0..6_u8, 0..64),
        ) {
            check(&bytes);
            check(&small);
        }
    }
}
