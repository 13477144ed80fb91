//! Every bound of the program as a constant, with its unit and its reason.
//!
//! A bound that an operator may change has its default here too. `const` assertions at the foot tie
//! the numbers together, so that changing one of them cannot silently break another.

use std::time::Duration;

/// Bytes of the longest datagram we read: a scrape of 74 hashes is 1,496 (BEP 15), one of 100, of
/// which the first 74 are answered, is 2,016; an announce has room for options (BEP 41).
pub const DATAGRAM_BYTES_MAX: usize = 2_048;
/// Bytes of the longest datagram we send: the IPv6 minimum MTU of 1,280 less 48 bytes of headers.
pub const UDP_REPLY_BYTES_MAX: usize = 1_232;
/// Hashes answered in one UDP scrape (BEP 15: "up to about 74").
pub const UDP_SCRAPE_HASHES_MAX: usize = 74;
/// Hashes answered in one HTTP scrape, at the most an operator may configure.
pub const HTTP_SCRAPE_HASHES_MAX: usize = 100;

/// Peers returned when the request does not say.
pub const NUM_WANT_DEFAULT: u16 = 50;
/// Peers returned at the most, whatever is asked.
pub const NUM_WANT_MAX: u16 = 200;

/// Bytes of a compact IPv4 endpoint (BEP 23).
pub const ENDPOINT_V4_BYTES: usize = 6;
/// Bytes of a compact IPv6 endpoint (BEP 7).
pub const ENDPOINT_V6_BYTES: usize = 18;

/// Bytes of an HTTP request head; more is answered 431.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1_024;
/// Header fields in a request; more is answered 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Requests of one connection answered before the answers are written: the bound of pipelining,
/// together with [`WRITE_BYTES`], from which on no further request is served first.
pub const HTTP_PIPELINE_MAX: usize = 16;
/// Bytes that one write hands to the kernel at the most: copying them takes some microseconds, and
/// datagrams wait meanwhile.
pub const WRITE_BYTES: usize = 8 * 1_024;
/// Writes of a core that may be in flight before nobody has more than [`HURRIED_WRITE_MILLIS`] for
/// his. A write is there for microseconds, but of who does not read: the kernel keeps 64 KiB for
/// each such connection, and asks it again and again whether it reads now.
pub const WRITES_AT_EASE_MAX: usize = 256;
/// Milliseconds for a write when there are more.
pub const HURRIED_WRITE_MILLIS: u64 = 500;
/// Bytes of the longest HTTP response: 200 peers in the dictionary form, or a scrape of 100 hashes.
pub const HTTP_RESPONSE_BYTES_MAX: usize = 32 * 1_024;

/// Bytes that the kernel may keep of what a connection has been sent and has not taken; it doubles
/// them for its bookkeeping. By itself it would let them grow to megabytes for whoever reads
/// slowly, and every answer that it takes is one that we have made.
pub const HTTP_SEND_BUFFER_BYTES: usize = 2 * HTTP_RESPONSE_BYTES_MAX;

/// Seconds from the first byte of a request to the end of its head.
pub const HTTP_HEAD_SECONDS: u32 = 5;
/// Seconds a connection may be idle between requests.
pub const HTTP_IDLE_SECONDS: u32 = 30;
/// Seconds a response may wait for a slow reader.
pub const HTTP_WRITE_SECONDS: u32 = 10;

