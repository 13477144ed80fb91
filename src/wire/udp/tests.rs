//! Vectors of BEP 15, its corners, and the model.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const ID: ConnectionId = ConnectionId(*b"\x01\x02\x03\x04\x05\x06\x07\x08");
const TRANSACTION: TransactionId = TransactionId(*b"\xde\xad\xbe\xef");

fn announce() -> Announce {
    Announce {
        info_hash: InfoHash(*b"aaaaaaaaaaaaaaaaaaaa"),
        peer_id: PeerId(*b"-qB4650-abcdefghijkl"),
        port: 6881,
        uploaded: 3,
        downloaded: 1,
        left: Left::Bytes(2),
        event: Event::Started,
        num_want: NumWant::Count(50),
        key: Some(0x1122_3344),
    }
}

/// The fixed part as a client sends it, then `options`.
fn announce_bytes(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ANNOUNCE_BYTES];
    assert_eq!(write_announce_request(&mut bytes, ID, TRANSACTION, &announce()), ANNOUNCE_BYTES);
    bytes.extend_from_slice(options);
    bytes
}

fn view(bytes: &[u8]) -> AnnounceView<'_> {
    match Request::parse(bytes) {
        Ok(Request::Announce(view)) => view,
        other => panic!("not an announce: {other:?}"),
    }
}

#[test]
fn a_connect_is_sixteen_bytes_with_the_magic() {
    let connect = *b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\xde\xad\xbe\xef";
    let mut written = [0; REQUEST_HEAD_BYTES];
    assert_eq!(write_connect_request(&mut written, TRANSACTION), REQUEST_HEAD_BYTES);
    assert_eq!(written, connect);
    let padded = [&connect[..], b"padding"].concat();
    for bytes in [&connect[..], &padded] {
        assert!(matches!(Request::parse(bytes), Ok(Request::Connect(TRANSACTION))));
    }
    for length in 0..REQUEST_HEAD_BYTES {
        assert_eq!(Request::parse(&connect[..length]).err(), Some(ParseError::Truncated));
    }
    for at in 0..8 {
        let mut wrong = connect;
        wrong[at] ^= 1;
        assert_eq!(Request::parse(&wrong).err(), Some(ParseError::BadMagic));
    }
}

#[test]
fn an_announce_has_the_layout_of_bep_15() {
    let expected = [
        &ID.0[..],
        b"\0\0\0\x01",
        b"\xde\xad\xbe\xef",
        b"aaaaaaaaaaaaaaaaaaaa",
        b"-qB4650-abcdefghijkl",
        b"\0\0\0\0\0\0\0\x01",
        b"\0\0\0\0\0\0\0\x02",
        b"\0\0\0\0\0\0\0\x03",
        b"\0\0\0\x02",
        b"\0\0\0\0",
        b"\x11\x22\x33\x44",
        b"\0\0\0\x32",
        b"\x1a\xe1",
    ]
    .concat();
    assert_eq!(announce_bytes(b""), expected);
    let bytes = announce_bytes(b"\x02\x09/announce");
    let view = view(&bytes);
    assert_eq!(view.announce(), announce());
    assert_eq!((view.connection_id(), view.transaction_id()), (ID, TRANSACTION));
    assert_eq!(view.ip(), None);
    assert_eq!(view.options(), b"\x02\x09/announce");
    for length in REQUEST_HEAD_BYTES..ANNOUNCE_BYTES {
        assert_eq!(Request::parse(&bytes[..length]).err(), Some(ParseError::Truncated));
    }
}

