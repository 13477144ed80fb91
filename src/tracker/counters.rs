//! What one core counted since start.
//!
//! Plain integers with one writer, that core. Others see copies: [`Counters::words`] flattens them
//! in a fixed order for publication, [`Counters::from_words`] puts them together again on the other
//! side.

use std::net::IpAddr;

use super::outcome::{DropReason, Refusal};
use crate::swarm::GROUPS;
use crate::wire::addr::Family;

/// How a request reached us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Transport {
    /// BEP 15.
    Udp = 0,
    /// BEP 3.
    Http = 1,
    /// WebTorrent.
    Web = 2,
}

/// What a request asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// A connection id (UDP).
    Connect = 0,
    /// To join, stay in or leave a swarm.
    Announce = 1,
    /// Counts of swarms.
    Scrape = 2,
    /// To have an answer brought to whoever made the offer (WebTorrent).
    Answer = 3,
}

/// What a request is about, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// How it reached us.
    pub transport: Transport,
    /// Of whoever sent it.
    pub family: Family,
    /// `None` if it could not be read, or if nobody has looked.
    pub action: Option<Action>,
}

impl Asked {
    /// A request for `action` from `source`.
    #[must_use]
    pub fn new(transport: Transport, source: IpAddr, action: Option<Action>) -> Self {
        Self { transport, family: Family::of(source.to_canonical()), action }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum RequestResult {
    /// It got what it asked for; an answer (WebTorrent) was passed on.
    Answered = 0,
    /// It was told why not.
    Refused = 1,
    /// It got no answer.
    Dropped = 2,
}

/// Transports times families times actions.
pub const REQUEST_KINDS: usize = TRANSPORTS * 2 * ACTIONS;

/// Things that a request asks for.
const ACTIONS: usize = 4;
/// Things that came of one.
const RESULTS: usize = 3;

/// Ways in which requests reach us.
const TRANSPORTS: usize = 3;

/// The place of a kind of request in [`Counters::requests`].
#[must_use]
pub const fn request_index(transport: Transport, family: Family, action: Action) -> usize {
    (transport as usize * 2 + family as usize) * ACTIONS + action as usize
}

/// The place in [`Counters::results`] of what came of such a request. Unknown actions come last.
#[must_use]
pub const fn result_index(asked: Asked, result: RequestResult) -> usize {
    let action = match asked.action {
        Some(action) => action as usize,
        None => ACTIONS,
    };
    let sender = asked.transport as usize * 2 + asked.family as usize;
    (sender * (ACTIONS + 1) + action) * RESULTS + result as usize
}

/// The place in [`Counters::drops`] of what is dropped for this reason.
#[must_use]
pub const fn drop_index(transport: Transport, reason: DropReason) -> usize {
    transport as usize * DropReason::COUNT + reason.index()
}

/// The place of a refusal in [`Counters::refusals`].
#[must_use]
pub const fn refusal_index(transport: Transport, refusal: Refusal) -> usize {
    transport as usize * Refusal::COUNT + refusal.index()
}

/// Upper bounds of the classes in which latencies are counted, in nanoseconds. Each is twice the
/// last, or nearly: 10 us to 1 s.
pub const LATENCY_BOUNDS: [u64; 16] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];
/// A class for each bound, one for what is above all, and the sum of all in nanoseconds.
pub const LATENCY_CELLS: usize = LATENCY_BOUNDS.len() + 2;

/// Counts something that took `nanoseconds`.
pub fn record_latency(cells: &mut [u64; LATENCY_CELLS], nanoseconds: u64) {
    let class = LATENCY_BOUNDS.partition_point(|&bound| bound < nanoseconds);
    cells[class] += 1;
    cells[LATENCY_CELLS - 1] += nanoseconds;
}

/// How a metric is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only grows; its name ends in `_total` once rendered.
    Counter,
    /// It only grows, and is nanoseconds; seconds once rendered.
    Time,
    /// It goes up and down.
    Gauge,
    /// Latencies: see [`record_latency`].
    Histogram,
}

