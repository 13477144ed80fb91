//! One connection: what it is about, what of it is in flight, and what comes next.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Limits;
use super::layer::Layer;
use super::tls::Tls;
use super::websocket::{Life, Reason, WebSocket};
use crate::dataplane::ring::{Ring, Token};
use crate::limits::{WEB_CLOSE_SECONDS, WEB_IDLE_SECONDS, WEB_PING_SECONDS, WEB_SILENT_SECONDS};
use crate::time::Seconds;
use crate::wire::http;

/// Bytes that sealing adds to a response of one record, about.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// What a connection is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// A read is in flight.
    Reading,
    /// The owner of a swarm has been asked; nothing is in flight.
    Waiting { keep_alive: bool, head_only: bool },
    /// A write is in flight.
    Writing,
    /// A WebSocket: a read is in flight, and perhaps a write.
    Open,
    /// The last response has gone; a read is in flight whose bytes do not matter.
    Draining,
    /// Shut down; what is in flight comes to its end.
    Closing,
}

/// What happens when everything that has been written has gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// The next request.
    KeepAlive,
    /// The end: nothing more should be coming. What has come all the same makes it a drain.
    Close,
    /// The end, but there may be bytes that we have not read: closing at once would reset the
    /// connection, and the response would be lost.
    Drain,
}

/// What to do next with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Read {
        later: bool,
    },
    /// The same read again, under the same deadline: there was no buffer for it.
    Retry,
    Write,
    Wait,
    /// Whatever of reading and writing a WebSocket needs.
    Both,
    Drain,
    Close,
    Nothing,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub stream: OwnedFd,
    /// The other side, or whom a PROXY header names.
    pub peer: IpAddr,
    /// Who sent the last request, if a proxy says so, else the peer.
    pub client: IpAddr,
    /// The address that it is counted for.
    pub counted: Option<IpAddr>,
    /// Requests from a trusted proxy name their client.
    pub forwarded: bool,
    /// What comes before requests, and around them.
    pub layer: Option<Box<Layer>>,
    pub state: State,
    pub after: After,
    pub deadline: Seconds,
    /// When the first byte of an unfinished request head came.
    pub head_began: Option<Seconds>,
    /// Bytes that came and are not used up: the beginning of a request, or further requests.
    pub input: Vec<u8>,
    /// Bytes of `input` that have been searched for the end of a head in vain.
    pub searched: usize,
    /// What has not yet been given to the kernel.
    pub output: Vec<u8>,
    /// What the kernel took in part, and how much of it.
    pub unsent: Option<(Vec<u8>, usize)>,
    /// A read is in flight.
    pub reading: bool,
    /// A write is in flight, of bytes behind so many that had gone before.
    pub writing: Option<usize>,
    pub web: Option<Box<Web>>,
}

/// What only a WebSocket has.
#[derive(Debug)]
pub(super) struct Web {
    pub socket: WebSocket,
    pub life: Life,
    /// When bytes last came.
    pub heard: Seconds,
    /// When a message last came.
    pub asked: Seconds,
    pub pinged: Seconds,
    /// When the message that has not ended began.
    pub message_began: Option<Seconds>,
    /// When the write in flight began.
    pub write_began: Seconds,
}

impl Conn {
    pub fn respond(
        &mut self,
        status: http::Status,
        body: &[u8],
        keep_alive: bool,
        head_only: bool,
    ) {
        http::write_response(&mut self.output, status, body, keep_alive, head_only);
        self.goes_on(keep_alive);
    }

    /// What happens behind a response.
    pub fn goes_on(&mut self, keep_alive: bool) {
        if !keep_alive && self.after == After::KeepAlive {
            self.after = After::Close;
        }
    }

    pub fn next_step(&self) -> Step {
        match self.state {
            State::Waiting { .. } => Step::Wait,
            State::Open => {
                let ended = self.web.as_ref().is_none_or(|web| web.life == Life::Ended);
                let all_gone = self.writing.is_none() && !self.has_output();
                if ended && all_gone { Step::Drain } else { Step::Both }
            }
            _ if self.has_output() => Step::Write,
            // An answer is a few microseconds old at most: the next request has not come yet.
            _ => Step::Read { later: self.head_began.is_none() },
        }
    }

    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
            || self.unsent.is_some()
            || self.tls().is_some_and(|tls| tls.has_output())
    }

    pub fn tls(&self) -> Option<&Tls> {
        self.layer.as_ref().and_then(|layer| layer.tls.as_ref())
    }

    /// What there is to send, as it is sent.
    fn sealed_output(&mut self) -> Vec<u8> {
        let ended = self.web.as_ref().is_some_and(|web| web.life == Life::Ended);
        let last = ended || self.after != After::KeepAlive;
        let Some(tls) = self.layer.as_mut().and_then(|layer| layer.tls.as_mut()) else {
            return std::mem::take(&mut self.output);
        };
        let mut sealed = Vec::with_capacity(self.output.len() + RECORD_OVERHEAD_BYTES);
        tls.seal(&self.output, &mut sealed);
        if last {
            tls.close();
            tls.seal(&[], &mut sealed);
        }
        self.output.clear();
        sealed
    }

    pub fn read(&mut self, token: Token, later: bool, ring: &mut Ring) {
        self.reading = true;
        ring.read(self.stream.as_raw_fd(), token, later);
    }

    pub fn write(&mut self, token: Token, ring: &mut Ring) {
        let (buffer, sent) = match self.unsent.take() {
            Some(unsent) => unsent,
            None => (self.sealed_output(), 0),
        };
        self.writing = Some(sent);
        ring.write(self.stream.as_raw_fd(), token, buffer, sent);
    }

    /// It becomes a WebSocket.
    pub fn open_web(&mut self, now: Seconds) {
        self.state = State::Open;
        self.web = Some(Box::new(Web {
            socket: WebSocket::default(),
            life: Life::Open,
            heard: now,
            asked: now,
            pinged: now,
            message_began: None,
            write_began: now,
        }));
    }

    pub fn web_mut(&mut self) -> &mut Web {
        self.web.as_deref_mut().expect("an open connection is a WebSocket")
    }

    pub fn close_web(&mut self, now: Seconds, reason: Reason) {
        let Some(web) = &mut self.web else { return };
        if web.life == Life::Open {
            web.socket.close(reason, &mut self.output);
            web.life = Life::Closing;
            web.asked = now;
        }
    }

    /// What time demands of a WebSocket.
    pub fn look_after(&mut self, now: Seconds, limits: &Limits) -> Step {
        let late = |since: Seconds, secs: u32| now.since(since) > secs;
        let Some(web) = &mut self.web else { return Step::Close };
        if self.writing.is_some() && late(web.write_began, limits.write_secs) {
            return Step::Close;
        }
        match web.life {
            // The other side does not answer our close, or does not take the last of what we say.
            Life::Closing | Life::Ended if late(web.asked, WEB_CLOSE_SECONDS) => Step::Close,
            Life::Closing | Life::Ended => Step::Nothing,
            Life::Open if late(web.heard, WEB_SILENT_SECONDS) => Step::Close,
            Life::Open if web.message_began.is_some_and(|began| late(began, limits.idle_secs)) => {
                Step::Close
            }
            Life::Open if late(web.asked, WEB_IDLE_SECONDS) => {
                self.close_web(now, Reason::GoingAway);
                Step::Both
            }
            Life::Open if late(web.pinged, WEB_PING_SECONDS - 1) => {
                web.pinged = now;
                web.socket.ping(&mut self.output);
                Step::Both
            }
            Life::Open => Step::Nothing,
        }
    }
}