#[test]
fn every_field_is_read_at_its_extremes() {
    let patch = |at: usize, value: &[u8]| {
        let mut bytes = announce_bytes(b"");
        bytes[at..at + value.len()].copy_from_slice(value);
        check(&bytes);
        (view(&bytes).announce(), view(&bytes).ip())
    };
    for (number, event) in [
        (0, Event::None),
        (1, Event::Completed),
        (2, Event::Started),
        (3, Event::Stopped),
        (4, Event::Paused),
        (5, Event::None),
        (0x0100_0002, Event::None),
        (0x8000_0000, Event::None),
        (u32::MAX, Event::None),
    ] {
        assert_eq!(patch(offset::EVENT, &number.to_be_bytes()).0.event, event, "{number:#x}");
    }
    for (number, num_want) in [
        (0, NumWant::Count(0)),
        (1, NumWant::Count(1)),
        (0x7fff_ffff, NumWant::Count(0x7fff_ffff)),
        (0x8000_0000, NumWant::Default),
        (u32::MAX, NumWant::Default),
    ] {
        let read = patch(offset::NUM_WANT, &number.to_be_bytes()).0.num_want;
        assert_eq!(read, num_want, "{number:#x}");
    }
    for (number, left) in [
        (0, Left::Bytes(0)),
        (1, Left::Bytes(1)),
        (1 << 53, Left::Bytes(1 << 53)),
        (SIGN_64 - 1, Left::Bytes(SIGN_64 - 1)),
        (SIGN_64, Left::Unknown),
        (u64::MAX, Left::Unknown),
    ] {
        assert_eq!(patch(offset::LEFT, &number.to_be_bytes()).0.left, left, "{number:#x}");
    }
    for number in [0, 1, SIGN_64 - 1, SIGN_64, u64::MAX] {
        assert_eq!(patch(offset::UPLOADED, &number.to_be_bytes()).0.uploaded, number);
        assert_eq!(patch(offset::DOWNLOADED, &number.to_be_bytes()).0.downloaded, number);
    }
    for number in [0, 1, SIGN_32, u32::MAX] {
        assert_eq!(patch(offset::KEY, &number.to_be_bytes()).0.key, Some(number));
    }
    for number in [0, 1, 0x8000, u16::MAX] {
        assert_eq!(patch(offset::PORT, &number.to_be_bytes()).0.port, number);
    }
    assert_eq!(patch(offset::IP, &[192, 0, 2, 1]).1, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(patch(offset::IP, &[255; 4]).1, Some(Ipv4Addr::BROADCAST));
}

#[test]
fn actions_beyond_scrape_are_unknown() {
    for action in [3, 4, 0xff, 0x0100_0000, 0x0100_0001, u32::MAX] {
        let mut bytes = announce_bytes(b"");
        bytes[offset::ACTION..][..4].copy_from_slice(&action.to_be_bytes());
        assert_eq!(Request::parse(&bytes).err(), Some(ParseError::UnknownAction), "{action:#x}");
    }
}

#[test]
fn a_scrape_is_answered_in_order_for_at_most_74_whole_hashes() {
    let numbered = |i: usize| InfoHash([u8::try_from(i / 2).expect("below 100"); 20]);
    for (count, answered) in [(0, 0), (1, 1), (73, 73), (74, 74), (75, 74), (100, 74)] {
        let asked: Vec<InfoHash> = (0..count).map(numbered).collect();
        let mut bytes = vec![0; 16 + 20 * count];
        assert_eq!(write_scrape_request(&mut bytes, ID, TRANSACTION, &asked), bytes.len());
        for partial in [0, 1, 19] {
            bytes.truncate(16 + 20 * count);
            bytes.resize(bytes.len() + partial, 0xff);
            let Ok(Request::Scrape(view)) = Request::parse(&bytes) else {
                panic!("not a scrape");
            };
            assert_eq!((view.connection_id(), view.transaction_id()), (ID, TRANSACTION));
            assert_eq!(view.hashes().len(), answered);
            assert_eq!(view.hashes().collect::<Vec<_>>(), asked[..answered]);
        }
    }
}

#[test]
fn replies_have_the_layout_of_bep_15() {
    let mut out = [0xAA; 64];
    assert_eq!(write_connect(&mut out, TRANSACTION, ID), CONNECT_REPLY_BYTES);
    assert_eq!(out[..16], *b"\0\0\0\0\xde\xad\xbe\xef\x01\x02\x03\x04\x05\x06\x07\x08");

    assert_eq!(write_announce_head(&mut out, TRANSACTION, 1800, 7, 9), ANNOUNCE_REPLY_HEAD_BYTES);
    assert_eq!(out[..20], *b"\0\0\0\x01\xde\xad\xbe\xef\0\0\x07\x08\0\0\0\x07\0\0\0\x09");

    let head = write_scrape_head(&mut out, TRANSACTION);
    assert_eq!(head, REPLY_HEAD_BYTES);
    assert_eq!(write_scrape_entry(&mut out[head..], 1, 2, 3), SCRAPE_ENTRY_BYTES);
    assert_eq!(out[..20], *b"\0\0\0\x02\xde\xad\xbe\xef\0\0\0\x01\0\0\0\x02\0\0\0\x03");

    assert_eq!(write_error(&mut out, TRANSACTION, "port 0"), 14);
    assert_eq!(out[..14], *b"\0\0\0\x03\xde\xad\xbe\xefport 0");
    assert_eq!(out[20], 0xAA, "bytes after a reply are left alone");
}

#[test]
fn an_error_that_does_not_fit_is_cut() {
    let mut out = [0; 10];
    assert_eq!(write_error(&mut out, TRANSACTION, "port 0"), 10);
    assert_eq!(&out[8..], b"po");
}

#[test]
fn what_the_wire_cannot_say_becomes_its_nearest() {
    let mut bytes = [0; ANNOUNCE_BYTES];
    let asked = Announce {
        left: Left::Bytes(u64::MAX),
        num_want: NumWant::Count(u32::MAX),
        key: None,
        ..announce()
    };
    write_announce_request(&mut bytes, ID, TRANSACTION, &asked);
    let read = view(&bytes).announce();
    assert_eq!(read.left, Left::Unknown);
    assert_eq!(read.num_want, NumWant::Count(SIGN_32 - 1));
    assert_eq!(read.key, Some(0));
}

#[test]
fn short_replies_are_truncated() {
    let mut out = [0; 20];
    write_announce_head(&mut out, TRANSACTION, 1, 2, 3);
    for length in 0..20 {
        assert_eq!(Reply::parse(&out[..length]), Err(ParseError::Truncated));
    }
    assert_eq!(Reply::parse(b"\0\0\0\x04\0\0\0\0"), Err(ParseError::UnknownAction));
}

fn arbitrary_announce() -> impl Strategy<Value = Announce> {
    let left = prop_oneof![(0..SIGN_64).prop_map(Left::Bytes), Just(Left::Unknown)];
    let event = (0..5_u32).prop_map(Event::from_udp);
    let num_want = prop_oneof![(0..SIGN_32).prop_map(NumWant::Count), Just(NumWant::Default)];
    let ids = any::<([u8; 20], [u8; 20], u16, u64, u64, u32)>();
    (ids, left, event, num_want).prop_map(|(ids, left, event, num_want)| Announce {
        info_hash: InfoHash(ids.0),
        peer_id: PeerId(ids.1),
        port: ids.2,
        uploaded: ids.3,
        downloaded: ids.4,
        left,
        event,
        num_want,
        key: Some(ids.5),
    })
}

proptest! {
    #[test]
    fn an_announce_reads_back_as_written(
        announce in arbitrary_announce(), ids: ([u8; 8], [u8; 4]),
        options in vec(any::<u8>(), 0..64),
    ) {
        let (connection_id, transaction_id) = (ConnectionId(ids.0), TransactionId(ids.1));
        let mut bytes = vec![0; ANNOUNCE_BYTES];
        write_announce_request(&mut bytes, connection_id, transaction_id, &announce);
        bytes.extend_from_slice(&options);
        let view = view(&bytes);
        prop_assert_eq!(view.announce(), announce);
        prop_assert_eq!(view.connection_id(), connection_id);
        prop_assert_eq!(view.transaction_id(), transaction_id);
        prop_assert_eq!(view.options(), &options[..]);
    }

    #[test]
    fn any_bytes_are_read_as_the_model_reads_them(
        bytes in vec(any::<u8>(), 0..1600), action in 0..5_u32, magic: bool, reply: bool,
    ) {
        check(&bytes);
        // Random bytes seldom have an action that exists: give them one.
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(if reply { 0..4 } else { 8..12 }) {
            field.copy_from_slice(&action.to_be_bytes());
        }
        if magic && !reply && let Some(field) = bytes.get_mut(..8) {
            field.copy_from_slice(&PROTOCOL_MAGIC);
        }
        check(&bytes);
    }
}