/// How the cells of one metric are told apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Labels {
    /// One cell, no label.
    None,
    /// `transport`, `family`, `action`, in the order of [`request_index`].
    Request,
    /// `transport`, `family`, `action` and `result`, in the order of [`result_index`].
    Result,
    /// `family`, in the order of [`Family::ALL`].
    Family,
    /// `peers`: of all, and of those that have peers now.
    Active,
    /// `transport` and `reason`, in the order of [`drop_index`].
    Drop,
    /// `transport` and `reason`, in the order of [`refusal_index`].
    Refusal,
    /// `block_bytes`, the largest of the blocks that are counted together: see [`GROUPS`].
    Block,
    /// The classes of a histogram, and its sum. No label of their own.
    Latency,
}

impl Labels {
    /// How many cells there are.
    #[must_use]
    pub const fn cells(self) -> usize {
        match self {
            Self::None => 1,
            Self::Request => REQUEST_KINDS,
            Self::Result => TRANSPORTS * 2 * (ACTIONS + 1) * RESULTS,
            Self::Family | Self::Active => 2,
            Self::Drop => TRANSPORTS * DropReason::COUNT,
            Self::Refusal => TRANSPORTS * Refusal::COUNT,
            Self::Block => GROUPS.len(),
            Self::Latency => LATENCY_CELLS,
        }
    }

    /// Name and value of each label of cell `index`.
    #[must_use]
    pub fn of(self, index: usize) -> Vec<(&'static str, &'static str)> {
        const TRANSPORT_NAMES: [&str; TRANSPORTS] = ["udp", "http", "websocket"];
        const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
        const ACTION_NAMES: [&str; ACTIONS + 1] =
            ["connect", "announce", "scrape", "answer", "unknown"];
        let asked = |sender: usize, action: usize| {
            vec![
                ("transport", TRANSPORT_NAMES[sender / 2]),
                ("family", FAMILIES[sender % 2]),
                ("action", ACTION_NAMES[action]),
            ]
        };
        let refused = |name: fn(usize) -> &'static str, count: usize| {
            vec![("transport", TRANSPORT_NAMES[index / count]), ("reason", name(index % count))]
        };
        match self {
            Self::None | Self::Latency => Vec::new(),
            Self::Request => asked(index / ACTIONS, index % ACTIONS),
            Self::Result => {
                let (kind, result) = (index / RESULTS, index % RESULTS);
                let mut labels = asked(kind / (ACTIONS + 1), kind % (ACTIONS + 1));
                labels.push(("result", ["answered", "refused", "dropped"][result]));
                labels
            }
            Self::Family => vec![("family", FAMILIES[index])],
            Self::Active => vec![("peers", ["any", "present"][index])],
            Self::Drop => refused(DropReason::label, DropReason::COUNT),
            Self::Refusal => refused(Refusal::label, Refusal::COUNT),
            Self::Block => vec![("block_bytes", GROUPS[index].1)],
        }
    }
}

/// What stands behind a metric.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name without prefix and suffix.
    pub name: &'static str,
    /// What it tells, in one sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// How its cells are told apart.
    pub labels: Labels,
}

macro_rules! counters {
    ($($kind:ident $labels:ident $name:ident: $help:literal;)+) => {
        /// What one core counted since start. Every field is an array: one cell for each label.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub struct Counters {
            $(#[doc = $help] pub $name: [u64; Labels::$labels.cells()],)+
        }

        impl Default for Counters {
            fn default() -> Self {
                Self { $($name: [0; Labels::$labels.cells()],)+ }
            }
        }

        impl Counters {
            /// Cells of all metrics together.
            pub const WORDS: usize = 0 $(+ Labels::$labels.cells())+;

            /// What each field means, in the order of the fields.
            pub const DESCRIPTIONS: &[Description] = &[$(Description {
                name: stringify!($name),
                help: $help,
                kind: Kind::$kind,
                labels: Labels::$labels,
            },)+];

            /// All cells, in the order of the fields.
            pub fn words(&self) -> impl Iterator<Item = u64> {
                std::iter::empty()$(.chain(self.$name))+
            }

            /// The counters whose cells are `words`; missing ones are 0.
            #[must_use]
            pub fn from_words(words: impl IntoIterator<Item = u64>) -> Self {
                let mut words = words.into_iter();
                let mut next = || words.next().unwrap_or(0);
                Self { $($name: std::array::from_fn(|_| next()),)+ }
            }

            /// The cells of each metric, in the order of the descriptions.
            #[must_use]
            pub fn cells(&self) -> Vec<&[u64]> {
                vec![$(&self.$name,)+]
            }

            /// Adds another core's counters, cell by cell.
            pub fn add(&mut self, other: &Self) {
                $(for (cell, more) in self.$name.iter_mut().zip(&other.$name) {
                    *cell += more;
                })+
            }
        }
    };
}

