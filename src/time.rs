//! Time as a value.
//!
//! The core never reads a clock: whoever drives it hands in [`Seconds`]. They come from one
//! monotonic clock (`CLOCK_BOOTTIME` in the program, a counter in tests), so wall clock steps
//! change nothing. Connections, whose deadlines are short, have the same clock in [`Millis`].

/// Seconds on the process's monotonic clock.
///
/// A `u32` lasts 136 years; arithmetic saturates, so a wrapped clock could only make things old.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Seconds(pub u32);

impl Seconds {
    /// The moment `seconds` after this one.
    #[must_use]
    pub const fn plus(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds passed since `earlier`; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds on the same clock.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Millis(pub u64);

impl Millis {
    /// The whole seconds of it.
    #[must_use]
    pub fn seconds(self) -> Seconds {
        Seconds(u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX))
    }

    /// The moment `seconds` after this one.
    #[must_use]
    pub const fn plus(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds as u64 * 1_000))
    }

    /// Milliseconds passed since `earlier`; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_never_wraps() {
        assert_eq!(Seconds(5).since(Seconds(9)), 0);
        assert_eq!(Seconds(9).since(Seconds(5)), 4);
        assert_eq!(Seconds(u32::MAX).plus(10), Seconds(u32::MAX));
        assert_eq!(Millis(5).since(Millis(9)), 0);
        assert_eq!(Millis(9).since(Millis(5)), 4);
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(Millis(1_999).seconds(), Seconds(1));
        assert_eq!(Millis(1_999).plus(2), Millis(3_999));
        assert_eq!(Millis(u64::MAX).plus(1).seconds(), Seconds(u32::MAX));
    }
}
