//! What a client says.
//!
//! One pass by `serde_json` over the object, which keeps the text of each value, then one over each
//! value that matters. A key that comes twice is refused, since two readers could take different
//! ones; unknown keys are skipped. A value of the wrong type is as good as missing where that is
//! harmless (`left`, `event`), and an error where it is not.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{
    HTTP_SCRAPE_HASHES_MAX, WEB_DEPTH_MAX, WEB_OFFER_ID_CHARS_MAX, WEB_OFFERS_MAX,
};
use crate::wire::announce::{Event, Left};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

/// What a client wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request<'a> {
    /// To join, stay in or leave a swarm, and perhaps to have offers passed on.
    Announce(WebAnnounce<'a>),
    /// To have an answer brought to the peer whose offer it got.
    Answer(Answer<'a>),
    /// The counts of swarms, of [`HTTP_SCRAPE_HASHES_MAX`] at the most; of none: a full scrape.
    Scrape(Vec<InfoHash>),
}

/// A peer's report about itself in one swarm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WebAnnounce<'a> {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The client's own name for itself.
    pub peer_id: PeerId,
    /// What it still needs.
    pub left: Left,
    /// What has just happened.
    pub event: Event,
    /// For other peers: the first for one of them, the second for another. At the most
    /// [`WEB_OFFERS_MAX`]; further ones are not looked at.
    pub offers: Vec<Offer<'a>>,
}

/// A WebRTC offer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer<'a> {
    /// The JSON object as it came.
    pub offer: &'a str,
    /// By which the offerer will know the answer.
    pub offer_id: OfferId<'a>,
}

/// A WebRTC answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer<'a> {
    /// The swarm in which the offer was made.
    pub info_hash: InfoHash,
    /// Who answers.
    pub peer_id: PeerId,
    /// Who made the offer.
    pub to_peer_id: PeerId,
    /// Which offer is answered.
    pub offer_id: OfferId<'a>,
    /// The JSON object as it came.
    pub answer: &'a str,
}

/// What an offerer calls its offer: 1 to 64 characters that mean nothing to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OfferId<'a> {
    /// The JSON string as it came, quotes included.
    pub literal: &'a str,
    /// The characters that it stands for: others may write the same ones in another way.
    pub text: Cow<'a, str>,
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
    to_peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    left: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    offers: Option<&'a RawValue>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
}

/// An offer as it comes.
#[derive(Deserialize)]
struct OfferObject<'a> {
    #[serde(borrow)]
    offer: Option<&'a RawValue>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// Why it is none: [`ParseError::BadJson`], [`ParseError::BadAction`], or the first field that
    /// is missing or wrong.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        // A parser written by someone else may be recursive somewhere; so may a client's.
        let is_deep = is_deeper(text.as_bytes(), WEB_DEPTH_MAX);
        // A list of the values, without keys, would do for `serde`.
        if is_deep || !text.trim_ascii_start().starts_with('{') {
            return Err(ParseError::BadJson);
        }
        let object: Object<'a> = serde_json::from_str(text).map_err(|_| ParseError::BadJson)?;
        let action = object.action.and_then(string).ok_or(ParseError::BadAction)?;
        match action.as_ref() {
            "announce" if object.answer.is_some() => object.answer().map(Self::Answer),
            "announce" => object.announce().map(Self::Announce),
            "scrape" => object.scrape().map(Self::Scrape),
            _ => Err(ParseError::BadAction),
        }
    }
}

impl<'a> Object<'a> {
    fn announce(&self) -> Result<WebAnnounce<'a>, ParseError> {
        let event = self.event.and_then(string);
        Ok(WebAnnounce {
            info_hash: self.info_hash()?,
            peer_id: PeerId(binary(self.peer_id).ok_or(ParseError::BadPeerId)?),
            left: left(self.left),
            event: event.map_or(Event::None, |word| Event::from_http(word.as_bytes())),
            offers: offers(self.offers)?,
        })
    }

    fn answer(&self) -> Result<Answer<'a>, ParseError> {
        Ok(Answer {
            info_hash: self.info_hash()?,
            peer_id: PeerId(binary(self.peer_id).ok_or(ParseError::BadPeerId)?),
            to_peer_id: PeerId(binary(self.to_peer_id).ok_or(ParseError::BadOffer)?),
            offer_id: offer_id(self.offer_id)?,
            answer: object_text(self.answer)?,
        })
    }

    fn scrape(&self) -> Result<Vec<InfoHash>, ParseError> {
        let Some(raw) = self.info_hash else { return Ok(Vec::new()) };
        if raw.get().starts_with('"') {
            return Ok(vec![self.info_hash()?]);
        }
        let mut hashes = Vec::new();
        each(raw, HTTP_SCRAPE_HASHES_MAX, &mut |raw: &'a RawValue| {
            hashes.push(InfoHash(binary(Some(raw)).ok_or(ParseError::BadInfoHash)?));
            Ok(())
        })
        .unwrap_or(Err(ParseError::BadInfoHash))?;
        Ok(hashes)
    }

    fn info_hash(&self) -> Result<InfoHash, ParseError> {
        let raw = self.info_hash.ok_or(ParseError::MissingInfoHash)?;
        binary(Some(raw)).map(InfoHash).ok_or(ParseError::BadInfoHash)
    }
}