counters! {
    Counter Request requests:
        "Requests received: verified ones over UDP, all that can be read over HTTP and WebSocket.";
    Counter Result results:
        "What came of requests; also of those whose action could not be read (unknown).";
    Counter Drop drops: "Requests that got no answer, or none in time, by transport and reason.";
    Counter Refusal refusals: "Requests answered with a failure, by transport and reason.";
    Counter Family udp_received_bytes: "Payload bytes of datagrams received.";
    Counter Family udp_sent_bytes: "Payload bytes of datagrams sent.";
    Counter None udp_unverified_received_bytes:
        "Payload bytes received from sources that had not proved their address.";
    Counter None udp_unverified_sent_bytes:
        "Payload bytes sent to sources that had not proved their address.";
    Counter None udp_send_errors: "Datagrams that the kernel refused to send.";
    Counter None http_connections_accepted: "HTTP connections accepted.";
    Counter None http_connections_refused: "HTTP connections closed at once for lack of room.";
    Counter None http_connections_limited:
        "HTTP connections closed at once because their address had opened too many of late.";
    Counter None http_connections_banned:
        "HTTP connections closed at once because their address is banned.";
    Counter None http_connections_timed_out: "HTTP connections closed at a deadline.";
    Counter None http_proxy_headers_refused:
        "Connections closed because no trusted proxy said first who the client is.";
    Counter None tls_handshakes_failed: "Connections that spoke no TLS that we can speak.";
    Gauge None http_connections: "HTTP connections open.";
    Counter Family http_received_bytes: "Bytes read from HTTP connections.";
    Counter Family http_sent_bytes: "Bytes written to HTTP connections.";
    Counter None web_connections_accepted: "WebSocket connections opened.";
    Counter None web_connections_slow: "WebSocket connections closed for reading too slowly.";
    Gauge None web_connections: "WebSocket connections open.";
    Counter None web_offers: "Offers brought to peers.";
    Counter None web_answers: "Answers brought to whoever made the offer.";
    Counter None web_undelivered:
        "Messages for WebSocket connections that had gone, or whose way was full.";
    Counter None messages_sent: "Messages handed to other cores.";
    Counter None messages_refused: "Messages that did not fit into another core's mailbox.";
    Counter None messages_received: "Messages taken from other cores.";
    Gauge None mailbox_bytes: "Bytes of messages from other cores that wait.";
    Counter None ring_enobufs: "Receives that ended because no buffer was left.";
    Counter None ring_overflows: "Entries into the kernel that found a full completion queue.";
    Counter None turns: "Turns of the worker's loop.";
    Counter None enters: "Entries into the kernel, to hand over requests and collect what is done.";
    Counter None sleeps: "Turns after which the worker slept.";
    Histogram Latency udp_batch: "Time of a batch of datagrams on its worker, to its last answer.";
    Histogram Latency http_handling:
        "Time of what came over an HTTP connection on its worker, the wait for others left out.";
    Gauge None swarms: "Swarms held that have UDP or HTTP peers.";
    Gauge Family seeders: "UDP and HTTP peers held that need nothing more.";
    Gauge Family leechers: "UDP and HTTP peers held that still need something.";
    Gauge None web_swarms: "Swarms held that have WebSocket peers.";
    Gauge Active web_only_swarms:
        "Swarms held that had no UDP or HTTP peers when a WebSocket peer last announced itself.";
    Gauge Family web_seeders: "WebSocket peers held that need nothing more.";
    Gauge Family web_leechers: "WebSocket peers held that still need something.";
    Gauge None store_bytes: "Bytes held by swarms and peers.";
    Gauge None web_store_bytes: "Bytes of these held by WebSocket peers, beside the budget.";
    Gauge Block store_block_bytes: "Bytes held in blocks of up to this size, used or free.";
    Gauge None store_budget_bytes: "Bytes that swarms and peers may take.";
    Gauge None store_refused_bytes: "Bytes that they may not take because the kernel has no more.";
    Counter None completed: "Downloads that finished.";
    Counter None expired_peers: "Peers that left because they had not announced in time.";
    Counter None evicted_peers: "Peers that made room in a full swarm or a full store.";
    Counter None evicted_swarms: "Swarms that made room in a full store.";
    Time None sweep: "Time spent on looking for peers and swarms that have expired.";
    Gauge None pending_scrapes: "Scrapes waiting for other cores.";
}

