//! What a connection's bytes ask for: HTTP requests one after the other, or WebSocket messages.

use super::websocket::{Event, Life};
use super::{After, Conn, State, Token};
use crate::limits::{HTTP_PIPELINE_MAX, HTTP_RESPONSE_BYTES_MAX};
use crate::time::Seconds;
use crate::tracker::http::{Connection, HttpAnswer};
use crate::tracker::{Effects, Tracker};
use crate::wire::http::{self, Head, Method};

/// What serving requests needs.
pub(super) struct Serving<'a, E> {
    pub now: Seconds,
    pub token: Token,
    pub tracker: &'a mut Tracker,
    pub effects: &'a mut E,
    pub body: &'a mut Vec<u8>,
}

impl<E: Effects> Serving<'_, E> {
    /// Serves the requests that stand in the connection's own buffer.
    pub fn serve_input(&mut self, conn: &mut Conn) {
        let mut input = std::mem::take(&mut conn.input);
        if !input.is_empty() {
            let used = self.serve(conn, &input);
            input.drain(..used);
        }
        conn.input = input;
    }

    /// Serves requests from the front of `buffer`, until one is incomplete, waits for another core,
    /// is the last, or enough have been answered for one write. Returns how many bytes are used up.
    pub fn serve(&mut self, conn: &mut Conn, buffer: &[u8]) -> usize {
        let mut used = 0;
        for _ in 0..HTTP_PIPELINE_MAX {
            let rest = &buffer[used..];
            let parsed = match http::head_end(rest, conn.searched) {
                Ok(None) => {
                    conn.searched = rest.len();
                    conn.head_began = (!rest.is_empty()).then(|| {
                        // A pipelined head began when it was first looked at.
                        if used > 0 { self.now } else { conn.head_began.unwrap_or(self.now) }
                    });
                    return used;
                }
                Ok(Some(end)) => Head::parse(&rest[..end]).map(|head| (head, end)),
                Err(error) => Err(error),
            };
            conn.searched = 0;
            let (head, end) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    let status = self.tracker.handle_bad_http(conn.peer, error, self.body);
                    conn.respond(status, self.body, false, false);
                    conn.after = After::Drain;
                    return buffer.len();
                }
            };
            used += end;
            conn.head_began = None;
            if head.upgrade && self.upgrade(conn, &head) {
                if conn.state == State::Open {
                    self.messages(conn, &buffer[used..]);
                }
                return buffer.len();
            }
            let (keep_alive, head_only) = (head.keep_alive, head.method == Method::Head);
            let from = (conn.peer, Connection(self.token.to_bits()));
            match self.tracker.handle_http(self.now, from, &head, self.body, self.effects) {
                HttpAnswer::Ready(status) => {
                    conn.respond(status, self.body, keep_alive, head_only);
                    if !keep_alive || conn.output.len() >= HTTP_RESPONSE_BYTES_MAX {
                        return used;
                    }
                }
                HttpAnswer::Pending => {
                    conn.state = State::Waiting { keep_alive, head_only };
                    return used;
                }
            }
        }
        used
    }

    /// Makes the connection a WebSocket, or refuses to. False: WebSockets are not served.
    fn upgrade(&mut self, conn: &mut Conn, head: &Head<'_>) -> bool {
        match self.tracker.handle_upgrade(conn.peer, head, self.body) {
            None => false,
            Some(Ok(upgrade)) => {
                upgrade.write_response(&mut conn.output);
                conn.open_web(self.now);
                self.tracker.web_opened(conn.peer, Connection(self.token.to_bits()));
                true
            }
            Some(Err(status)) => {
                conn.respond(status, self.body, false, false);
                // What follows may be frames already.
                conn.after = After::Drain;
                true
            }
        }
    }

    /// Hands the messages in `bytes` to the tracker.
    pub fn messages(&mut self, conn: &mut Conn, bytes: &[u8]) {
        let Self { now, token, tracker, effects, .. } = self;
        let connection = Connection(token.to_bits());
        let Some(web) = &mut conn.web else { return };
        if web.life == Life::Ended || bytes.is_empty() {
            return;
        }
        web.heard = *now;
        let mut any = false;
        let life = web.socket.receive(bytes, &mut conn.output, &mut |event| {
            any = true;
            match event {
                Event::Text(text) => tracker.handle_web(*now, connection, text, *effects),
                Event::Garbage => tracker.handle_bad_web(connection, *effects),
            }
        });
        if any {
            web.asked = *now;
        }
        if life != web.life {
            // From here on the close has its deadline.
            (web.life, web.asked) = (life, *now);
        }
        let amid = web.socket.is_amid_message();
        web.message_began = amid.then(|| web.message_began.filter(|_| !any).unwrap_or(*now));
    }
}
