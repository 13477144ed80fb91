//! throng: a BitTorrent tracker engine. UDP (BEP 15) and HTTP (BEP 3) in one process, one swarm per
//! `info_hash` for both, one shard per core and nothing shared between cores.
//!
//! A file imports lower ranks and its own folder, never higher ones; `tests/tidy.rs` checks it.
//!
//! ```text
//! 0  limits time rng    bounds with units and reasons; time and chance as values
//! 1  wire               bytes <-> values; no byte string can make it panic
//! 2  swarm              who is in which swarm, in the form of the wire
//! 3  tracker            the protocol as one deterministic machine per core
//! 4  dataplane          one core's I/O: ring, sockets, connections, mailboxes
//!    control            one thread's I/O: health, metrics, statistics, signals
//!    load               the load generator: invented peers that check every answer
//!    top                a tracker at work, in a terminal
//! 5  config             what the operator writes
//!    check              what the machine gives
//!    runtime            start, supervise, stop in order
//! 6  main               arguments and exit codes; the only place that prints
//! ```
//!
//! Invariants of the whole:
//!
//! - Ranks 0 to 3 are sans-IO: bytes, addresses and the time in, bytes out. No socket, file, clock,
//!   thread or log line, so that any driver, a fuzzer or a simulator can run them.
//! - A swarm is changed by the core that owns it and by no other; what another core wants of it
//!   comes as a message.
//! - The announce path takes no lock and writes no cache line that another core writes.
//! - Nothing is sent to a UDP source that has not proved its address, but the 16-byte connect
//!   reply.
//! - Everything has a bound, and what happens at the bound has a counter.

pub mod limits;
pub mod rng;
pub mod time;

pub mod wire;

pub mod swarm;

pub mod tracker;

pub mod control;
pub mod dataplane;
pub mod load;
pub mod top;

pub mod check;
pub mod config;
pub mod runtime;

#[cfg(test)]
mod corpus;
