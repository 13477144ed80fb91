//! Whether an answer is one that this request may get.
//!
//! Pure functions of bytes. A tracker that is fast because it answers wrongly must not look good,
//! so every answer is read in full: its length, its counts, each of its peers.

use crate::wire::addr::Endpoint;
use crate::wire::bencode::Value;
use crate::wire::id::{ConnectionId, InfoHash};
use crate::wire::udp::{CONNECT_REPLY_BYTES, Reply, SCRAPE_ENTRY_BYTES};
use crate::wire::webtorrent::Row;

/// The longest interval of a peer that a tracker may ask for: a day. Who stays connected for longer
/// without an announce has gone.
const INTERVAL_SECONDS_MAX: u64 = 86_400;

/// What can be wrong with an answer, or with the way to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Fault {
    /// The tracker refused: an error reply, a failure reason. Its text is counted too.
    Refused,
    /// Bytes that cannot be read: too short, an unknown action, no correct bencode, a key missing.
    Malformed,
    /// A transaction id that was never given to a request of this socket.
    TransactionId,
    /// The answer to another kind of request.
    Action,
    /// Peers or entries that do not come in whole pieces or not as many as asked, or bytes after
    /// the end.
    Length,
    /// More peers than were asked for.
    TooManyPeers,
    /// The peer was told of itself.
    AskerAmongPeers,
    /// Counts without the asker, or with fewer peers than are in the answer.
    Counts,
    /// An interval of 0, or none; over a WebSocket also one of more than a day.
    Interval,
    /// A scrape's answer has a hash that was not asked for.
    Hash,
    /// An HTTP status other than 200; the status is counted as a text.
    Status,
    /// A head of a response that cannot be read or does not say how long the body is.
    Head,
    /// A second answer to one request, or to one offer.
    Duplicate,
    /// A reply that nothing was asked for.
    Unasked,
    /// Bytes against the rules of WebSocket (RFC 6455).
    Frame,
    /// An offer or an answer that none of our peers made, or not to this one, or not so.
    Relay,
    /// A peer was given its own offer.
    OwnOffer,
    /// A refusal on a connection that has sent answers to offers: most likely that of an answer,
    /// whose offer had waited for too long or was one of too many. Its text is counted too. Not
    /// wrong: the answer counts as lost, and so does a request if it was that.
    AnswerRefused,
    /// An answer to a request that had been given up: slow, not wrong.
    Late,
    /// A connection that failed or was closed before its answer, or a refused datagram; the cause
    /// is counted as a text. Not wrong: nothing was said.
    Connection,
}

impl Fault {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 20] = [
        Self::Refused,
        Self::Malformed,
        Self::TransactionId,
        Self::Action,
        Self::Length,
        Self::TooManyPeers,
        Self::AskerAmongPeers,
        Self::Counts,
        Self::Interval,
        Self::Hash,
        Self::Status,
        Self::Head,
        Self::Duplicate,
        Self::Unasked,
        Self::Frame,
        Self::Relay,
        Self::OwnOffer,
        Self::AnswerRefused,
        Self::Late,
        Self::Connection,
    ];

    /// Its name in the report.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::TransactionId => "wrong_transaction_id",
            Self::Action => "wrong_action",
            Self::Length => "wrong_length",
            Self::TooManyPeers => "too_many_peers",
            Self::AskerAmongPeers => "asker_among_peers",
            Self::Counts => "implausible_counts",
            Self::Interval => "no_interval",
            Self::Hash => "wrong_hash",
            Self::Status => "http_status",
            Self::Head => "http_head",
            Self::Duplicate => "duplicate",
            Self::Unasked => "unasked",
            Self::Frame => "websocket_frame",
            Self::Relay => "wrong_relay",
            Self::OwnOffer => "own_offer",
            Self::AnswerRefused => "answer_refused",
            Self::Late => "late",
            Self::Connection => "connection_error",
        }
    }

    /// Whether the tracker said something wrong.
    #[must_use]
    pub const fn is_wrong(self) -> bool {
        !matches!(self, Self::AnswerRefused | Self::Late | Self::Connection)
    }
}

/// A fault, and its text if there is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wrong<'a> {
    /// What is wrong.
    pub fault: Fault,
    /// In the tracker's words, or empty.
    pub text: &'a [u8],
}

impl From<Fault> for Wrong<'_> {
    fn from(fault: Fault) -> Self {
        Self { fault, text: b"" }
    }
}

