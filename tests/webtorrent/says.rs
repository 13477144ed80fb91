//! What WebSocket clients say, and what they are told that goes wrong.

use serde_json::{Value as Json, json};
use throng::wire::id::{InfoHash, PeerId};

use super::support::latin1;

/// Seconds that a silent WebSocket peer stays: three intervals.
pub const WEB_TTL: u32 = 360;
pub const NO_SUCH_OFFER: &str = "no such offer waits for this answer";
pub const BUSY: &str = "the tracker is busy, try again later";

pub fn peer(n: u8) -> PeerId {
    let mut id = *b"-WW0200-\xff\x00\"\\abcdefgh";
    id[19] = n;
    PeerId(id)
}

/// What a client says about itself in a swarm.
#[derive(Clone, Debug)]
pub struct Says {
    pub hash: InfoHash,
    pub peer: PeerId,
    pub left: u64,
    pub event: &'static str,
    pub offers: Vec<String>,
}

/// A leecher's regular announce without offers.
pub fn says(hash: InfoHash, peer: PeerId) -> Says {
    Says { hash, peer, left: 1_000, event: "", offers: Vec::new() }
}

impl Says {
    pub fn seeder(self) -> Self {
        self.left(0)
    }

    pub fn left(self, left: u64) -> Self {
        Self { left, ..self }
    }

    pub fn event(self, event: &'static str) -> Self {
        Self { event, ..self }
    }

    /// With offers of these names.
    pub fn offers<S: ToString>(self, ids: impl IntoIterator<Item = S>) -> Self {
        Self { offers: ids.into_iter().map(|id| id.to_string()).collect(), ..self }
    }

    pub fn text(&self) -> String {
        let offer = |id: &String| json!({"offer": offer_of(id), "offer_id": id});
        let mut object = json!({
            "action": "announce",
            "info_hash": latin1(&self.hash.0),
            "peer_id": latin1(&self.peer.0),
            "numwant": self.offers.len(),
            "uploaded": 0,
            "downloaded": 0,
            "left": self.left,
        });
        if !self.event.is_empty() {
            object["event"] = json!(self.event);
        }
        if !self.offers.is_empty() {
            object["offers"] = self.offers.iter().map(offer).collect();
        }
        object.to_string()
    }
}

/// The offer of that name.
pub fn offer_of(id: &str) -> Json {
    json!({"type": "offer", "sdp": format!("v=0\r\no=- {id} \u{e9}\r\n")})
}

pub fn answer((hash, from, to, id): (InfoHash, PeerId, PeerId, &str)) -> String {
    let answer = json!({
        "action": "announce",
        "info_hash": latin1(&hash.0),
        "peer_id": latin1(&from.0),
        "to_peer_id": latin1(&to.0),
        "answer": {"type": "answer", "sdp": format!("v=0\r\no=- to {id}\r\n")},
        "offer_id": id,
    });
    answer.to_string()
}

pub fn scrape(hashes: &[InfoHash]) -> String {
    let hashes: Vec<String> = hashes.iter().map(|hash| latin1(&hash.0)).collect();
    json!({"action": "scrape", "info_hash": hashes}).to_string()
}

pub fn number(object: &serde_json::Map<String, Json>, key: &str) -> u32 {
    let number = object.get(key).and_then(Json::as_u64);
    let number = number.unwrap_or_else(|| panic!("{key} in {object:?}"));
    u32::try_from(number).expect("numbers here are small")
}