/// Bytes of a WebSocket message; more closes the connection (1009).
pub const WEB_MESSAGE_BYTES_MAX: usize = 64 * 1_024;
/// Levels of nesting in a message; what clients send has four.
pub const WEB_DEPTH_MAX: usize = 8;
/// Offers of one announce that are passed on; clients send five.
pub const WEB_OFFERS_MAX: usize = 10;
/// Characters of an `offer_id`; clients send 20, or 16.
pub const WEB_OFFER_ID_CHARS_MAX: usize = 64;
/// Swarms that the peers of one connection may be in.
pub const WEB_TORRENTS_MAX: usize = 1_024;
/// Offers that one connection has been given and may still answer; the oldest goes first of whoever
/// has made the most.
pub const WEB_PENDING_MAX: usize = 64;
/// Seconds for an answer to an offer; clients give up after 50.
pub const WEB_PENDING_SECONDS: u32 = 120;
/// Bytes that wait for a slow reader before its connection is closed.
pub const WEB_QUEUE_BYTES_MAX: usize = 256 * 1_024;
/// Bytes that wait for a slow reader before what others send to it is left out.
pub const WEB_RELAYED_BYTES_MAX: usize = WEB_QUEUE_BYTES_MAX / 2;
/// Seconds between two pings.
pub const WEB_PING_SECONDS: u32 = 30;
/// Seconds without a byte, pongs included, after which the other side is gone: two pings and a
/// little.
pub const WEB_SILENT_SECONDS: u32 = 75;
/// Seconds without a message after which a connection is closed, or two of its peers' intervals if
/// that is longer.
pub const WEB_IDLE_SECONDS: u32 = 600;
/// Seconds for the other side to answer a close.
pub const WEB_CLOSE_SECONDS: u32 = 2;

/// Workers at the most; a mailbox pair exists for every two of them.
pub const WORKERS_MAX: usize = 256;
/// Scrapes of one core that wait for other cores' counts.
pub const PENDING_SCRAPES_MAX: usize = 1_024;
/// Seconds after which a scrape that some core did not answer is given up.
pub const PENDING_SCRAPE_SECONDS: u32 = 2;

/// Datagrams handled as one batch.
pub const BATCH_MAX: usize = 64;
/// Swarms of a batch from which it pays to look for all of them first.
pub const WARM_FROM: usize = 4;

/// Length of a connection id's epoch (BEP 15 asks for an id to be valid about two minutes).
pub const CONNECTION_EPOCH_SECONDS: u32 = 64;

/// Threads of a load generator.
pub const LOAD_THREADS_MAX: u16 = 256;
/// Sockets or source addresses of one of its threads.
pub const LOAD_SOURCES_MAX: u16 = 240;
/// Requests that one of its threads has under way; over HTTP and WebSocket, its connections.
pub const LOAD_IN_FLIGHT_MAX: u32 = 65_536;
/// Torrents of one of its WebSocket connections.
pub const LOAD_TORRENTS_MAX: u32 = 100;
/// Bytes of an offer or an answer that it makes, at the least: what every one of them says.
pub const LOAD_SDP_BYTES_MIN: u16 = 700;
/// At the most: ten of them fit into a message.
pub const LOAD_SDP_BYTES_MAX: u16 = 6_000;
/// Peers that it invents, and swarms.
pub const LOAD_PEERS_MAX: u32 = 1_000_000_000;
/// Requests a second that it can be asked for: more than any machine sends, so that no sum wraps.
pub const LOAD_RATE_MAX: u64 = 1_000_000_000;
/// The longest time that it measures: a load without an end is a mistake.
pub const LOAD_DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The longest time that it waits for an answer.
pub const LOAD_TIMEOUT_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(20 + ENDPOINT_V4_BYTES * NUM_WANT_MAX as usize <= UDP_REPLY_BYTES_MAX);
const _: () = assert!(8 + 12 * UDP_SCRAPE_HASHES_MAX <= UDP_REPLY_BYTES_MAX);
const _: () = assert!(16 + 20 * (UDP_SCRAPE_HASHES_MAX + 1) <= DATAGRAM_BYTES_MAX);
const _: () = assert!(NUM_WANT_DEFAULT <= NUM_WANT_MAX);
const _: () = assert!(2 * WEB_PING_SECONDS < WEB_SILENT_SECONDS);
const _: () = assert!(WEB_MESSAGE_BYTES_MAX + 1_024 <= WEB_RELAYED_BYTES_MAX);
const _: () = assert!(LOAD_TORRENTS_MAX as usize <= WEB_TORRENTS_MAX);
// Each source on loopback has an address of its own: 250 in each of 250 networks.
const _: () = assert!(LOAD_THREADS_MAX as u32 * LOAD_SOURCES_MAX as u32 <= 250 * 250);
