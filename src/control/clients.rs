//! The names of clients, from the beginning of a `peer_id` (BEP 20).

use crate::tracker::census::{ClientId, UNKNOWN};

/// A client and its version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// Its name, or "unknown".
    pub name: &'static str,
    /// Its version; of an unknown client, what it calls itself, or "other".
    pub version: String,
}

/// Codes of two letters, Azureus style. Sorted.
const AZUREUS: [(&[u8; 2], &str); 54] = [
    (b"7T", "aTorrent"),
    (b"AB", "AnyEvent::BitTorrent"),
    (b"AG", "Ares"),
    (b"AR", "Arctic Torrent"),
    (b"AT", "Artemis"),
    (b"AX", "BitPump"),
    (b"AZ", "Vuze"),
    (b"BC", "BitComet"),
    (b"BE", "BitTorrent SDK"),
    (b"BF", "BitFlu"),
    (b"BG", "BTG"),
    (b"BI", "BiglyBT"),
    (b"BL", "BitLord"),
    (b"BN", "Baidu Netdisk"),
    (b"BP", "BitTorrent Pro"),
    (b"BT", "BitTorrent"),
    (b"BW", "BitWombat"),
    (b"CD", "Enhanced CTorrent"),
    (b"CT", "CTorrent"),
    (b"DE", "Deluge"),
    (b"EB", "EBit"),
    (b"FD", "Free Download Manager"),
    (b"FL", "Folx"),
    (b"FW", "FrostWire"),
    (b"FX", "Freebox BitTorrent"),
    (b"GR", "GetRight"),
    (b"HL", "Halite"),
    (b"KG", "KGet"),
    (b"KT", "KTorrent"),
    (b"LT", "libtorrent (Rasterbar)"),
    (b"LW", "LimeWire"),
    (b"MG", "MediaGet"),
    (b"NX", "Net Transport"),
    (b"PI", "PicoTorrent"),
    (b"PR", "PeerTube Runner"),
    (b"QD", "QQDownload"),
    (b"RT", "Retriever"),
    (b"SD", "Thunder"),
    (b"TB", "Torch"),
    (b"TL", "Tribler"),
    (b"TN", "Torrent.NET"),
    (b"TR", "Transmission"),
    (b"TT", "TuoTu"),
    (b"TX", "Tixati"),
    (b"UE", "uTorrent Embedded"),
    (b"UM", "uTorrent Mac"),
    (b"UT", "uTorrent"),
    (b"UW", "uTorrent Web"),
    (b"WD", "WebTorrent Desktop"),
    (b"WW", "WebTorrent"),
    (b"XF", "Xfplay"),
    (b"XL", "Xunlei"),
    (b"lt", "libTorrent (Rakshasa)"),
    (b"qB", "qBittorrent"),
];

/// Codes of one letter, Shadow's style. Sorted.
const SHADOW: [(u8, &str); 6] = [
    (b'A', "ABC"),
    (b'O', "Osprey Permaseed"),
    (b'Q', "BTQueue"),
    (b'R', "Tribler"),
    (b'S', "Shadow's client"),
    (b'T', "BitTornado"),
];

/// Who calls itself so. Everything in the answer is printable and harmless in a page.
#[must_use]
pub fn name_of(client: &ClientId) -> Client {
    if *client == UNKNOWN {
        return Client { name: "unknown", version: "other".to_owned() };
    }
    let known = match client {
        [b'-', a, b, version @ .., b'-'] => {
            let code = [*a, *b];
            AZUREUS
                .iter()
                .find(|(known, _)| **known == code)
                .map(|(_, name)| (*name, azureus_version(code, version)))
        }
        [letter, version @ .., 0, 0] => SHADOW
            .iter()
            .find(|(known, _)| known == letter)
            .map(|(_, name)| (*name, dotted(version.split(|&b| b == b'-').next().unwrap_or(&[])))),
        _ => None,
    };
    let (name, version) = known.unwrap_or_else(|| {
        let named = client.iter().filter(|&&byte| byte != 0);
        ("unknown", named.map(|&byte| char::from(byte)).collect())
    });
    Client { name, version }
}

/// WebTorrent has two digits for each number, nearly all others have one.
fn azureus_version(code: [u8; 2], version: &[u8]) -> String {
    match (&code, version) {
        (b"WW" | b"WD", &[a, b, c, d]) if version.iter().all(u8::is_ascii_digit) => {
            let number = |tens: u8, ones: u8| u32::from(tens - b'0') * 10 + u32::from(ones - b'0');
            format!("{}.{}", number(a, b), number(c, d))
        }
        _ => dotted(version),
    }
}

/// "4060" as "4.0.6": digits, letters as the numbers from ten on, zeros at the end left out.
fn dotted(version: &[u8]) -> String {
    let number = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A') + 10,
        b'a'..=b'z' => u32::from(byte - b'a') + 36,
        _ => u32::from(byte.saturating_sub(b'0')),
    };
    let mut numbers: Vec<u32> = version.iter().copied().map(number).collect();
    while numbers.len() > 2 && numbers.last() == Some(&0) {
        numbers.pop();
    }
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_come_once() {
        assert!(AZUREUS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(SHADOW.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn names_and_versions_are_those_of_the_clients() {
        for (client, name, version) in [
            (*b"-TR4060-", "Transmission", "4.0.6"),
            (*b"-TR410B-", "Transmission", "4.1.0.11"),
            (*b"-qB5030-", "qBittorrent", "5.0.3"),
            (*b"-WW0203-", "WebTorrent", "2.3"),
            (*b"-WW0098-", "WebTorrent", "0.98"),
            (*b"-WWabcd-", "WebTorrent", "36.37.38.39"),
            (*b"-lt0D60-", "libTorrent (Rakshasa)", "0.13.6"),
            (*b"-DE2000-", "Deluge", "2.0"),
            (*b"-XX0001-", "unknown", "-XX0001-"),
            (*b"T03I--\0\0", "BitTornado", "0.3.18"),
            (*b"Z12---\0\0", "unknown", "Z12---"),
            (UNKNOWN, "unknown", "other"),
        ] {
            let Client { name: found, version: found_version } = name_of(&client);
            assert_eq!((found, found_version.as_str()), (name, version));
        }
    }
}
