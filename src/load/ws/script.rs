//! Offers and answers that can be recognised, whichever connection of ours they come back to.
//!
//! Invariant: everything about an offer is a function of its [`Name`], which its `offer_id` spells
//! out: who made it, the how manieth it is, and when. So whoever receives it knows what its bytes
//! must be and how long it took, though nothing is shared or remembered. The 20 bytes look random:
//!
//! ```text
//!  0         4         8                   16        20
//!  | peer    | number  | nanoseconds       | check   |     the first 16 under a mask that
//!  +---------+---------+-------------------+---------+     depends on seed and check
//! ```

use serde_json::Value;

use crate::limits::WEB_OFFERS_MAX;
use crate::load::verify::Rigour;
use crate::rng::Rng;

/// A constant of each use, so that the masks are not the digests.
const SALT_DIGEST: u64 = 0x4F46_4645_5200_0000;
const SALT_MASK: u64 = 0x4D41_534B_0000_0000;
const SALT_ANSWER: u64 = 0x414E_5357_4552_0000;

/// An offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name {
    /// The number of the peer that made it.
    pub peer: u32,
    /// Offers that its connection had made before.
    pub number: u32,
    /// When it was sent, in nanoseconds of the common clock.
    pub sent: u64,
}

/// The texts of a run.
#[derive(Clone, Debug)]
pub struct Script {
    seed: u64,
    offer: Text,
    answer: Text,
}

/// A JSON object with room for sixteen digits.
#[derive(Clone, Debug)]
struct Text {
    before: String,
    after: String,
}

impl Script {
    /// Offers and answers of so many bytes each.
    pub fn new(seed: u64, bytes: u16) -> Self {
        let text = |kind| Text::new(kind, bytes.into());
        Self { seed, offer: text("offer"), answer: text("answer") }
    }

    /// What it is called.
    pub fn offer_id(&self, name: &Name) -> [u8; 20] {
        let check = check(self.digest(name));
        let words = [name.peer.to_be_bytes(), name.number.to_be_bytes()];
        let (words, sent) = (words.as_flattened(), name.sent.to_be_bytes());
        let mask = self.mask(check);
        let plain = |at: usize| if at < 8 { words[at] } else { sent[at - 8] };
        let check = check.to_be_bytes();
        std::array::from_fn(|at| if at < 16 { plain(at) ^ mask[at] } else { check[at - 16] })
    }

    /// The offer that is called that, if one of ours may be.
    pub fn name(&self, offer_id: &str) -> Option<Name> {
        let mut bytes = [0; 20];
        let mut characters = offer_id.chars();
        for byte in &mut bytes {
            *byte = u8::try_from(characters.next()?).ok()?;
        }
        if characters.next().is_some() {
            return None;
        }
        let (hidden, check_bytes) = bytes.split_first_chunk::<16>()?;
        let read = u32::from_be_bytes(*check_bytes.first_chunk()?);
        let mask = self.mask(read);
        let plain: [u8; 16] = std::array::from_fn(|at| hidden[at] ^ mask[at]);
        let ([peer, number, _, _], []) = plain.as_chunks::<4>() else { return None };
        let name = Name {
            peer: u32::from_be_bytes(*peer),
            number: u32::from_be_bytes(*number),
            sent: u64::from_be_bytes(*plain.last_chunk()?),
        };
        (check(self.digest(&name)) == read).then_some(name)
    }

    /// Appends the offer.
    pub fn write_offer(&self, out: &mut Vec<u8>, name: &Name) {
        self.offer.write(out, self.digest(name));
    }

    /// Appends the answer of a connection to it.
    pub fn write_answer(&self, out: &mut Vec<u8>, name: &Name, connection: u32) {
        self.answer.write(out, self.answer_digest(name, connection));
    }

    /// Whether that is the offer.
    pub fn is_offer(&self, body: &str, name: &Name, rigour: Rigour) -> bool {
        self.offer.is(body, self.digest(name), rigour)
    }

    /// Whether that is the connection's answer to the offer.
    pub fn is_answer(&self, body: &str, name: &Name, connection: u32, rigour: Rigour) -> bool {
        self.answer.is(body, self.answer_digest(name, connection), rigour)
    }

    fn digest(&self, name: &Name) -> u64 {
        let place = u64::from(name.peer) << 32 | u64::from(name.number);
        let digest = Rng::new(self.seed ^ SALT_DIGEST ^ place).next_u64();
        Rng::new(digest ^ name.sent).next_u64()
    }

    fn answer_digest(&self, name: &Name, connection: u32) -> u64 {
        Rng::new(self.digest(name) ^ SALT_ANSWER ^ u64::from(connection)).next_u64()
    }

    fn mask(&self, check: u32) -> [u8; 16] {
        let mut rng = Rng::new(self.seed ^ SALT_MASK ^ u64::from(check) << 32);
        let words = [rng.next_u64().to_be_bytes(), rng.next_u64().to_be_bytes()];
        let bytes = words.as_flattened();
        std::array::from_fn(|at| bytes[at])
    }
}

/// What of a digest an `offer_id` has in the open.
fn check(digest: u64) -> u32 {
    u32::try_from(digest >> 32).expect("32 of 64 bits")
}

