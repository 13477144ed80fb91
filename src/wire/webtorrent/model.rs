//! A second reading of WebTorrent's messages, by way of a whole tree.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::limits::{HTTP_SCRAPE_HASHES_MAX, WEB_DEPTH_MAX, WEB_OFFERS_MAX};
use crate::wire::announce::{Event, Left};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

/// The request as the slow and obvious reader has it: a tree of everything, looked through.
///
/// It knows fewer errors: which of several comes first is not its business.
fn model(text: &str) -> Option<Request<'_>> {
    let tree: Value = serde_json::from_str(text).ok()?;
    let object = tree.as_object()?;
    let get = |key: &str| object.get(key).filter(|value| !value.is_null());
    let name = |key: &str| -> Option<[u8; 20]> { name_of(get(key)?) };
    match get("action")?.as_str()? {
        "announce" if get("answer").is_some() => {
            get("answer")?.as_object()?;
            let id = get("offer_id")?.as_str()?;
            (1..=64).contains(&id.chars().count()).then_some(())?;
            Some(Request::Answer(Answer {
                info_hash: InfoHash(name("info_hash")?),
                peer_id: PeerId(name("peer_id")?),
                to_peer_id: PeerId(name("to_peer_id")?),
                offer_id: OfferId { literal: "", text: id.to_owned().into() },
                answer: "",
            }))
        }
        "announce" => {
            let mut offers = Vec::new();
            if let Some(list) = get("offers") {
                for offer in list.as_array()?.iter().take(WEB_OFFERS_MAX) {
                    offer.as_object()?.get("offer")?.as_object()?;
                    let id = offer.get("offer_id")?.as_str()?;
                    (1..=64).contains(&id.chars().count()).then_some(())?;
                    let offer_id = OfferId { literal: "", text: id.to_owned().into() };
                    offers.push(Offer { offer: "", offer_id });
                }
            }
            let word = get("event").and_then(Value::as_str).unwrap_or_default();
            Some(Request::Announce(WebAnnounce {
                info_hash: InfoHash(name("info_hash")?),
                peer_id: PeerId(name("peer_id")?),
                left: match get("left") {
                    Some(Value::Number(number)) if number.is_u64() => {
                        number.as_u64().map_or(Left::Unknown, Left::Bytes)
                    }
                    Some(Value::String(digits))
                        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) =>
                    {
                        digits.parse().map_or(Left::Unknown, Left::Bytes)
                    }
                    _ => Left::Unknown,
                },
                event: Event::from_http(word.as_bytes()),
                offers,
            }))
        }
        "scrape" => Some(Request::Scrape(match get("info_hash") {
            None => Vec::new(),
            Some(Value::Array(list)) => list
                .iter()
                .take(HTTP_SCRAPE_HASHES_MAX)
                .map(|value| name_of(value).map(InfoHash))
                .collect::<Option<_>>()?,
            Some(value) => vec![InfoHash(name_of(value)?)],
        })),
        _ => None,
    }
}

fn name_of(value: &Value) -> Option<[u8; 20]> {
    let bytes: Option<Vec<u8>> =
        value.as_str()?.chars().map(|character| u8::try_from(character).ok()).collect();
    bytes?.try_into().ok()
}

/// Without the texts as they came, which a tree has not.
fn without_texts(request: Request<'_>) -> Request<'_> {
    match request {
        Request::Announce(mut announce) => {
            for offer in &mut announce.offers {
                (offer.offer, offer.offer_id.literal) = ("", "");
            }
            Request::Announce(announce)
        }
        Request::Answer(mut answer) => {
            (answer.answer, answer.offer_id.literal) = ("", "");
            Request::Answer(answer)
        }
        Request::Scrape(hashes) => Request::Scrape(hashes),
    }
}

/// The keys and values of an object in order, those that come twice too.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Whether a key that matters comes twice in one object.
fn repeats(text: &str) -> bool {
    let is_twice = |pairs: &Pairs, keys: &[&str]| {
        keys.iter().any(|key| pairs.0.iter().filter(|(name, _)| name == key).count() > 1)
    };
    let Ok(object) = serde_json::from_str::<Pairs>(text) else { return false };
    let offers = object.0.iter().find(|(name, _)| name == "offers");
    let offers =
        offers.and_then(|(_, list)| serde_json::from_str::<Vec<Box<RawValue>>>(list.get()).ok());
    let mut offers = offers.into_iter().flatten().take(WEB_OFFERS_MAX);
    is_twice(
        &object,
        &[
            "action",
            "info_hash",
            "peer_id",
            "to_peer_id",
            "left",
            "event",
            "offers",
            "offer_id",
            "answer",
        ],
    ) || offers.any(|offer| {
        serde_json::from_str::<Pairs>(offer.get())
            .is_ok_and(|offer| is_twice(&offer, &["offer", "offer_id"]))
    })
}

/// Reads `bytes`, if they are text, as a message in two ways; the slow one sees no key twice.
///
/// # Panics
/// At the first difference.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = Request::parse(text);
    // What nobody asks for is passed over without being decoded: half a surrogate pair there, or a
    // number beyond all bounds, spoils the tree and not the message.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    if is_json && serde_json::from_str::<Value>(text).is_err() {
        return;
    }
    if is_deeper(text.as_bytes(), WEB_DEPTH_MAX) {
        assert_eq!(read, Err(ParseError::BadJson));
    } else if read.is_err() && repeats(text) {
        // It may be wrong in another way, too, which is found first.
        let is_told = matches!(read, Err(ParseError::BadJson | ParseError::BadOffer));
        assert!(is_told || model(text).is_none(), "{text}");
    } else {
        assert_eq!(read.ok().map(without_texts), model(text), "{text}");
    }
}
