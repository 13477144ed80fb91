//! The client's half, for the load generator and the tests: what a client says is written, what a
//! tracker says is read.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::request::{binary, object_text, offer_id, string};
use super::write::{Row, write_binary};
use super::{Answer, OfferId};
use crate::wire::announce::{Announce, Event, Left};
use crate::wire::bencode::write_decimal;
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

/// Appends an announce with offers: a JSON object, and a JSON string, each. As many peers are asked
/// for; the port and the key stay unsaid.
pub fn write_announce_request(out: &mut Vec<u8>, announce: &Announce, offers: &[(&[u8], &[u8])]) {
    begin_announce(out, &announce.info_hash, &announce.peer_id);
    out.extend_from_slice(br#","numwant":"#);
    write_decimal(out, offers.len() as u64);
    out.extend_from_slice(br#","uploaded":"#);
    write_decimal(out, announce.uploaded);
    out.extend_from_slice(br#","downloaded":"#);
    write_decimal(out, announce.downloaded);
    if let Left::Bytes(left) = announce.left {
        out.extend_from_slice(br#","left":"#);
        write_decimal(out, left);
    }
    out.extend_from_slice(match announce.event {
        Event::None => b"",
        Event::Completed => br#","event":"completed""#,
        Event::Started => br#","event":"started""#,
        Event::Stopped => br#","event":"stopped""#,
        Event::Paused => br#","event":"paused""#,
    });
    out.extend_from_slice(br#","offers":["#);
    for (index, (offer, offer_id)) in offers.iter().enumerate() {
        out.extend_from_slice(if index == 0 { br#"{"offer":"# } else { br#",{"offer":"# });
        out.extend_from_slice(offer);
        out.extend_from_slice(br#","offer_id":"#);
        out.extend_from_slice(offer_id);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// Appends an answer. Of its `offer_id` the literal counts.
pub fn write_answer_request(out: &mut Vec<u8>, answer: &Answer<'_>) {
    begin_announce(out, &answer.info_hash, &answer.peer_id);
    out.extend_from_slice(br#","to_peer_id":"#);
    write_binary(out, &answer.to_peer_id.0);
    out.extend_from_slice(br#","answer":"#);
    out.extend_from_slice(answer.answer.as_bytes());
    out.extend_from_slice(br#","offer_id":"#);
    out.extend_from_slice(answer.offer_id.literal.as_bytes());
    out.push(b'}');
}

/// Appends a scrape of `hashes`.
pub fn write_scrape_request(out: &mut Vec<u8>, hashes: &[InfoHash]) {
    out.extend_from_slice(br#"{"action":"scrape","info_hash":["#);
    for (index, hash) in hashes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_binary(out, &hash.0);
    }
    out.extend_from_slice(b"]}");
}

/// Appends an `offer_id` of 20 bytes, as clients have them.
pub fn write_offer_id(out: &mut Vec<u8>, offer_id: &[u8; 20]) {
    write_binary(out, offer_id);
}

fn begin_announce(out: &mut Vec<u8>, info_hash: &InfoHash, peer_id: &PeerId) {
    out.extend_from_slice(br#"{"action":"announce","info_hash":"#);
    write_binary(out, &info_hash.0);
    out.extend_from_slice(br#","peer_id":"#);
    write_binary(out, &peer_id.0);
}

/// What a tracker says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TrackerMessage<'a> {
    /// To an announce.
    Announced {
        /// The swarm.
        info_hash: InfoHash,
        /// Peers in it that need nothing more.
        seeders: u64,
        /// Peers in it that still need something.
        leechers: u64,
        /// Seconds until the next announce; 0 if there is none.
        interval_secs: u64,
    },
    /// Another peer's offer.
    Offer(Relayed<'a>),
    /// The answer to an offer.
    Answer(Relayed<'a>),
    /// To a scrape: each swarm and its counts.
    Scraped(Vec<(InfoHash, Row)>),
    /// A refusal, in the tracker's words.
    Failure(Cow<'a, str>),
}

/// What a peer says to another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relayed<'a> {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Who says it.
    pub peer_id: PeerId,
    /// By which the offerer knows the offer.
    pub offer_id: OfferId<'a>,
    /// The JSON object as it came.
    pub body: &'a str,
}

/// The object as it comes. A value of `null` is as good as missing.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    info_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    offer: Option<&'a RawValue>,
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
    complete: Option<u64>,
    incomplete: Option<u64>,
    interval: Option<u64>,
    #[serde(borrow)]
    files: Option<&'a RawValue>,
    #[serde(borrow, rename = "failure reason")]
    failure: Option<&'a RawValue>,
}

impl<'a> TrackerMessage<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// What is missing or wrong in it.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        // A list of the values, without keys, would do for `serde`.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(ParseError::BadJson);
        }
        let object: Object<'a> = serde_json::from_str(text).map_err(|_| ParseError::BadJson)?;
        if let Some(reason) = object.failure {
            return string(reason).map(Self::Failure).ok_or(ParseError::BadJson);
        }
        let action = object.action.and_then(string).ok_or(ParseError::BadAction)?;
        match action.as_ref() {
            "announce" if object.offer.is_some() => object.relayed(object.offer).map(Self::Offer),
            "announce" if object.answer.is_some() => {
                object.relayed(object.answer).map(Self::Answer)
            }
            "announce" => object.announced(),
            "scrape" => object.scraped().map(Self::Scraped).ok_or(ParseError::BadInfoHash),
            _ => Err(ParseError::BadAction),
        }
    }
}

impl<'a> Object<'a> {
    fn announced(&self) -> Result<TrackerMessage<'a>, ParseError> {
        let (Some(seeders), Some(leechers)) = (self.complete, self.incomplete) else {
            return Err(ParseError::BadJson);
        };
        Ok(TrackerMessage::Announced {
            info_hash: self.info_hash()?,
            seeders,
            leechers,
            interval_secs: self.interval.unwrap_or(0),
        })
    }

    fn relayed(&self, body: Option<&'a RawValue>) -> Result<Relayed<'a>, ParseError> {
        Ok(Relayed {
            info_hash: self.info_hash()?,
            peer_id: PeerId(binary(self.peer_id).ok_or(ParseError::BadPeerId)?),
            offer_id: offer_id(self.offer_id)?,
            body: object_text(body)?,
        })
    }

    fn info_hash(&self) -> Result<InfoHash, ParseError> {
        let raw = self.info_hash.ok_or(ParseError::MissingInfoHash)?;
        binary(Some(raw)).map(InfoHash).ok_or(ParseError::BadInfoHash)
    }

    fn scraped(&self) -> Option<Vec<(InfoHash, Row)>> {
        serde_json::Deserializer::from_str(self.files?.get()).deserialize_map(Files).ok()
    }
}

/// The counts of one swarm as they come.
#[derive(Deserialize)]
struct Counts {
    complete: u32,
    incomplete: u32,
    #[serde(default)]
    downloaded: u32,
}

/// Reads an object whose keys are hashes.
struct Files;

impl<'de> Visitor<'de> for Files {
    type Value = Vec<(InfoHash, Row)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of hashes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut files = Vec::new();
        while let Some(hash) = map.next_key_seed(Key)? {
            let Counts { complete, incomplete, downloaded } = map.next_value()?;
            let row = Row { seeders: complete, leechers: incomplete, completed: downloaded };
            files.push((hash, row));
        }
        Ok(files)
    }
}

/// Reads a key of 20 characters.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = InfoHash;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InfoHash, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        let hash = bytes.and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
        hash.map(InfoHash).ok_or_else(|| D::Error::custom("no hash"))
    }
}
