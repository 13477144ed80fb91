//! Time as a value.
//!
//! The core never reads a clock: whoever drives it hands in [`Seconds`]. They come from one
//! monotonic clock (`CLOCK_BOOTTIME` in the program, a counter in tests), so wall clock steps
//! change nothing.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_never_wraps() {
        assert_eq!(Seconds(5).since(Seconds(9)), 0);
        assert_eq!(Seconds(9).since(Seconds(5)), 4);
        assert_eq!(Seconds(u32::MAX).plus(10), Seconds(u32::MAX));
    }
}
