//! The sizes that blocks have.
//!
//! Steps of 8 bytes first, of which a peer of IPv4 takes one, then eight classes to every doubling,
//! so that an eighth is lost at the most.

/// Bytes of the largest block.
pub const BLOCK_BYTES_MAX: usize = 8_192;
/// How many classes there are.
pub const CLASSES: usize = 60;

/// What statistics tell apart: blocks of up to so many bytes, as a number and as text.
pub const GROUPS: [(usize, &str); 8] = [
    (64, "64"),
    (128, "128"),
    (256, "256"),
    (512, "512"),
    (1_024, "1024"),
    (2_048, "2048"),
    (4_096, "4096"),
    (BLOCK_BYTES_MAX, "8192"),
];

/// The size of a block, as the number of its class.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Class(u8);

/// Bytes of the smallest block, and of the steps to the next classes.
const SIZE_MIN: u16 = 44;
const STEP: u16 = 8;
/// Bytes up to which all steps are the same.
const STEPS_UP_TO: usize = 124;

const SIZES: [u16; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let (mut class, mut size, mut step) = (0, SIZE_MIN, STEP);
    while class < CLASSES {
        sizes[class] = size;
        class += 1;
        if size >= 128 && size + step >= 16 * step {
            step *= 2;
            // From here on whole steps, so that a run of 1,024 peers fits exactly.
            size = size.next_multiple_of(step) - step;
        }
        size += step;
    }
    sizes
};

/// Bytes of the blocks of a class by its number.
#[must_use]
pub const fn class_bytes(number: usize) -> usize {
    SIZES[number] as usize
}

impl Class {
    /// The smallest block of at least `bytes`.
    ///
    /// # Panics
    /// If no block is that large.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        // Most are small, where classes are a step apart.
        let class = bytes.saturating_sub(usize::from(SIZE_MIN)).div_ceil(usize::from(STEP));
        let class = if bytes <= STEPS_UP_TO {
            class
        } else {
            SIZES.partition_point(|&size| usize::from(size) < bytes)
        };
        assert!(class < CLASSES, "{bytes} bytes are too many for a block");
        Self(u8::try_from(class).expect("classes are few"))
    }

    /// Bytes of its blocks.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::from(SIZES[usize::from(self.0)])
    }

    /// As an index below [`CLASSES`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The group of [`GROUPS`] that it is in.
    #[must_use]
    pub fn group(self) -> usize {
        GROUPS.partition_point(|&(bytes, _)| bytes < self.bytes())
    }

    /// As a number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The class of a number that [`Class::number`] made.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// Every class, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES).filter_map(|class| u8::try_from(class).ok()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_rise_by_eight_bytes_first_and_by_an_eighth_later() {
        assert_eq!(SIZES[..13], [44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 132, 144]);
        for sizes in SIZES.windows(2) {
            let (small, large) = (usize::from(sizes[0]), usize::from(sizes[1]));
            assert!(large > small && large % 4 == 0);
            assert!(large - small <= (small / 7).max(12), "{small} to {large}");
        }
        assert_eq!(usize::from(SIZES[CLASSES - 1]), BLOCK_BYTES_MAX);
        for bytes in 1..=BLOCK_BYTES_MAX {
            let class = Class::of(bytes);
            assert!(class.bytes() >= bytes);
            let number = usize::from(class.number());
            assert!(number == 0 || usize::from(SIZES[number - 1]) < bytes);
        }
        for exact in [8_192, 5_120, 7_168] {
            assert_eq!(Class::of(exact).bytes(), exact);
        }
        for class in Class::all() {
            let (most, text) = GROUPS[class.group()];
            assert!(class.bytes() <= most && most < 2 * class.bytes().max(33), "{class:?}");
            assert_eq!(most.to_string(), text);
        }
    }
}
