//! One connection: what it is about, what of it is in flight, and what comes next.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;

use super::Limits;
use super::layer::Layer;
use super::tls::Tls;
use super::websocket::{Life, Reason, WebSocket};
use crate::dataplane::ring::{Ring, Token};
use crate::limits::{
    WEB_CLOSE_SECONDS, WEB_PING_SECONDS, WEB_QUEUE_BYTES_MAX, WEB_SILENT_SECONDS, WRITE_BYTES,
};
use crate::time::Millis;
use crate::wire::addr::Family;
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

/// When it is closed, the other side is told at once that all is over, and nothing is kept.
pub(super) fn reset_at_end(stream: &OwnedFd) {
    // What is refused here is closed in order.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
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
    /// Of the connection itself, whoever a proxy says is behind it.
    pub family: Family,
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
    pub deadline: Millis,
    /// When the first byte of an unfinished request head came.
    pub head_began: Option<Millis>,
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
    /// When that began, or the first of several for what it has been told at once.
    pub write_began: Millis,
    pub web: Option<Box<Web>>,
}

/// What only a WebSocket has.
#[derive(Debug)]
pub(super) struct Web {
    pub socket: WebSocket,
    pub life: Life,
    /// When bytes last came.
    pub heard: Millis,
    /// When a message last came.
    pub asked: Millis,
    pub pinged: Millis,
    /// When the message that has not ended began.
    pub message_began: Option<Millis>,
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
            State::Open if self.is_overrun() => Step::Close,
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

    /// Whether more waits for a slow reader than may. Each ping that it sends is owed a pong.
    pub const fn is_overrun(&self) -> bool {
        self.web.is_some() && self.output.len() > WEB_QUEUE_BYTES_MAX
    }