impl Counters {
    /// Counts a request.
    pub fn request(&mut self, transport: Transport, family: Family, action: Action) {
        self.requests[request_index(transport, family, action)] += 1;
    }

    /// Counts an answer.
    pub fn reply(&mut self, transport: Transport, family: Family, action: Action) {
        let asked = Asked { transport, family, action: Some(action) };
        self.results[result_index(asked, RequestResult::Answered)] += 1;
    }

    /// Counts a request that gets no answer.
    pub fn drop(&mut self, asked: Asked, reason: DropReason) {
        self.drops[drop_index(asked.transport, reason)] += 1;
        self.results[result_index(asked, RequestResult::Dropped)] += 1;
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, asked: Asked, refusal: Refusal) {
        self.refusals[refusal_index(asked.transport, refusal)] += 1;
        self.results[result_index(asked, RequestResult::Refused)] += 1;
    }

    /// Counts a request that is refused because its owner was silent for too long.
    pub fn refuse_late(&mut self, asked: Asked) {
        self.drops[drop_index(asked.transport, DropReason::OwnerSilent)] += 1;
        self.refuse(asked, Refusal::Busy);
    }

    /// How many requests were answered, in the order of [`request_index`].
    #[must_use]
    pub fn replies(&self) -> [u64; REQUEST_KINDS] {
        let (senders, _) = self.results.as_chunks::<{ (ACTIONS + 1) * RESULTS }>();
        // Nobody answers what cannot be read, which comes last.
        std::array::from_fn(|kind| senders[kind / ACTIONS][kind % ACTIONS * RESULTS])
    }

