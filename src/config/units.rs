//! Durations and sizes as people write them: "45m", "2GiB".
//!
//! A value always has a unit when it is written, because a bare 30 was read as minutes by the
//! person and as seconds by the program once too often. Printing a value and parsing it again
//! gives the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration in whole seconds, written "45m", "30s" or "1h 30m".
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u32);

impl Span {
    /// A span of `secs` seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self(secs)
    }

    /// Its length in seconds.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// Its length as the standard library's type, for timers.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        if is_bare_number(text) {
            return Err(UnitError::NoUnit { examples: "\"30s\" or \"45m\"" });
        }
        let duration = humantime::parse_duration(text)
            .map_err(|_| UnitError::Unreadable { examples: "\"30s\", \"45m\" or \"1h 30m\"" })?;
        if duration.subsec_nanos() != 0 {
            return Err(UnitError::SubSecond);
        }
        u32::try_from(duration.as_secs()).map(Self).map_err(|_| UnitError::TooLarge)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime separates parts with a space and writes "1day", both of which it reads back.
        write!(f, "{}", humantime::format_duration(self.as_duration()))
    }
}

impl TryFrom<String> for Span {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A number of bytes, written "8MiB" or "2GiB" (powers of 1,024; "2GB" is a power of 1,000).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(bytesize::ByteSize);

impl ByteSize {
    /// A size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytesize::ByteSize::b(bytes))
    }

    /// A size of `mebibytes` times 1,048,576 bytes.
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self(bytesize::ByteSize::b(mebibytes as u64 * bytesize::MIB))
    }

    /// Its number of bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0.as_u64()
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        if is_bare_number(text) {
            return Err(UnitError::NoUnit { examples: "\"8MiB\" or \"2GiB\"" });
        }
        text.parse()
            .map(Self)
            .map_err(|_| UnitError::Unreadable { examples: "\"8MiB\" or \"2GiB\"" })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // bytesize rounds to one decimal ("2.0 GiB"), which would not read back to the same value.
        let bytes = self.as_bytes();
        let units = [
            (bytesize::TIB, "TiB"),
            (bytesize::GIB, "GiB"),
            (bytesize::MIB, "MiB"),
            (bytesize::KIB, "KiB"),
        ];
        for (factor, name) in units {
            if bytes >= factor && bytes.is_multiple_of(factor) {
                return write!(f, "{}{name}", bytes / factor);
            }
        }
        write!(f, "{bytes}B")
    }
}

impl TryFrom<String> for ByteSize {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

/// Why a text is not a [`Span`] or a [`ByteSize`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnitError {
    /// A number alone.
    #[error("no unit: write {examples}")]
    NoUnit {
        /// How it could be written.
        examples: &'static str,
    },
    /// A unit that does not exist, or no number.
    #[error("not readable: write {examples}")]
    Unreadable {
        /// How it could be written.
        examples: &'static str,
    },
    /// A duration that is not whole seconds; the program's clock counts seconds.
    #[error("not a whole number of seconds")]
    SubSecond,
    /// A duration beyond 136 years.
    #[error("too large")]
    TooLarge,
}

/// Whether `text` is a number and nothing more, "0" included.
fn is_bare_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_span_is_read_as_people_write_it() {
        let cases = [
            ("30s", 30),
            ("45m", 2_700),
            ("1h 30m", 5_400),
            ("1h30m", 5_400),
            ("24h", 86_400),
            ("1day", 86_400),
            (" 5s ", 5),
            ("0s", 0),
            ("2000ms", 2),
        ];
        for (text, secs) in cases {
            assert_eq!(text.parse(), Ok(Span::from_secs(secs)), "{text}");
        }
    }

    #[test]
    fn a_span_needs_a_unit_and_whole_seconds() {
        for text in ["30", "0", "1.5"] {
            let error = text.parse::<Span>().expect_err("has no unit");
            assert!(error.to_string().starts_with("no unit: write \"30s\""), "{error}");
        }
        assert_eq!("1500ms".parse::<Span>(), Err(UnitError::SubSecond));
        assert_eq!("200years".parse::<Span>(), Err(UnitError::TooLarge));
        for text in ["", "m", "-5s", "5 parsecs", "99999999999999999999s"] {
            let unreadable = matches!(text.parse::<Span>(), Err(UnitError::Unreadable { .. }));
            assert!(unreadable, "{text}");
        }
    }

    #[test]
    fn a_size_is_read_as_people_write_it() {
        let cases = [("2GiB", 2 << 30), ("8 MiB", 8 << 20), ("1.5KiB", 1_536), ("3MB", 3_000_000)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
        assert!(matches!("1024".parse::<ByteSize>(), Err(UnitError::NoUnit { .. })));
        for text in ["", "GiB", "-1MiB", "5 apples"] {
            let unreadable = matches!(text.parse::<ByteSize>(), Err(UnitError::Unreadable { .. }));
            assert!(unreadable, "{text}");
        }
    }

    #[test]
    fn both_print_short() {
        assert_eq!(Span::from_secs(5_400).to_string(), "1h 30m");
        assert_eq!(Span::from_secs(1_800).to_string(), "30m");
        assert_eq!(ByteSize::from_mebibytes(2_048).to_string(), "2GiB");
        assert_eq!(ByteSize::from_mebibytes(1_536).to_string(), "1536MiB");
        assert_eq!(ByteSize::from_bytes(1_025).to_string(), "1025B");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(secs: u32, bytes: u64) {
            let span = Span::from_secs(secs);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Span>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
