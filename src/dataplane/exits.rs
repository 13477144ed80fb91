//! Where what the tracker says goes: send slots, mailboxes, and copies for connections.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::mailbox::Post;
use super::ring::{Outbox, Token};
use crate::limits::UDP_REPLY_BYTES_MAX;
use crate::tracker::http::Connection;
use crate::tracker::owner::CoreId;
use crate::tracker::{Effects, MailboxFull, WebKind};

/// Copies of answers that are kept for the next ones.
const SPARE_COPIES: usize = 256;
/// Bytes above which a copy is not kept.
const SPARE_COPY_BYTES_MAX: usize = 16 * 1_024;

/// What the tracker says to connections, on its way to them.
#[derive(Default)]
pub(super) struct Answers {
    /// The answer to the request that waits.
    pub http: Vec<(Token, Vec<u8>)>,
    /// Messages, oldest first.
    pub web: Vec<(Token, Vec<u8>, WebKind)>,
    spare: Vec<Vec<u8>>,
}

impl Answers {
    fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        copy
    }

    /// Keeps the memory of what has been delivered.
    pub fn recycle(&mut self, copy: Vec<u8>) {
        if self.spare.len() < SPARE_COPIES && copy.capacity() <= SPARE_COPY_BYTES_MAX {
            self.spare.push(copy);
        }
    }
}

/// Where the tracker's answers go.
pub(super) struct Exits<'a> {
    pub outbox: Outbox<'a>,
    pub udp: &'a [UdpSocket],
    pub post: &'a mut Post,
    pub answers: &'a mut Answers,
}

impl Effects for Exits<'_> {
    fn reply_buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]> {
        self.outbox.buffer()
    }

    fn send_reply(&mut self, listener: u8, target: SocketAddr, len: usize) {
        self.outbox.send(self.udp[usize::from(listener)].as_fd(), target, len);
    }

    fn post(&mut self, to: CoreId, message: &[u8]) -> Result<(), MailboxFull> {
        self.post.send(to, message).map_err(|_| MailboxFull)
    }

    fn answer_http(&mut self, connection: Connection, body: &[u8]) {
        let copy = self.answers.copy(body);
        self.answers.http.push((Token::from_bits(connection.0), copy));
    }

    fn send_web(&mut self, connection: Connection, text: &[u8], kind: WebKind) {
        let copy = self.answers.copy(text);
        self.answers.web.push((Token::from_bits(connection.0), copy, kind));
    }
}