    /// See [`reset_at_end`].
    pub fn reset_at_end(&self) {
        reset_at_end(&self.stream);
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

    /// From now on it has the time that there is for a write; not if this is only a further piece
    /// of what it has been told, lest who takes a piece now and then could go on for long.
    pub fn begin_write(&mut self, now: Millis) {
        if self.unsent.is_none() {
            self.write_began = now;
        }
    }

    /// Whether a write is in flight that should be over by now.
    pub fn is_write_late(&self, now: Millis, write_millis: u64) -> bool {
        self.writing.is_some() && now.since(self.write_began) >= write_millis
    }

    pub fn write(&mut self, token: Token, ring: &mut Ring) {
        let (buffer, sent) = match self.unsent.take() {
            Some(unsent) => unsent,
            None => (self.sealed_output(), 0),
        };
        self.writing = Some(sent);
        let end = buffer.len().min(sent + WRITE_BYTES);
        ring.write(self.stream.as_raw_fd(), token, buffer, sent..end);
    }

    /// It becomes a WebSocket.
    pub fn open_web(&mut self, now: Millis) {
        self.state = State::Open;
        // Messages come when they come: none shall wait for the acknowledgement of the last one. If
        // it is refused they are late, no more.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&self.stream, true);
        self.web = Some(Box::new(Web {
            socket: WebSocket::default(),
            life: Life::Open,
            heard: now,
            asked: now,
            pinged: now,
            message_began: None,
        }));
    }

    #[cfg(test)]
    pub fn web_mut(&mut self) -> &mut Web {
        self.web.as_deref_mut().expect("an open connection is a WebSocket")
    }

    pub fn close_web(&mut self, now: Millis, reason: Reason) {
        let Some(web) = &mut self.web else { return };
        if web.life == Life::Open {
            web.socket.close(reason, &mut self.output);
            web.life = Life::Closing;
            web.asked = now;
        }
    }

    /// What time demands of a WebSocket.
    pub fn look_after(&mut self, now: Millis, limits: &Limits, write_millis: u64) -> Step {
        let late = |since: Millis, secs: u32| now >= since.plus(secs);
        let is_write_late = self.is_write_late(now, write_millis);
        let Some(web) = self.web.as_mut().filter(|_| !is_write_late) else { return Step::Close };
        match web.life {
            // The other side does not answer our close, or does not take the last of what we say.
            Life::Closing | Life::Ended if late(web.asked, WEB_CLOSE_SECONDS) => Step::Close,
            Life::Closing | Life::Ended => Step::Nothing,
            Life::Open if late(web.heard, WEB_SILENT_SECONDS) => Step::Close,
            Life::Open if web.message_began.is_some_and(|began| late(began, limits.idle_secs)) => {
                Step::Close
            }
            Life::Open if late(web.asked, limits.web_idle_secs) => {
                self.close_web(now, Reason::GoingAway);
                Step::Both
            }
            Life::Open if late(web.pinged, WEB_PING_SECONDS) => {
                web.pinged = now;
                web.socket.ping(&mut self.output);
                Step::Both
            }
            Life::Open => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 1,
        per_address_max: 0,
        head_secs: 5,
        idle_secs: 30,
        web_idle_secs: 600,
        write_secs: 10,
    };

    /// That second after a WebSocket was opened.
    fn second_of(second: u32) -> Millis {
        Millis(1_000_123).plus(second)
    }

    /// A WebSocket, opened then.
    fn opened() -> Conn {
        let (stream, _) = UnixStream::pair().expect("a descriptor");
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut conn = Conn {
            stream: stream.into(),
            peer,
            family: Family::V4,
            client: peer,
            counted: None,
            forwarded: false,
            layer: None,
            state: State::Reading,
            after: After::KeepAlive,
            deadline: second_of(0),
            head_began: None,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            unsent: None,
            reading: true,
            writing: None,
            write_began: second_of(0),
            web: None,
        };
        conn.open_web(second_of(0));
        conn
    }

    #[test]
    fn further_pieces_of_an_answer_get_no_further_time() {
        let mut conn = opened();
        conn.begin_write(second_of(3));
        assert_eq!(conn.write_began, second_of(3));
        conn.unsent = Some((vec![0; 2 * WRITE_BYTES], WRITE_BYTES));
        conn.begin_write(second_of(4));
        assert_eq!(conn.write_began, second_of(3), "it is the same answer");
        conn.unsent = None;
        conn.begin_write(second_of(6));
        assert_eq!(conn.write_began, second_of(6));
    }

    #[test]
    fn a_write_is_late_when_its_time_is_over_and_it_is_still_in_flight() {
        let mut conn = opened();
        conn.begin_write(second_of(3));
        assert!(!conn.is_write_late(second_of(9), 2_000), "it has gone");
        conn.writing = Some(0);
        assert!(!conn.is_write_late(Millis(second_of(5).0 - 1), 2_000));
        assert!(conn.is_write_late(second_of(5), 2_000));
    }

    /// Looks after a connection once a second until it is closed; `each` does what the other side
    /// does. Returns the seconds since it was opened, and what was sent in them.
    fn look_after(
        conn: &mut Conn,
        mut each: impl FnMut(u32, &mut Web),
    ) -> (Vec<(u32, Vec<u8>)>, u32) {
        let mut sent = Vec::new();
        for second in 1..2_000 {
            let now = second_of(second);
            each(second, conn.web_mut());
            match conn.look_after(now, &LIMITS, LIMITS.write_millis(0)) {
                Step::Nothing => assert_eq!(conn.output, b""),
                Step::Both => sent.push((second, std::mem::take(&mut conn.output))),
                Step::Close => return (sent, second),
                other => panic!("{other:?}"),
            }
        }
        panic!("it stays open: {sent:?}");
    }

    const PING: [u8; 2] = [0x89, 0];
    const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];

    #[test]
    fn who_is_silent_is_pinged_twice_and_given_up() {
        let (sent, end) = look_after(&mut opened(), |_, _| {});
        assert_eq!(sent, [(30, PING.to_vec()), (60, PING.to_vec())]);
        assert_eq!(end, WEB_SILENT_SECONDS);
    }

    #[test]
    fn who_answers_pings_and_says_nothing_is_told_to_go() {
        let (sent, end) = look_after(&mut opened(), |second, web| web.heard = second_of(second));
        let pings: Vec<_> = (1..=19).map(|at| (30 * at, PING.to_vec())).collect();
        assert_eq!(sent[..19], pings);
        assert_eq!(sent[19..], [(LIMITS.web_idle_secs, GOING_AWAY.to_vec())]);
        assert_eq!(end, LIMITS.web_idle_secs + WEB_CLOSE_SECONDS);
    }

    #[test]
    fn a_message_that_does_not_end_and_a_write_that_is_not_taken_have_deadlines() {
        let mut conn = opened();
        conn.web_mut().message_began = Some(second_of(5));
        let (_, end) = look_after(&mut conn, |second, web| web.heard = second_of(second));
        assert_eq!(end, 5 + LIMITS.idle_secs);

        let mut conn = opened();
        (conn.writing, conn.write_began) = (Some(0), second_of(3));
        let (sent, end) = look_after(&mut conn, |second, web| web.heard = second_of(second));
        assert_eq!((sent, end), (vec![], 3 + LIMITS.write_secs));
    }

    #[test]
    fn a_close_has_its_deadline_whoever_began_it() {
        let mut conn = opened();
        conn.close_web(second_of(0), Reason::GoingAway);
        assert_eq!(std::mem::take(&mut conn.output), GOING_AWAY);
        let (sent, end) = look_after(&mut conn, |second, web| web.heard = second_of(second));
        assert_eq!((sent, end), (vec![], WEB_CLOSE_SECONDS));

        let mut conn = opened();
        (conn.web_mut().life, conn.writing) = (Life::Ended, Some(0));
        let (sent, end) = look_after(&mut conn, |_, _| {});
        assert_eq!((sent, end), (vec![], WEB_CLOSE_SECONDS));
    }

    #[test]
    fn what_comes_next_follows_from_what_is_in_flight() {
        let mut conn = opened();
        assert_eq!(conn.next_step(), Step::Both);
        conn.output.resize(WEB_QUEUE_BYTES_MAX, 0);
        assert_eq!(conn.next_step(), Step::Both);
        conn.output.push(0);
        assert_eq!(conn.next_step(), Step::Close);
        conn.output.clear();
        conn.web_mut().life = Life::Ended;
        (conn.writing, conn.reading) = (Some(0), true);
        assert_eq!(conn.next_step(), Step::Both);
        (conn.writing, conn.unsent) = (None, Some((vec![0], 0)));
        assert_eq!(conn.next_step(), Step::Both);
        conn.unsent = None;
        assert_eq!(conn.next_step(), Step::Drain);
    }
}