/// The text that a JSON string stands for.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Cow<'de, str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(text))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Cow::Owned(text.to_owned()))
        }
    }
    serde_json::Deserializer::from_str(raw.get()).deserialize_str(Text).ok()
}

/// The 20 bytes that a string of 20 characters up to U+00FF stands for.
pub(super) fn binary(raw: Option<&RawValue>) -> Option<[u8; 20]> {
    struct Binary;
    impl Visitor<'_> for Binary {
        type Value = [u8; 20];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("20 characters up to U+00FF")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let mut bytes = [0; 20];
            let mut characters = text.chars();
            for byte in &mut bytes {
                let character = characters.next().ok_or_else(|| E::custom("too short"))?;
                *byte = u8::try_from(character).map_err(|_| E::custom("beyond U+00FF"))?;
            }
            match characters.next() {
                None => Ok(bytes),
                Some(_) => Err(E::custom("too long")),
            }
        }
    }
    serde_json::Deserializer::from_str(raw?.get()).deserialize_str(Binary).ok()
}

/// A number of digits; anything else is unknown, for which `left` makes a leecher.
fn left(raw: Option<&RawValue>) -> Left {
    let digits = raw.map(|raw| raw.get().trim_matches('"')).unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(bytes) if is_number => Left::Bytes(bytes),
        _ => Left::Unknown,
    }
}

fn offers(raw: Option<&RawValue>) -> Result<Vec<Offer<'_>>, ParseError> {
    let mut offers = Vec::new();
    let Some(raw) = raw else { return Ok(offers) };
    each(raw, WEB_OFFERS_MAX, &mut |raw| {
        let text = object_text(Some(raw))?;
        let object: OfferObject<'_> =
            serde_json::from_str(text).map_err(|_| ParseError::BadOffer)?;
        let (offer, offer_id) = (object_text(object.offer)?, offer_id(object.offer_id)?);
        offers.push(Offer { offer, offer_id });
        Ok(())
    })
    .unwrap_or(Err(ParseError::BadOffer))?;
    Ok(offers)
}

pub(super) fn offer_id(raw: Option<&RawValue>) -> Result<OfferId<'_>, ParseError> {
    let raw = raw.ok_or(ParseError::BadOffer)?;
    let text = string(raw).ok_or(ParseError::BadOffer)?;
    if !(1..=WEB_OFFER_ID_CHARS_MAX).contains(&text.chars().count()) {
        return Err(ParseError::BadOffer);
    }
    Ok(OfferId { literal: raw.get(), text })
}

/// The text of a value that must be an object.
pub(super) fn object_text(raw: Option<&RawValue>) -> Result<&str, ParseError> {
    raw.map(RawValue::get).filter(|text| text.starts_with('{')).ok_or(ParseError::BadOffer)
}

/// Hands out the first `count_max` elements of a list, until one is an error; the rest is skipped.
/// `None` if it is no list.
fn each<'a>(
    raw: &'a RawValue,
    count_max: usize,
    take: &mut dyn FnMut(&'a RawValue) -> Result<(), ParseError>,
) -> Option<Result<(), ParseError>> {
    struct Elements<'t, 'a> {
        count_max: usize,
        take: &'t mut dyn FnMut(&'a RawValue) -> Result<(), ParseError>,
    }
    impl<'a> Visitor<'a> for Elements<'_, 'a> {
        type Value = Result<(), ParseError>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut taken = Ok(());
            for _ in 0..self.count_max {
                match list.next_element::<&'a RawValue>()? {
                    Some(raw) => taken = taken.and_then(|()| (self.take)(raw)),
                    None => return Ok(taken),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(taken)
        }
    }
    impl<'a> DeserializeSeed<'a> for Elements<'_, 'a> {
        type Value = Result<(), ParseError>;

        fn deserialize<D: Deserializer<'a>>(
            self,
            deserializer: D,
        ) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    Elements { count_max, take }.deserialize(&mut deserializer).ok()
}

/// Whether lists and objects in JSON are nested deeper than so many levels; of other bytes,
/// anything.
///
/// It looks no further than to the first that is. Strings, which are nearly all of a message, are
/// skipped by vector instructions.
#[must_use]
pub fn is_deeper(text: &[u8], levels: usize) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(found) = memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
                    at += found + 1;
                    if text[at - 1] == b'"' {
                        break;
                    }
                    // Whatever is escaped does not end the string.
                    at += 1;
                }
            }
            _ => {}
        }
    }
    false
}
