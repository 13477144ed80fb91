//! Which clients peers use, from the announces of a while.
//!
//! Nothing is kept for a peer. Of each second's announces the first few are looked at, and the
//! client that each `peer_id` names is counted; how the counts share out is how the peers do, since
//! all announce equally often. With few announces all are looked at. A new count begins every
//! interval and the last one is kept beside it, so that clients of which there are no more are
//! forgotten.
//!
//! A client chooses what it calls itself, so the table is small and a newcomer to a full one is
//! counted as nobody in particular.

use crate::time::Seconds;
use crate::wire::id::PeerId;

/// Clients that are told apart.
pub const CLIENTS_MAX: usize = 128;
/// Announces of a second that are looked at.
const SAMPLES_PER_SECOND: u32 = 64;

/// A client and its version as a `peer_id` names them: its first eight bytes (Azureus style,
/// `-TR4060-`), or its first six and two zeros (Shadow's style, `T03I--`), or zeros.
pub type ClientId = [u8; 8];

/// What a `peer_id` that names nobody we know how to read counts as.
pub const UNKNOWN: ClientId = [0; 8];

/// The client that a `peer_id` names (BEP 20).
#[must_use]
pub fn client_of(peer_id: &PeerId) -> ClientId {
    let &[first, a, b, c, d, e, f, last, ..] = &peer_id.0;
    let is_word = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_alphanumeric);
    if first == b'-' && last == b'-' && is_word(&[a, b, c, d, e, f]) {
        return [first, a, b, c, d, e, f, last];
    }
    // A letter, up to five digits of a version, then dashes up to the ninth character.
    let is_version = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'.';
    let dashes = &peer_id.0[6..9];
    let shadow = [first, a, b, c, d, e, 0, 0];
    if first.is_ascii_alphabetic() && dashes == b"---" && shadow[1..6].iter().all(is_version) {
        return shadow;
    }
    UNKNOWN
}

/// Announces by client.
#[derive(Clone, Debug)]
pub struct Census {
    /// How many seconds one count lasts.
    interval_secs: u32,
    began: Seconds,
    second: Seconds,
    samples_left: u32,
    now: Tally,
    before: Tally,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    clients: Vec<(ClientId, u32)>,
    unknown: u32,
}

impl Tally {
    fn add(&mut self, client: ClientId, count: u32) {
        if let Some(known) = self.clients.iter_mut().find(|known| known.0 == client) {
            known.1 = known.1.saturating_add(count);
        } else if client != UNKNOWN && self.clients.len() < CLIENTS_MAX - 1 {
            self.clients.push((client, count));
        } else {
            self.unknown = self.unknown.saturating_add(count);
        }
    }
}

impl Census {
    /// Of peers that announce every `interval_secs`.
    #[must_use]
    pub fn new(interval_secs: u32) -> Self {
        Self {
            interval_secs,
            began: Seconds(0),
            second: Seconds(0),
            samples_left: SAMPLES_PER_SECOND,
            now: Tally::default(),
            before: Tally::default(),
        }
    }

    /// A peer of this name has announced itself. Mostly one comparison.
    #[inline]
    pub fn saw(&mut self, peer_id: &PeerId) {
        if self.samples_left > 0 {
            self.samples_left -= 1;
            self.now.add(client_of(peer_id), 1);
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Seconds) {
        if now != self.second {
            (self.second, self.samples_left) = (now, SAMPLES_PER_SECOND);
        }
        if now.since(self.began) >= self.interval_secs {
            self.began = now;
            self.before = std::mem::take(&mut self.now);
        }
    }

    /// How often each client was seen in this interval and the last, [`CLIENTS_MAX`] at the most,
    /// [`UNKNOWN`] among them.
    #[must_use]
    pub fn clients(&self) -> Vec<(ClientId, u32)> {
        let mut sum = self.before.clone();
        for &(client, count) in &self.now.clients {
            sum.add(client, count);
        }
        sum.unknown = sum.unknown.saturating_add(self.now.unknown);
        if sum.unknown > 0 {
            sum.clients.push((UNKNOWN, sum.unknown));
        }
        sum.clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_are_read_and_everything_else_is_nobody() {
        for (peer_id, client) in [
            (b"-TR4060-abcdefghijkl", *b"-TR4060-"),
            (b"-qB5030-\x00\xff\"<>'&()*!+", *b"-qB5030-"),
            (b"-WW0203-abcdefghijkl", *b"-WW0203-"),
            (b"T03I------xxxxxxxxxx", *b"T03I--\0\0"),
            (b"S588.----xxxxxxxxxxx", *b"S588.-\0\0"),
            (b"S588!----xxxxxxxxxxx", UNKNOWN),
            (b"-TR40\"0-abcdefghijkl", UNKNOWN),
            (b"<script>abcdefghijkl", UNKNOWN),
            (b"M7-9-2--abcdefghijkl", UNKNOWN),
            (&[0xFF; 20], UNKNOWN),
            (&[0; 20], UNKNOWN),
        ] {
            assert_eq!(client_of(&PeerId(*peer_id)), client, "{}", peer_id.escape_ascii());
        }
        assert_eq!(client_of(&PeerId(*b"S58B-----xxxxxxxxxxx")), *b"S58B--\0\0");
    }

    #[test]
    fn few_announces_are_all_counted_and_clients_that_went_are_forgotten() {
        let mut census = Census::new(100);
        let ids = [*b"-TR4060-abcdefghijkl", *b"-qB5030-abcdefghijkl"].map(PeerId);
        for second in 0..100 {
            census.tick(Seconds(1_000 + second));
            census.saw(&ids[0]);
            census.saw(&ids[usize::from(second % 4 == 0)]);
        }
        let mut clients = census.clients();
        clients.sort_unstable();
        assert_eq!(clients, [(*b"-TR4060-", 175), (*b"-qB5030-", 25)]);
        for second in 100..400 {
            census.tick(Seconds(1_000 + second));
            census.saw(&ids[1]);
        }
        let names: Vec<_> = census.clients().iter().map(|client| client.0).collect();
        assert_eq!(names, [*b"-qB5030-"]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn many_names_and_many_announces_take_no_more_than_the_table_and_a_few_looks() {
        let mut census = Census::new(100);
        for second in 0..50 {
            census.tick(Seconds(second));
            for number in 0..1_000_u32 {
                let name = format!("-XX{:04}-abcdefghijkl", (second * 1_000 + number) % 10_000);
                let id = PeerId(name.as_bytes().try_into().expect("20 bytes"));
                census.saw(&id);
            }
        }
        let clients = census.clients();
        assert_eq!(clients.len(), CLIENTS_MAX);
        let seen: u32 = clients.iter().map(|(_, count)| count).sum();
        assert_eq!(seen, 50 * SAMPLES_PER_SECOND);
        // Each name of the table came five times; all others are nobody.
        let unknown = clients.last().filter(|client| client.0 == UNKNOWN).map_or(0, |c| c.1);
        assert_eq!(unknown, seen - 5 * 127);
    }
}