/// What a request asked, as far as its answer depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// A `connection_id`.
    Connect,
    /// Peers.
    Announce {
        /// So many at the most.
        num_want: u32,
        /// Not this one.
        own: Endpoint,
    },
    /// The counts of so many swarms.
    Scrape {
        /// As many entries there must be.
        hashes: u32,
    },
}

/// How closely answers are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rigour {
    /// As the protocol and this tracker have it.
    Strict,
    /// Habits of widespread trackers pass: counts that leave the asker out (aquatic), the asker
    /// among its peers (opentracker), a line end behind the dictionary (`aquatic_http`).
    Lenient,
}

/// A right answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// What to use from now on.
    Connected(ConnectionId),
    /// So many peers.
    Peers(u32),
    /// No peers: they come as offers.
    Joined,
    /// The counts of so many swarms.
    Entries(u32),
}

/// Reads a datagram whose transaction id has been found right.
///
/// # Errors
/// The first thing that is wrong.
pub fn udp<'a>(datagram: &'a [u8], asked: &Asked, rigour: Rigour) -> Result<Answer, Wrong<'a>> {
    let reply = Reply::parse(datagram).map_err(|_| Fault::Malformed)?;
    match (reply, asked) {
        (Reply::Error { message, .. }, _) => Err(Wrong { fault: Fault::Refused, text: message }),
        (Reply::Connect { connection_id, .. }, Asked::Connect) => {
            if datagram.len() != CONNECT_REPLY_BYTES {
                return Err(Fault::Length.into());
            }
            Ok(Answer::Connected(connection_id))
        }
        (
            Reply::Announce { interval, leechers, seeders, peers, .. },
            Asked::Announce { num_want, own },
        ) => {
            let given = whole_peers(peers, own.family().endpoint_bytes(), own, rigour)?;
            let counted = u64::from(leechers) + u64::from(seeders);
            announce(given, *num_want, interval.into(), counted, rigour)
        }
        (Reply::Scrape { entries, .. }, Asked::Scrape { hashes }) => {
            if entries.len() != *hashes as usize * SCRAPE_ENTRY_BYTES {
                return Err(Fault::Length.into());
            }
            Ok(Answer::Entries(*hashes))
        }
        _ => Err(Fault::Action.into()),
    }
}

/// Reads the body of an announce's response: a dictionary with compact peers (BEP 23, BEP 7).
///
/// # Errors
/// The first thing that is wrong.
pub fn http_announce<'a>(
    body: &'a [u8],
    num_want: u32,
    own: &Endpoint,
    rigour: Rigour,
) -> Result<Answer, Wrong<'a>> {
    let answer = dictionary(match rigour {
        Rigour::Strict => body,
        Rigour::Lenient => body.strip_suffix(b"\r\n").unwrap_or(body),
    })?;
    let number = |key: &[u8]| answer.get(key).and_then(Value::as_integer);
    let count = |key| number(key).and_then(|count| u64::try_from(count).ok());
    let interval = number(b"interval").and_then(|interval| u64::try_from(interval).ok());
    let (Some(seeders), Some(leechers)) = (count(b"complete"), count(b"incomplete")) else {
        return Err(Fault::Malformed.into());
    };
    let peers = |key: &[u8], bytes: usize| match answer.get(key) {
        None => Ok(0),
        Some(Value::Bytes(peers)) => whole_peers(peers, bytes, own, rigour),
        Some(_) => Err(Fault::Malformed),
    };
    if answer.get(b"peers").is_none() && answer.get(b"peers6").is_none() {
        return Err(Fault::Malformed.into());
    }
    let given = peers(b"peers", 6)? + peers(b"peers6", 18)?;
    announce(given, num_want, interval.unwrap_or(0), seeders.saturating_add(leechers), rigour)
}

/// Reads the body of a scrape's response (BEP 48). A tracker may leave swarms out that it does not
/// know; what it lists must have been asked for.
///
/// # Errors
/// The first thing that is wrong.
pub fn http_scrape<'a>(body: &'a [u8], hashes: &[InfoHash]) -> Result<Answer, Wrong<'a>> {
    let answer = dictionary(body)?;
    let files = answer.get(b"files").and_then(Value::as_dictionary).ok_or(Fault::Malformed)?;
    for (hash, counts) in files {
        if !hashes.iter().any(|asked| asked.0 == **hash) {
            return Err(Fault::Hash.into());
        }
        for key in [&b"complete"[..], b"incomplete", b"downloaded"] {
            let count = counts.get(key).and_then(Value::as_integer).ok_or(Fault::Malformed)?;
            if count < 0 {
                return Err(Fault::Counts.into());
            }
        }
    }
    Ok(Answer::Entries(u32::try_from(files.len()).map_err(|_| Fault::Hash)?))
}