    /// How many requests of any transport got no answer for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.iter().skip(reason.index()).step_by(DropReason::COUNT).sum()
    }

    /// How many requests of any transport were refused like this.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals.iter().skip(refusal.index()).step_by(Refusal::COUNT).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back_is_the_same() {
        let counters = Counters::from_words(1..);
        let words: Vec<u64> = counters.words().collect();
        assert_eq!(words, (1..=Counters::WORDS as u64).collect::<Vec<_>>());
        let mut twice = counters.clone();
        twice.add(&counters);
        assert_eq!(twice.words().sum::<u64>(), 2 * words.iter().sum::<u64>());
        assert_eq!(counters.cells().concat(), words);
    }

    #[test]
    fn a_latency_is_in_the_class_of_the_first_bound_that_it_does_not_exceed() {
        let mut cells = [0; LATENCY_CELLS];
        assert_eq!(cells.len(), LATENCY_BOUNDS.len() + 2, "what is above all, and the sum");
        for (class, bound) in LATENCY_BOUNDS.into_iter().enumerate() {
            for nanoseconds in [bound, bound + 1] {
                let before = cells;
                record_latency(&mut cells, nanoseconds);
                let grown: Vec<usize> =
                    (0..LATENCY_CELLS).filter(|&cell| cells[cell] != before[cell]).collect();
                let class = class + usize::from(nanoseconds > bound);
                assert_eq!(grown, [class, LATENCY_CELLS - 1]);
                assert_eq!(cells[class], before[class] + 1);
                assert_eq!(cells[LATENCY_CELLS - 1], before[LATENCY_CELLS - 1] + nanoseconds);
            }
        }
    }

    #[test]
    fn every_cell_of_a_metric_has_its_own_labels() {
        for description in Counters::DESCRIPTIONS {
            let labels = description.labels;
            assert!(description.help.ends_with('.'));
            // A histogram is one series, however many cells it has.
            let is_histogram = description.kind == Kind::Histogram;
            assert_eq!(is_histogram, labels == Labels::Latency, "{}", description.name);
            if is_histogram {
                continue;
            }
            let mut all: Vec<_> = (0..labels.cells()).map(|cell| labels.of(cell)).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), labels.cells(), "{}", description.name);
        }
    }

    #[test]
    fn request_index_follows_the_labels() {
        let index = request_index(Transport::Web, Family::V6, Action::Answer);
        let labels = Labels::Request.of(index);
        assert_eq!(labels, [("transport", "websocket"), ("family", "ipv6"), ("action", "answer")]);
        assert_eq!(index, REQUEST_KINDS - 1);
    }

    #[test]
    fn each_request_has_one_result() {
        let mut counters = Counters::default();
        let source = "::ffff:1.2.3.4".parse().expect("an address");
        let asked = Asked::new(Transport::Web, source, Some(Action::Scrape));
        counters.reply(asked.transport, asked.family, Action::Scrape);
        counters.refuse(asked, Refusal::FullScrape);
        counters.refuse_late(asked);
        counters.drop(Asked { action: None, ..asked }, DropReason::TooLong);
        assert_eq!(counters.results.iter().sum::<u64>(), 4);
        let refused = result_index(asked, RequestResult::Refused);
        assert_eq!(counters.results[refused], 2);
        let mut labels = vec![("transport", "websocket"), ("family", "ipv4"), ("action", "scrape")];
        labels.push(("result", "refused"));
        assert_eq!(Labels::Result.of(refused), labels);
        let unknown = result_index(Asked { action: None, ..asked }, RequestResult::Dropped);
        assert_eq!(counters.results[unknown], 1);
        assert_eq!(Labels::Result.of(unknown)[2..], [("action", "unknown"), ("result", "dropped")]);
        assert_eq!(counters.dropped(DropReason::OwnerSilent), 1);
        let replies = counters.replies();
        assert_eq!(replies[request_index(Transport::Web, Family::V4, Action::Scrape)], 1);
        assert_eq!(replies.iter().sum::<u64>(), 1);
    }

    #[test]
    fn replies_are_in_the_order_of_requests() {
        for transport in [Transport::Udp, Transport::Http, Transport::Web] {
            for (family, action) in Family::ALL.into_iter().flat_map(|family| {
                [Action::Connect, Action::Announce, Action::Scrape, Action::Answer]
                    .map(|action| (family, action))
            }) {
                let mut counters = Counters::default();
                counters.request(transport, family, action);
                counters.reply(transport, family, action);
                assert_eq!(counters.replies(), counters.requests);
            }
        }
    }

    #[test]
    fn refusals_and_drops_are_counted_for_their_transport_and_asked_for_together() {
        let mut counters = Counters::default();
        let asked = |transport| Asked { transport, family: Family::V4, action: None };
        for transport in [Transport::Udp, Transport::Web, Transport::Web] {
            counters.refuse(asked(transport), Refusal::NotAllowed);
            counters.drop(asked(transport), DropReason::Banned);
        }
        counters.refuse(asked(Transport::Http), Refusal::Busy);
        counters.drop(asked(Transport::Http), DropReason::OwnerSilent);
        assert_eq!(counters.refused(Refusal::NotAllowed), 3);
        assert_eq!(counters.dropped(DropReason::Banned), 3);
        let refused = refusal_index(Transport::Web, Refusal::NotAllowed);
        assert_eq!(counters.refusals[refused], 2);
        let labels = [("transport", "websocket"), ("reason", "not_allowed")];
        assert_eq!(Labels::Refusal.of(refused), labels);
        let dropped = drop_index(Transport::Web, DropReason::Banned);
        assert_eq!(counters.drops[dropped], 2);
        assert_eq!(Labels::Drop.of(dropped), [("transport", "websocket"), ("reason", "banned")]);
    }
}
