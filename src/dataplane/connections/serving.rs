//! What a connection's bytes ask for: HTTP requests one after the other, or WebSocket messages.

use super::conn::{After, Conn, State};
use super::websocket::{Event, Life, Reason};
use crate::dataplane::ring::Token;
use crate::limits::{HTTP_PIPELINE_MAX, WRITE_BYTES};
use crate::time::Millis;
use crate::tracker::http::{Connection, HttpAnswer};
use crate::tracker::published::Pages;
use crate::tracker::{Effects, Tracker};
use crate::wire::error::ParseError;
use crate::wire::http::{self, Content, Head, Method, Status};

/// What serving requests needs.
pub(super) struct Serving<'a, E> {
    pub now: Millis,
    pub token: Token,
    pub tracker: &'a mut Tracker,
    pub effects: &'a mut E,
    pub body: &'a mut Vec<u8>,
    pub pages: Option<&'a Pages>,
}

impl<E: Effects> Serving<'_, E> {
    /// Serves what came, and keeps the beginning of what has not all come.
    pub fn take(&mut self, conn: &mut Conn, bytes: &[u8], spare: &mut Vec<Vec<u8>>) {
        if conn.state == State::Open {
            self.messages(conn, bytes);
            return;
        }
        conn.head_began = conn.head_began.or(Some(self.now));
        if conn.input.is_empty() {
            let used = self.serve(conn, bytes);
            if used < bytes.len() {
                conn.input = spare.pop().unwrap_or_default();
                conn.input.extend_from_slice(&bytes[used..]);
            }
        } else {
            conn.input.extend_from_slice(bytes);
            self.serve_input(conn);
        }
    }

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
                Err(error) => return self.give_up(conn, error, (buffer, used)),
            };
            if conn.forwarded {
                match self.tracker.policy().client(conn.peer, &head) {
                    Ok(client) => conn.client = client,
                    Err(error) => return self.give_up(conn, error, (buffer, used)),
                }
            }
            used += end;
            conn.head_began = None;
            if head.upgrade && self.upgrade(conn, &head) {
                if conn.state == State::Open {
                    self.messages(conn, &buffer[used..]);
                }
                return buffer.len();
            }
            let (keep_alive, head_only) = (head.keep_alive, head.method == Method::Head);
            if let Some((content, page)) = self.page(&head) {
                let (out, ok) = (&mut conn.output, Status::Ok);
                http::write_response_of(out, ok, content, page, keep_alive, head_only);
                conn.goes_on(keep_alive);
                if !keep_alive || conn.output.len() >= WRITE_BYTES {
                    return used;
                }
                continue;
            }
            let from = (conn.client, Connection(self.token.to_bits()));
            match self.tracker.handle_http(self.now.seconds(), from, &head, self.body, self.effects)
            {
                HttpAnswer::Ready(status) => {
                    conn.respond(status, self.body, keep_alive, head_only);
                    if !keep_alive || conn.output.len() >= WRITE_BYTES {
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

    /// The statistics, if that is what a request asks for.
    fn page(&self, head: &Head<'_>) -> Option<(Content, &[u8])> {
        let pages = self.pages?;
        let wants_json = |(name, value): (&[u8], &[u8])| {
            name.eq_ignore_ascii_case(b"accept") && value == b"application/json"
        };
        match head.path {
            b"/stats.json" => Some((Content::Json, &pages.json)),
            b"/stats" if head.fields().any(wants_json) => Some((Content::Json, &pages.json)),
            b"/stats" => Some((Content::Html, &pages.html)),
            _ => None,
        }
    }

    /// Answers what is no request, behind the bytes that are used up; nothing more is looked at.
    fn give_up(
        &mut self,
        conn: &mut Conn,
        error: ParseError,
        (buffer, used): (&[u8], usize),
    ) -> usize {
        // On a proxy's connection the last client that was named may be another one.
        let is_proxy = conn.forwarded && self.tracker.policy().is_trusted_proxy(conn.peer);
        let client = (!is_proxy).then_some(conn.peer);
        let head_only = buffer[used..].trim_ascii_start().starts_with(b"HEAD ");
        let status = self.tracker.handle_bad_http((conn.peer, client), error, self.body);
        conn.respond(status, self.body, false, head_only);
        conn.after = After::Drain;
        buffer.len()
    }

    /// Makes the connection a WebSocket, or refuses to. False: WebSockets are not served.
    fn upgrade(&mut self, conn: &mut Conn, head: &Head<'_>) -> bool {
        match self.tracker.handle_upgrade(conn.client, head, self.body) {
            None => false,
            Some(Ok(upgrade)) => {
                upgrade.write_response(&mut conn.output);
                conn.open_web(self.now);
                self.tracker.web_opened(conn.client, Connection(self.token.to_bits()));
                true
            }
            Some(Err(status)) => {
                conn.respond(status, self.body, false, head.method == Method::Head);
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
                Event::Text(text) => tracker.handle_web(now.seconds(), connection, text, *effects),
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
        if any && tracker.bans(conn.client.to_canonical()) {
            // It has been told why; with the connection its peers leave.
            conn.close_web(*now, Reason::Banned);
        }
    }
}
