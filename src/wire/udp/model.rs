//! A second, plain reading of BEP 15 with the offsets copied from the BEP's tables.

use super::*;

/// Reads `bytes` as a request and as a reply in two ways, and writes back what was read.
///
/// # Panics
/// At the first difference.
pub fn check(bytes: &[u8]) {
    check_request(bytes);
    check_reply(bytes);
}

fn number(bytes: &[u8], from: usize, to: usize) -> u64 {
    bytes[from..to].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn check_request(bytes: &[u8]) {
    let parsed = Request::parse(bytes);
    if bytes.len() < 16 {
        return assert_eq!(parsed.err(), Some(ParseError::Truncated));
    }
    match (number(bytes, 8, 12), parsed) {
        (0, Err(error)) => {
            assert_eq!(error, ParseError::BadMagic);
            assert_ne!(number(bytes, 0, 8), 0x0417_2710_1980);
        }
        (0, Ok(Request::Connect(id))) => {
            let mut out = [0; 16];
            assert_eq!(write_connect_request(&mut out, id), 16);
            assert_eq!(out, bytes[..16]);
        }
        (1, Err(error)) => {
            assert_eq!(error, ParseError::Truncated);
            assert!(bytes.len() < 98);
        }
        (1, Ok(Request::Announce(view))) => check_announce(bytes, view),
        (2, Ok(Request::Scrape(view))) => {
            let hashes: Vec<InfoHash> = view.hashes().collect();
            assert_eq!(hashes.len(), ((bytes.len() - 16) / 20).min(74));
            assert_eq!(hashes.len(), view.hashes().len());
            let mut out = vec![0; 16 + 20 * hashes.len()];
            let ids = (view.connection_id(), view.transaction_id());
            assert_eq!(write_scrape_request(&mut out, ids.0, ids.1, &hashes), out.len());
            assert_eq!(out, bytes[..out.len()]);
        }
        (3.., Err(error)) => assert_eq!(error, ParseError::UnknownAction),
        (action, parsed) => panic!("action {action} became {parsed:?}"),
    }
}

fn check_announce(bytes: &[u8], view: AnnounceView<'_>) {
    let announce = view.announce();
    assert_eq!(view.connection_id().0, bytes[..8]);
    assert_eq!(view.transaction_id().0, bytes[12..16]);
    assert_eq!(announce.info_hash.0, bytes[16..36]);
    assert_eq!(announce.peer_id.0, bytes[36..56]);
    assert_eq!(announce.downloaded, number(bytes, 56, 64));
    match announce.left {
        Left::Bytes(left) => assert_eq!(left, number(bytes, 64, 72)),
        Left::Unknown => assert!(bytes[64] >= 0x80),
    }
    assert_eq!(announce.uploaded, number(bytes, 72, 80));
    let event = number(bytes, 80, 84);
    assert_eq!(u64::from(announce.event as u8), if event <= 4 { event } else { 0 });
    assert_eq!(view.ip().map_or([0; 4], |ip| ip.octets()), bytes[84..88]);
    assert_eq!(announce.key.map(u64::from), Some(number(bytes, 88, 92)));
    match announce.num_want {
        NumWant::Count(count) => assert_eq!(u64::from(count), number(bytes, 92, 96)),
        NumWant::Default => assert!(bytes[92] >= 0x80),
    }
    assert_eq!(u64::from(announce.port), number(bytes, 96, 98));
    assert_eq!(view.options(), &bytes[98..]);

    let mut out = [0xAA; ANNOUNCE_BYTES];
    let written =
        write_announce_request(&mut out, view.connection_id(), view.transaction_id(), &announce);
    assert_eq!(written, ANNOUNCE_BYTES);
    let Ok(Request::Announce(again)) = Request::parse(&out) else {
        panic!("an announce that we wrote is not one");
    };
    assert_eq!(again.announce(), announce);
    assert_eq!(again.connection_id(), view.connection_id());
    assert_eq!(again.transaction_id(), view.transaction_id());
    assert_eq!((again.ip(), again.options()), (None, &[][..]));
}

fn check_reply(bytes: &[u8]) {
    let mut out = vec![0; bytes.len().max(REPLY_HEAD_BYTES)];
    match Reply::parse(bytes) {
        Ok(Reply::Connect { transaction_id, connection_id }) => {
            assert_eq!(write_connect(&mut out, transaction_id, connection_id), 16);
            assert_eq!(out[..16], bytes[..16]);
        }
        Ok(Reply::Announce { transaction_id, interval, leechers, seeders, peers }) => {
            let head = write_announce_head(&mut out, transaction_id, interval, leechers, seeders);
            out[head..].copy_from_slice(peers);
            assert_eq!(out, bytes);
        }
        Ok(Reply::Scrape { transaction_id, entries }) => {
            let mut end = write_scrape_head(&mut out, transaction_id);
            for entry in entries.as_chunks::<12>().0 {
                let [seeders, completed, leechers] = [0, 4, 8]
                    .map(|at| u32::try_from(number(entry, at, at + 4)).expect("four bytes"));
                end += write_scrape_entry(&mut out[end..], seeders, completed, leechers);
            }
            assert_eq!(out[..end], bytes[..end]);
            assert!(bytes.len() - end < SCRAPE_ENTRY_BYTES);
        }
        Ok(Reply::Error { transaction_id, message }) => {
            if let Ok(text) = std::str::from_utf8(message) {
                assert_eq!(write_error(&mut out, transaction_id, text), bytes.len());
                assert_eq!(out, bytes);
            }
        }
        Err(ParseError::UnknownAction) => assert!(number(bytes, 0, 4) > 3),
        Err(error) => {
            assert_eq!(error, ParseError::Truncated);
            assert!(bytes.len() < 20);
        }
    }
}