/// Reads the reply to an announce over a WebSocket: the counts of the swarm, with the asker, and an
/// interval.
///
/// # Errors
/// The first thing that is wrong.
pub fn web_announce(
    (seeders, leechers): (u64, u64),
    interval_secs: u64,
    seeder: bool,
    rigour: Rigour,
) -> Result<Answer, Fault> {
    let own_kind = if seeder { seeders } else { leechers };
    if own_kind == 0 && rigour == Rigour::Strict {
        return Err(Fault::Counts);
    }
    if !(1..=INTERVAL_SECONDS_MAX).contains(&interval_secs) {
        return Err(Fault::Interval);
    }
    Ok(Answer::Joined)
}

/// Reads the reply to a scrape over a WebSocket. As over HTTP a tracker may leave swarms out.
///
/// # Errors
/// [`Fault::Hash`].
pub fn web_scrape(files: &[(InfoHash, Row)], hashes: &[InfoHash]) -> Result<Answer, Fault> {
    if !files.iter().all(|(hash, _)| hashes.contains(hash)) {
        return Err(Fault::Hash);
    }
    Ok(Answer::Entries(u32::try_from(files.len()).map_err(|_| Fault::Hash)?))
}

/// A dictionary that is no failure.
fn dictionary(body: &[u8]) -> Result<Value<'_>, Wrong<'_>> {
    let answer = Value::parse(body).map_err(|_| Fault::Malformed)?;
    match answer.get(b"failure reason") {
        Some(Value::Bytes(text)) => Err(Wrong { fault: Fault::Refused, text }),
        Some(_) => Err(Fault::Malformed.into()),
        None if answer.as_dictionary().is_none() => Err(Fault::Malformed.into()),
        None => Ok(answer),
    }
}

/// What announces of both transports have in common.
fn announce<'a>(
    given: u32,
    num_want: u32,
    interval: u64,
    counted: u64,
    rigour: Rigour,
) -> Result<Answer, Wrong<'a>> {
    if given > num_want {
        return Err(Fault::TooManyPeers.into());
    }
    // The asker is counted and not given.
    let least = u64::from(given) + u64::from(rigour == Rigour::Strict);
    if counted < least {
        return Err(Fault::Counts.into());
    }
    if interval == 0 {
        return Err(Fault::Interval.into());
    }
    Ok(Answer::Peers(given))
}

