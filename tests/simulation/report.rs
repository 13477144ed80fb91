//! What a run has come to: a hash of everything that left, and how often each fault happened.

/// What goes wrong in these worlds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Fault {
    Loss,
    Duplication,
    Reordering,
    Corruption,
    Truncation,
    Spoofing,
    AnswerLoss,
    Splitting,
    Merging,
    Reset,
    MailboxFull,
    Late,
    Deaf,
    Stall,
    NoSendSlot,
    LateAnswer,
    Eviction,
    Denied,
    Restart,
    Leap,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::Loss,
        Self::Duplication,
        Self::Reordering,
        Self::Corruption,
        Self::Truncation,
        Self::Spoofing,
        Self::AnswerLoss,
        Self::Splitting,
        Self::Merging,
        Self::Reset,
        Self::MailboxFull,
        Self::Late,
        Self::Deaf,
        Self::Stall,
        Self::NoSendSlot,
        Self::LateAnswer,
        Self::Eviction,
        Self::Denied,
        Self::Restart,
        Self::Leap,
    ];
}

/// What one run has come to, or several.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trace {
    /// Of every byte that left, and of the counters.
    hash: u64,
    pub events: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// Answers that were brought to whoever made the offer.
    pub answers: u64,
    faults: [u64; Fault::ALL.len()],
}

impl Trace {
    pub fn count(&mut self, fault: Fault, times: u64) {
        self.faults[fault as usize] += times;
    }

    pub const fn happened(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    /// FNV-1a, word by word.
    pub const fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            self.mix(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.mix(other.hash);
        self.events += other.events;
        self.seconds += other.seconds;
        self.answers += other.answers;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
    }

    /// How often each fault happened, in one line.
    pub fn faults(&self) -> String {
        let one = |fault: &Fault| format!("{fault:?} {}", self.happened(*fault));
        Fault::ALL.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
