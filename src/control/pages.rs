//! `/stats` and `/stats.json` of the public listeners, in the shape that public monitors read.
//!
//! The fields are those of webtorrent/bittorrent-tracker. Peers are counted once for each of their
//! swarms, and none as seeding here and leeching there. How many use a client is estimated: the
//! peers there are, shared out as the client's announces were.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::clients::{Client, name_of};
use crate::tracker::census::ClientId;
use crate::tracker::counters::Counters;
use crate::tracker::published::Pages;

/// Numbers of peers by client and version.
type Clients = BTreeMap<&'static str, BTreeMap<String, u64>>;

/// How many peers use a version of a client, about.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Share {
    name: &'static str,
    version: String,
    peers: u64,
}

/// The clients that peers use, those with the most peers first: see [`prepare`].
#[must_use]
pub fn shares(total: &Counters, clients: &[Vec<(ClientId, u64)>; 2]) -> Vec<Share> {
    let clients = Totals::new(total, clients).clients;
    let mut shares: Vec<Share> = clients
        .into_iter()
        .flat_map(|(name, versions)| {
            versions.into_iter().map(move |(version, peers)| Share { name, version, peers })
        })
        .collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.peers));
    shares
}

/// What both pages say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    torrents: u64,
    active_torrents: u64,
    peers_all: u64,
    peers_seeder_only: u64,
    peers_leecher_only: u64,
    peers_seeder_and_leecher: u64,
    #[serde(rename = "peersIPv4")]
    peers_ipv4: u64,
    #[serde(rename = "peersIPv6")]
    peers_ipv6: u64,
    clients: Clients,
}

/// Prepares both pages from the totals of all workers and the clients that they saw, among UDP and
/// HTTP peers and among WebSocket peers.
#[must_use]
pub fn prepare(total: &Counters, clients: &[Vec<(ClientId, u64)>; 2]) -> Pages {
    let totals = Totals::new(total, clients);
    let json = serde_json::to_vec(&totals).expect("numbers and plain names");
    Pages { html: totals.html().into_bytes(), json }
}

impl Totals {
    fn new(total: &Counters, seen: &[Vec<(ClientId, u64)>; 2]) -> Self {
        let sum = |cells: &[u64; 2]| cells.iter().sum::<u64>();
        let (seeders, leechers) = (sum(&total.seeders), sum(&total.leechers));
        let (web_seeders, web_leechers) = (sum(&total.web_seeders), sum(&total.web_leechers));
        let of = |family: usize| {
            total.seeders[family]
                + total.leechers[family]
                + total.web_seeders[family]
                + total.web_leechers[family]
        };
        let [torrents, active_torrents] =
            total.web_only_swarms.map(|web_only| total.swarms[0] + web_only);
        let mut clients = Clients::new();
        share_out(seeders + leechers, &seen[0], &mut clients);
        share_out(web_seeders + web_leechers, &seen[1], &mut clients);
        Self {
            torrents,
            active_torrents,
            peers_all: seeders + leechers + web_seeders + web_leechers,
            peers_seeder_only: seeders + web_seeders,
            peers_leecher_only: leechers + web_leechers,
            peers_seeder_and_leecher: 0,
            peers_ipv4: of(0),
            peers_ipv6: of(1),
            clients,
        }
    }

    fn html(&self) -> String {
        let mut page = String::new();
        // Writing to a `String` cannot fail, and every name is letters, digits, dots and dashes.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = writeln!(page, "{text}");
        };
        line(format_args!("<h1>{} torrents ({} active)</h1>", self.torrents, self.active_torrents));
        for (level, title, number) in [
            (2, "Connected Peers", self.peers_all),
            (3, "Peers Seeding Only", self.peers_seeder_only),
            (3, "Peers Leeching Only", self.peers_leecher_only),
            (3, "Peers Seeding & Leeching", self.peers_seeder_and_leecher),
            (3, "IPv4 Peers", self.peers_ipv4),
            (3, "IPv6 Peers", self.peers_ipv6),
        ] {
            let title = title.replace('&', "&amp;");
            line(format_args!("<h{level}>{title}: {number}</h{level}>"));
        }
        line(format_args!("<h3>Clients:</h3>\n<ul>"));
        for (client, versions) in &self.clients {
            for (version, number) in versions {
                line(format_args!("<li><strong>{client}</strong> {version} : {number}</li>"));
            }
        }
        line(format_args!("</ul>"));
        page
    }
}

/// Shares `peers` out among clients as often as each was seen.
fn share_out(peers: u64, seen: &[(ClientId, u64)], clients: &mut Clients) {
    let all: u64 = seen.iter().map(|(_, count)| count).sum();
    for (client, count) in seen {
        let share = u128::from(peers) * u128::from(*count) + u128::from(all / 2);
        let share = u64::try_from(share / u128::from(all.max(1))).unwrap_or(u64::MAX);
        if share > 0 {
            let Client { name, version } = name_of(client);
            *clients.entry(name).or_default().entry(version).or_default() += share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::census::UNKNOWN;

    fn pages() -> Pages {
        let total = Counters {
            swarms: [7],
            web_only_swarms: [2, 1],
            seeders: [10, 5],
            leechers: [3, 2],
            web_seeders: [1, 0],
            web_leechers: [2, 1],
            ..Counters::default()
        };
        let seen =
            [vec![(*b"-TR4060-", 30), (*b"-XX0001-", 6), (UNKNOWN, 4)], vec![(*b"-WW0203-", 9)]];
        prepare(&total, &seen)
    }

    #[test]
    fn the_fields_are_those_that_monitors_read() {
        let value: serde_json::Value = serde_json::from_slice(&pages().json).expect("JSON");
        let expected = serde_json::json!({
            "torrents": 9, "activeTorrents": 8, "peersAll": 24, "peersSeederOnly": 16,
            "peersLeecherOnly": 8, "peersSeederAndLeecher": 0, "peersIPv4": 16, "peersIPv6": 8,
            "clients": {
                "Transmission": {"4.0.6": 15}, "WebTorrent": {"2.3": 4},
                "unknown": {"-XX0001-": 3, "other": 2},
            },
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_page_has_the_lines_that_monitors_read() {
        let page = String::from_utf8(pages().html).expect("text");
        for line in [
            "<h1>9 torrents (8 active)</h1>",
            "<h2>Connected Peers: 24</h2>",
            "<h3>Peers Seeding &amp; Leeching: 0</h3>",
            "<h3>IPv6 Peers: 8</h3>",
            "<li><strong>Transmission</strong> 4.0.6 : 15</li>",
            "<li><strong>unknown</strong> -XX0001- : 3</li>",
        ] {
            assert!(page.lines().any(|candidate| candidate == line), "{line}\n{page}");
        }
        let nobody = prepare(&Counters::default(), &[Vec::new(), vec![(UNKNOWN, 5)]]);
        assert!(String::from_utf8(nobody.html).expect("text").contains("<h1>0 torrents"));
    }
}
