//! WebSocket frames in and out (RFC 6455), without a socket: bytes in, messages and bytes out.
//!
//! `tungstenite` reads the frames and knows the rules. It keeps a buffer of kilobytes for each
//! connection, and nearly all connections are idle; so it is fed whole frames only, and what it
//! keeps is thrown away whenever no message in parts is unfinished. An idle connection holds the
//! few words of [`WebSocket`], and so does one that is being closed: at the end of the process that
//! may be all of them at once.
//!
//! Behind a close frame nothing goes out, and behind the other side's nothing is looked at.

use std::io::{self, Cursor, ErrorKind, Read, Write};

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::limits::WEB_MESSAGE_BYTES_MAX;

#[cfg(test)]
mod tests;

/// Bytes of the library's buffer while it has work.
const READ_BUFFER_BYTES: usize = 4_096;

/// What came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A message of text, or of bytes that are text.
    Text(&'a str),
    /// A message of bytes that are no text.
    Garbage,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Life {
    /// Messages go both ways.
    #[default]
    Open,
    /// We have closed it and wait for the other side to agree.
    Closing,
    /// Nothing more will be read; what is to be written is.
    Ended,
}

/// Why we close a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// No message for a long time, or the tracker stops (1001).
    GoingAway,
    /// The other side does not keep to RFC 6455 (1002).
    Protocol,
    /// Text that is no UTF-8 (1007).
    NoText,
    /// Its client is not listened to any more (1008).
    Banned,
    /// A message longer than [`WEB_MESSAGE_BYTES_MAX`] (1009).
    TooLong,
}

/// One connection's framing.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// The beginning of a frame whose rest has not come.
    input: Vec<u8>,
    /// The library, while a message in parts is unfinished.
    context: Option<Box<WebSocketContext>>,
    /// Parts of a message have come, and not its last one.
    in_parts: bool,
    life: Life,
}

impl WebSocket {
    /// Whether a message has begun and not ended.
    pub const fn is_amid_message(&self) -> bool {
        self.in_parts || !self.input.is_empty()
    }

    /// Takes bytes, hands what came to `sink`, and appends what the protocol demands in return.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Life {
        if self.life == Life::Ended {
            return Life::Ended;
        }
        if self.input.is_empty() {
            let whole = self.whole_frames(bytes);
            self.feed(&bytes[..whole], output, sink);
            self.keep(&bytes[whole..]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            match self.whole_frames(&input) {
                0 => self.input = input,
                whole => {
                    self.feed(&input[..whole], output, sink);
                    // A buffer of its own: that of a long message is not kept for a few bytes.
                    self.keep(&input[whole..]);
                }
            }
        }
        self.life
    }

    /// Appends a message of text. Nothing, once the connection is being closed.
    pub fn send(&self, text: &[u8], output: &mut Vec<u8>) {
        if self.life == Life::Open {
            write_frame(OpCode::Data(Data::Text), text, output);
        }
    }

    /// Appends a ping.
    pub fn ping(&self, output: &mut Vec<u8>) {
        if self.life == Life::Open {
            write_frame(OpCode::Control(Control::Ping), &[], output);
        }
    }

    /// Begins to close the connection, unless it is being closed.
    pub fn close(&mut self, reason: Reason, output: &mut Vec<u8>) {
        if self.life != Life::Open {
            return;
        }
        let code = u16::from(match reason {
            Reason::GoingAway => CloseCode::Away,
            Reason::Protocol => CloseCode::Protocol,
            Reason::NoText => CloseCode::Invalid,
            Reason::Banned => CloseCode::Policy,
            Reason::TooLong => CloseCode::Size,
        });
        write_frame(OpCode::Control(Control::Close), &code.to_be_bytes(), output);
        self.life = Life::Closing;
    }

    /// Keeps the beginning of a frame.
    fn keep(&mut self, rest: &[u8]) {
        if self.life != Life::Ended {
            self.input.extend_from_slice(rest);
        }
    }

    /// Nothing more will be read; what was for that goes.
    fn end(&mut self) {
        *self = Self { life: Life::Ended, ..Self::default() };
    }

    /// Hands whole frames to the library.
    fn feed(&mut self, frames: &[u8], output: &mut Vec<u8>, sink: &mut dyn FnMut(Event<'_>)) {
        if frames.is_empty() {
            return;
        }
        let mut context = self.context.take().unwrap_or_else(new_context);
        if self.life == Life::Closing {
            // It learns of the close that has gone, lest it answer anything. A second time does
            // nothing, and memory takes everything.
            let _ = context.close(&mut Pipe { input: &[], output: &mut Vec::new() }, None);
        }
        let mut pipe = Pipe { input: frames, output };
        loop {
            let reason = match context.read(&mut pipe) {
                // What comes after our close does not matter any more.
                Ok(Message::Text(_) | Message::Binary(_)) if self.life == Life::Closing => continue,
                Ok(Message::Text(text)) => {
                    sink(Event::Text(&text));
                    continue;
                }
                Ok(Message::Binary(bytes)) => {
                    sink(std::str::from_utf8(&bytes).map_or(Event::Garbage, Event::Text));
                    continue;
                }
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_)) => {
                    self.end();
                    return;
                }
                Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Reason::TooLong,
                Err(Error::Utf8(_)) => Reason::NoText,
                Err(_) => Reason::Protocol,
            };
            self.close(reason, pipe.output);
            self.end();
            return;
        }
        if self.in_parts {
            self.context = Some(context);
        }
    }

    /// How many bytes at the front make whole frames. What is no frame, or one too long, counts
    /// as whole: the library says what is wrong with it.
    fn whole_frames(&mut self, bytes: &[u8]) -> usize {
        let mut cursor = Cursor::new(bytes);
        let mut whole = 0;
        while let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) {
            let end = cursor.position().saturating_add(length);
            if length > WEB_MESSAGE_BYTES_MAX as u64 {
                return bytes.len();
            }
            if end > bytes.len() as u64 {
                return whole;
            }
            cursor.set_position(end);
            whole = usize::try_from(end).unwrap_or(bytes.len());
            if matches!(header.opcode, OpCode::Data(_)) {
                self.in_parts = !header.is_final;
            }
        }
        // What is no header at all is the library's to refuse, the beginning of one is not.
        cursor.set_position(whole as u64);
        if FrameHeader::parse(&mut cursor).is_err() { bytes.len() } else { whole }
    }
}

fn new_context() -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(WEB_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(WEB_MESSAGE_BYTES_MAX));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

fn write_frame(opcode: OpCode, payload: &[u8], output: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let written = header.format(payload.len() as u64, output);
    debug_assert!(written.is_ok(), "memory takes everything");
    output.extend_from_slice(payload);
}

/// Memory as the library's stream.
struct Pipe<'a> {
    input: &'a [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.input.read(into)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
