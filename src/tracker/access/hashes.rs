//! Lists of info_hashes: millions of them, each looked for in two lines of cache.
//!
//! ```text
//! hashes   sorted                                                     20 bytes each
//! starts   for each value of the leading bits, where its hashes begin  4 bytes for 1 to 2 hashes
//! ```
//!
//! There is a value of the leading bits for every hash or two, and what people list are hashes: so
//! few share one. Where they do not, because somebody made them up, the search goes on by halves.

use super::{BadLine, lines};
use crate::wire::id::InfoHash;

/// What a line of a list must be.
const EXPECTED: &str = "an info_hash is 40 hexadecimal digits";
/// Hashes of a list at the most: as many as 4 bytes can count.
const HASHES_MAX: usize = u32::MAX as usize;

/// Some info_hashes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HashList {
    /// Sorted, each once.
    hashes: Box<[InfoHash]>,
    /// Where those with each value of the leading bits begin; and the end.
    starts: Box<[u32]>,
    /// Bits of a hash's first 64 that do not lead.
    shift: u32,
}

impl HashList {
    /// Of these, in any order, and as often as they like.
    ///
    /// # Panics
    /// If they are more than 2^32 - 1.
    #[must_use]
    pub fn new(hashes: Vec<InfoHash>) -> Self {
        assert!(hashes.len() <= HASHES_MAX, "more hashes than can be counted");
        let shift = u64::BITS - hashes.len().max(2).ilog2();
        let values = 1 << (u64::BITS - shift);
        // Each goes where its leading bits say: then only a few have to be compared. For millions
        // that takes a quarter of the time of a sort.
        let mut starts = vec![0_u32; values + 1];
        for hash in &hashes {
            starts[leading(hash, shift) + 1] += 1;
        }
        for value in 0..values {
            starts[value + 1] += starts[value];
        }
        let mut next = starts.clone();
        let mut sorted = vec![InfoHash([0; 20]); hashes.len()];
        for hash in hashes {
            let next = &mut next[leading(&hash, shift)];
            sorted[*next as usize] = hash;
            *next += 1;
        }
        let (mut from, mut kept) = (0, 0);
        for value in 0..values {
            let end = starts[value + 1] as usize;
            starts[value] = u32::try_from(kept).expect("as just said");
            sorted[from..end].sort_unstable();
            for at in from..end {
                // Those that are equal have the same leading bits.
                if at == from || sorted[at] != sorted[kept - 1] {
                    sorted[kept] = sorted[at];
                    kept += 1;
                }
            }
            from = end;
        }
        starts[values] = u32::try_from(kept).expect("as just said");
        sorted.truncate(kept);
        Self { hashes: sorted.into(), starts: starts.into(), shift }
    }

    /// Reads a list: one info_hash in 40 hexadecimal digits a line, with what [`lines`] tolerates;
    /// order and repetition do not matter.
    ///
    /// # Errors
    /// [`BadLine`] for the first line that is anything else.
    pub fn parse(text: &[u8]) -> Result<Self, BadLine> {
        // A line is no shorter.
        let mut hashes = Vec::with_capacity(text.len() / 41 + 1);
        for (line, digits) in lines(text) {
            let hash = parse_hex(digits).filter(|_| hashes.len() < HASHES_MAX);
            hashes.push(hash.ok_or_else(|| Self::bad_line(line))?);
        }
        Ok(Self::new(hashes))
    }

    /// What is wrong with a line that is no info_hash.
    #[must_use]
    pub const fn bad_line(line: usize) -> BadLine {
        BadLine { line, expected: EXPECTED }
    }

    /// Whether it has `info_hash`.
    #[must_use]
    pub fn contains(&self, info_hash: &InfoHash) -> bool {
        let at = leading(info_hash, self.shift);
        let (start, end) = (self.starts[at] as usize, self.starts[at + 1] as usize);
        self.hashes[start..end].binary_search(info_hash).is_ok()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &InfoHash> {
        self.hashes.iter()
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.hashes) + size_of_val(&*self.starts)
    }
}

/// The value of a hash's leading bits: all but `shift` of its first 64.
fn leading(hash: &InfoHash, shift: u32) -> usize {
    let first = hash.0.first_chunk::<8>().expect("20 bytes");
    usize::try_from(u64::from_be_bytes(*first) >> shift).expect("32 bits at the most")
}

/// Reads an `info_hash` in 40 hexadecimal digits; `None` if it is anything else.
#[must_use]
pub fn parse_hex(hex: &[u8]) -> Option<InfoHash> {
    let digits: &[u8; 40] = hex.try_into().ok()?;
    let mut hash = [0; 20];
    let mut wrong = 0;
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    // A digit has four bits; what is none has others too.
    (wrong <= 0xF).then_some(InfoHash(hash))
}

/// The value of each hexadecimal digit, 255 for what is none.
const DIGITS: [u8; 256] = {
    let mut digits = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

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
    let list = HashList::parse(bytes);
    assert_eq!(list.as_ref().err().map(|error| error.line), bad);
    let Ok(list) = list else { return };
    assert!(list.iter().eq(expected.iter()));
    for hash in &expected {
        for at in [0, 7, 19] {
            let InfoHash(mut near) = *hash;
            near[at] ^= 1;
            assert!(list.contains(hash));
            assert_eq!(list.contains(&InfoHash(near)), expected.contains(&InfoHash(near)));
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
        let list = HashList::parse(text.as_bytes()).expect("a good list");
        assert_eq!(list.len(), 1);
        assert_eq!(list.iter().map(|hash| format!("{hash:?}")).collect::<Vec<_>>(), [a]);
        assert!(HashList::parse(b"").expect("an empty list").is_empty());
    }

    #[test]
    fn the_order_of_a_list_does_not_matter() {
        let lines = [5, 1, 7, 3, 1].map(|byte: u8| format!("{byte:02x}").repeat(20));
        let list = HashList::parse(lines.join("\n").as_bytes()).expect("a good list");
        assert_eq!((list.len(), list.is_empty()), (4, false));
        assert!((4 * 20..1_000).contains(&list.bytes()), "{} bytes", list.bytes());
        for byte in 0..8 {
            assert_eq!(list.contains(&InfoHash([byte; 20])), byte % 2 == 1, "{byte}");
        }
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let good = "00".repeat(20);
        let zz = "zz".repeat(20);
        for bad in
            ["00", "zz", &zz, &"00".repeat(21), &"0g".repeat(20), "00 00", &"\u{E9}".repeat(20)]
        {
            let text = format!("{good}\n\n{bad}\n{bad}");
            let error = HashList::parse(text.as_bytes()).expect_err(bad);
            assert_eq!(error.line, 3, "{bad}");
            assert!(error.to_string().contains("40 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn a_hash_costs_24_bytes_at_the_most() {
        for len in [100, 1_000, 65_535, 65_536, 100_000] {
            let hashes = (0..len).map(|n: u32| {
                let mut hash = [0; 20];
                hash[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B9).to_be_bytes());
                InfoHash(hash)
            });
            let list = HashList::new(hashes.collect());
            assert_eq!(list.len(), len as usize);
            assert!(list.bytes() <= 24 * list.len() + 8, "{} for {len}", list.bytes());
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