/// How many peers of `bytes` each there are, the asker not among them.
fn whole_peers(peers: &[u8], bytes: usize, own: &Endpoint, rigour: Rigour) -> Result<u32, Fault> {
    let chunks = peers.chunks_exact(bytes);
    if !chunks.remainder().is_empty() {
        return Err(Fault::Length);
    }
    let count = chunks.len();
    let own = own.as_bytes();
    if rigour == Rigour::Strict && chunks.into_iter().any(|peer| peer == own) {
        return Err(Fault::AskerAmongPeers);
    }
    u32::try_from(count).map_err(|_| Fault::TooManyPeers)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    fn own() -> Endpoint {
        Endpoint::new(IpAddr::from([127, 0, 1, 1]), 30_000)
    }

    fn asked(num_want: u32) -> Asked {
        Asked::Announce { num_want, own: own() }
    }

    /// Action 1, transaction 7, then interval, leechers, seeders and peers.
    fn announce_reply(interval: u32, leechers: u32, seeders: u32, peers: &[u8]) -> Vec<u8> {
        let words = [1, 7, interval, leechers, seeders].map(u32::to_be_bytes);
        [words.as_flattened(), peers].concat()
    }

    fn fault(datagram: &[u8], asked: &Asked) -> Option<Fault> {
        udp(datagram, asked, Rigour::Strict).err().map(|wrong| wrong.fault)
    }

    #[test]
    fn all_lists_every_variant_at_its_own_index_and_labels_differ() {
        let (_, body) = include_str!("verify.rs").split_once("pub enum Fault {").expect("it");
        let (body, _) = body.split_once("\n}").expect("its end");
        let is_variant = |line: &&str| line.trim_start().starts_with(|c: char| c.is_uppercase());
        assert_eq!(body.lines().filter(is_variant).count(), Fault::ALL.len());
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
            let same = Fault::ALL.iter().filter(|other| other.label() == fault.label()).count();
            assert_eq!(same, 1);
        }
    }

    #[test]
    fn right_datagrams_are_right() {
        let connect = [&[0, 0, 0, 0, 0, 0, 0, 7][..], &[9; 8]].concat();
        let connected = Answer::Connected(ConnectionId([9; 8]));
        assert_eq!(udp(&connect, &Asked::Connect, Rigour::Strict), Ok(connected));
        let announce = announce_reply(1_800, 2, 1, &[1; 12]);
        assert_eq!(udp(&announce, &asked(2), Rigour::Strict), Ok(Answer::Peers(2)));
        let scrape = [&[0, 0, 0, 2, 0, 0, 0, 7][..], &[0; 24]].concat();
        let entries = udp(&scrape, &Asked::Scrape { hashes: 2 }, Rigour::Strict);
        assert_eq!(entries, Ok(Answer::Entries(2)));
        let v6 = Endpoint::new(Ipv6Addr::LOCALHOST.into(), 30_000);
        let announce = announce_reply(1, 3, 0, &[1; 36]);
        let asked = Asked::Announce { num_want: 2, own: v6 };
        assert_eq!(udp(&announce, &asked, Rigour::Strict), Ok(Answer::Peers(2)));
    }

    #[test]
    fn each_wrong_datagram_has_its_fault() {
        let two = [1; 12];
        let cases = [
            (announce_reply(1_800, 2, 1, &two[..11]), asked(2), Fault::Length),
            (announce_reply(1_800, 2, 1, &two), asked(1), Fault::TooManyPeers),
            (announce_reply(1_800, 2, 1, own().as_bytes()), asked(1), Fault::AskerAmongPeers),
            (announce_reply(1_800, 0, 0, &[]), asked(1), Fault::Counts),
            (announce_reply(1_800, 1, 1, &two), asked(2), Fault::Counts),
            (announce_reply(0, 2, 1, &two), asked(2), Fault::Interval),
            (announce_reply(1_800, 2, 1, &two), Asked::Connect, Fault::Action),
            (vec![0, 0, 0, 1, 0, 0, 0, 7], asked(2), Fault::Malformed),
            (vec![0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 0], asked(2), Fault::Malformed),
            (vec![0, 0, 0], asked(2), Fault::Malformed),
            ([&[0, 0, 0, 0, 0, 0, 0, 7][..], &[9; 9]].concat(), Asked::Connect, Fault::Length),
            (
                [&[0, 0, 0, 2, 0, 0, 0, 7][..], &[0; 23]].concat(),
                Asked::Scrape { hashes: 2 },
                Fault::Length,
            ),
            (
                [&[0, 0, 0, 2, 0, 0, 0, 7][..], &[0; 12]].concat(),
                Asked::Scrape { hashes: 2 },
                Fault::Length,
            ),
        ];
        for (datagram, asked, expected) in cases {
            assert_eq!(fault(&datagram, &asked), Some(expected), "{datagram:?}");
        }
        let error = b"\0\0\0\x03\0\0\0\x07no";
        let wrong = udp(error, &asked(2), Rigour::Strict).expect_err("an error reply");
        assert_eq!(wrong, Wrong { fault: Fault::Refused, text: b"no" });
    }

    #[test]
    fn bodies_of_announces() {
        let right = "d8:completei1e10:incompletei3e8:intervali1800e";
        let check = |text: &str, num_want| {
            let body = text.as_bytes();
            let answer = http_announce(body, num_want, &own(), Rigour::Strict);
            answer.map_err(|wrong| (wrong.fault, String::from_utf8_lossy(wrong.text).into_owned()))
        };
        let fault = |fault| Err((fault, String::new()));
        assert_eq!(check(&format!("{right}5:peers12:abcdefghijkle"), 2), Ok(Answer::Peers(2)));
        let both = format!("{right}5:peers6:abcdef6:peers618:abcdefghijklmnopqre");
        assert_eq!(check(&both, 2), Ok(Answer::Peers(2)));
        assert_eq!(check(&both, 1), fault(Fault::TooManyPeers));
        assert_eq!(check(&format!("{right}e"), 2), fault(Fault::Malformed));
        assert_eq!(check(&format!("{right}5:peersi1ee"), 2), fault(Fault::Malformed));
        assert_eq!(check(&format!("{right}5:peers5:abcdee"), 2), fault(Fault::Length));
        assert_eq!(check(&format!("{right}6:peers65:abcdee"), 2), fault(Fault::Length));
        assert_eq!(check(&format!("{right}5:peers0:e "), 2), fault(Fault::Malformed));
        assert_eq!(check("", 2), fault(Fault::Malformed));
        assert_eq!(check("i1e", 2), fault(Fault::Malformed));
        assert_eq!(check("d5:peers0:e", 2), fault(Fault::Malformed));
        let empty = "d8:completei0e10:incompletei0e8:intervali1800e5:peers0:e";
        assert_eq!(check(empty, 2), fault(Fault::Counts));
        let negative = "d8:completei-1e10:incompletei5e8:intervali1800e5:peers0:e";
        assert_eq!(check(negative, 2), fault(Fault::Malformed));
        for interval in ["i0e", "i-5e", "1:x"] {
            let text = format!("d8:completei1e10:incompletei0e8:interval{interval}5:peers0:e");
            assert_eq!(check(&text, 2), fault(Fault::Interval), "{interval}");
        }
        let refused = check("d14:failure reason4:busye", 2);
        assert_eq!(refused, Err((Fault::Refused, "busy".to_owned())));
        let mut itself = right.as_bytes().to_vec();
        itself.extend_from_slice(b"5:peers6:");
        itself.extend_from_slice(own().as_bytes());
        itself.push(b'e');
        let read = |rigour| http_announce(&itself, 2, &own(), rigour).map_err(|wrong| wrong.fault);
        assert_eq!(read(Rigour::Strict), Err(Fault::AskerAmongPeers));
        assert_eq!(read(Rigour::Lenient), Ok(Answer::Peers(1)));
    }

    #[test]
    fn habits_of_other_trackers_are_permitted_on_demand_and_nothing_else() {
        let itself = own();
        let lenient = |datagram: &[u8]| {
            udp(datagram, &asked(2), Rigour::Lenient).map_err(|wrong| wrong.fault)
        };
        // The asker alone: not counted, or counted and given.
        for (datagram, given) in [
            (announce_reply(1_800, 0, 0, &[]), 0),
            (announce_reply(1_800, 1, 0, itself.as_bytes()), 1),
            (announce_reply(1_800, 1, 1, &[1; 12]), 2),
        ] {
            assert!(fault(&datagram, &asked(2)).is_some(), "{datagram:?}");
            assert_eq!(lenient(&datagram), Ok(Answer::Peers(given)), "{datagram:?}");
        }
        assert_eq!(lenient(&announce_reply(1_800, 1, 0, &[1; 12])), Err(Fault::Counts));
        assert_eq!(lenient(&announce_reply(0, 1, 1, &[1; 12])), Err(Fault::Interval));

        let body = |end: &str, rigour| {
            let text = format!("d8:completei1e10:incompletei3e8:intervali1800e5:peers0:e{end}");
            http_announce(text.as_bytes(), 2, &own(), rigour).map_err(|wrong| wrong.fault)
        };
        assert_eq!(body("\r\n", Rigour::Strict), Err(Fault::Malformed));
        assert_eq!(body("\r\n", Rigour::Lenient), Ok(Answer::Peers(0)));
        assert_eq!(body("\r\n\r\n", Rigour::Lenient), Err(Fault::Malformed));
        assert_eq!(body("", Rigour::Lenient), Ok(Answer::Peers(0)));
    }

    #[test]
    fn bodies_of_scrapes() {
        let asked = [InfoHash(*b"abcdefghijklmnopqrst"), InfoHash(*b"bbbbbbbbbbbbbbbbbbbb")];
        let counts = "d8:completei1e10:downloadedi2e10:incompletei3ee";
        let check = |text: &str| http_scrape(text.as_bytes(), &asked).map_err(|wrong| wrong.fault);
        let both =
            format!("d5:filesd20:abcdefghijklmnopqrst{counts}20:bbbbbbbbbbbbbbbbbbbb{counts}ee");
        assert_eq!(check(&both), Ok(Answer::Entries(2)));
        assert_eq!(check("d5:filesdee"), Ok(Answer::Entries(0)));
        let other = format!("d5:filesd20:cccccccccccccccccccc{counts}ee");
        assert_eq!(check(&other), Err(Fault::Hash));
        let negative = counts.replace("i3e", "i-3e");
        let negative = format!("d5:filesd20:abcdefghijklmnopqrst{negative}ee");
        assert_eq!(check(&negative), Err(Fault::Counts));
        assert_eq!(check("d5:filesd20:abcdefghijklmnopqrstdeee"), Err(Fault::Malformed));
        assert_eq!(check("d5:filesi1ee"), Err(Fault::Malformed));
        assert_eq!(check("d14:failure reason2:noe"), Err(Fault::Refused));
    }
}