impl Text {
    /// A description of a data channel as browsers make it, with candidates until it is `bytes`
    /// long.
    fn new(kind: &str, bytes: usize) -> Self {
        let lines =
            |lines: &[&str]| -> String { lines.iter().flat_map(|line| [line, r"\r\n"]).collect() };
        let head = lines(&[
            "v=0",
            "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
            "s=-",
            "t=0 0",
            "a=group:BUNDLE 0",
            "a=extmap-allow-mixed",
            "a=msid-semantic: WMS",
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "c=IN IP4 0.0.0.0",
            "a=ice-ufrag:4hGq",
        ]);
        let before = format!(r#"{{"type":"{kind}","sdp":"{head}a=ice-pwd:"#);
        let fingerprint = format!("a=fingerprint:sha-256 5F{}", ":A5".repeat(31));
        let mut after = lines(&[
            "",
            "a=ice-options:trickle",
            &fingerprint,
            if kind == "offer" { "a=setup:actpass" } else { "a=setup:active" },
            "a=mid:0",
            "a=sctp-port:5000",
            "a=max-message-size:262144",
        ]);
        let candidate =
            lines(&["a=candidate:1467250027 1 udp 2122260223 127.0.0.1 56143 typ host"]);
        let tail = r#""}"#;
        let room = bytes.saturating_sub(before.len() + 16 + after.len() + tail.len());
        after.push_str(&candidate.repeat(room / candidate.len()));
        // The rest of the room is an attribute that nobody knows.
        let (open, close) = ("a=x-", r"\r\n");
        let filler = room % candidate.len();
        if filler > open.len() + close.len() {
            after.push_str(open);
            after.push_str(&"x".repeat(filler - open.len() - close.len()));
            after.push_str(close);
        }
        after.push_str(tail);
        Self { before, after }
    }

    fn write(&self, out: &mut Vec<u8>, digest: u64) {
        out.extend_from_slice(self.before.as_bytes());
        out.extend_from_slice(&digits(digest));
        out.extend_from_slice(self.after.as_bytes());
    }

    fn is(&self, body: &str, digest: u64, rigour: Rigour) -> bool {
        let rest = body.as_bytes().strip_prefix(self.before.as_bytes());
        let rest = rest.and_then(|rest| rest.strip_prefix(&digits(digest)));
        if rest == Some(self.after.as_bytes()) {
            return true;
        }
        rigour == Rigour::Lenient && {
            let mut own = Vec::new();
            self.write(&mut own, digest);
            let value = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
            value(body.as_bytes()) == value(&own)
        }
    }
}

fn digits(digest: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = digest.to_be_bytes();
    std::array::from_fn(|at| {
        let byte = bytes[at / 2];
        DIGITS[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })]
    })
}

/// Bytes of an offer's name and frame beside its text, at the most.
const BESIDE_BYTES: usize = 256;
const _: () = assert!(
    WEB_OFFERS_MAX * (crate::limits::LOAD_SDP_BYTES_MAX as usize + BESIDE_BYTES) + 1_024
        <= crate::limits::WEB_MESSAGE_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOAD_SDP_BYTES_MAX, LOAD_SDP_BYTES_MIN};

    const NAME: Name = Name { peer: 77, number: 3, sent: 123_456_789_012 };

    fn characters(bytes: &[u8]) -> String {
        bytes.iter().copied().map(char::from).collect()
    }

    #[test]
    fn an_offer_id_says_which_offer_it_is() {
        let script = Script::new(5, 1_500);
        let id = script.offer_id(&NAME);
        assert_eq!(script.name(&characters(&id)), Some(NAME));
        for at in 0..20 {
            let mut other = id;
            other[at] ^= 1;
            assert_eq!(script.name(&characters(&other)), None, "{at}");
        }
        assert_eq!(Script::new(6, 1_500).name(&characters(&id)), None);
        assert_eq!(script.name(&characters(&id[..19])), None);
        assert_eq!(script.name(&format!("{}x", characters(&id))), None);
        assert_eq!(script.name("\u{100}"), None);
    }

    #[test]
    fn texts_have_the_size_that_is_asked_for_and_are_sdp_in_json() {
        for bytes in [LOAD_SDP_BYTES_MIN, 1_000, 1_499, 1_500, 1_501, LOAD_SDP_BYTES_MAX] {
            let script = Script::new(1, bytes);
            for (kind, out) in [("offer", false), ("answer", true)].map(|(kind, is_answer)| {
                let mut out = Vec::new();
                if is_answer {
                    script.write_answer(&mut out, &NAME, 9);
                } else {
                    script.write_offer(&mut out, &NAME);
                }
                (kind, out)
            }) {
                let value: Value = serde_json::from_slice(&out).expect("JSON");
                assert_eq!(value["type"], kind);
                let sdp = value["sdp"].as_str().expect("a string");
                assert!(sdp.starts_with("v=0\r\no=- ") && sdp.ends_with("\r\n"), "{sdp}");
                assert!(sdp.lines().all(|line| line.as_bytes()[1] == b'='), "{sdp}");
                let missing = usize::from(bytes) - out.len();
                assert!(missing <= 8, "{bytes}: {missing}");
            }
        }
    }

    #[test]
    fn only_the_very_text_is_the_offer() {
        let script = Script::new(1, 1_500);
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let offer = text(&|out| script.write_offer(out, &NAME));
        let answer = text(&|out| script.write_answer(out, &NAME, 9));
        let (strict, lenient) = (Rigour::Strict, Rigour::Lenient);
        assert!(script.is_offer(&offer, &NAME, strict));
        assert!(script.is_answer(&answer, &NAME, 9, strict));
        assert!(!script.is_answer(&answer, &NAME, 8, lenient));
        let other = Name { number: 4, ..NAME };
        assert!(!script.is_offer(&offer, &other, lenient));
        // The same value in other bytes.
        let spaced = offer.replace(r#","sdp""#, r#", "sdp""#);
        assert!(!script.is_offer(&spaced, &NAME, strict));
        assert!(script.is_offer(&spaced, &NAME, lenient));
        assert!(!script.is_offer(&offer.replace("v=0", "v=1"), &NAME, lenient));
    }
}
