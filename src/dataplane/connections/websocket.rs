//! WebSocket frames in and out (RFC 6455), without a socket: bytes in, messages and bytes out.
//!
//! `tungstenite` reads the frames and knows the rules. It keeps a buffer of kilobytes for each
//! connection, and nearly all connections are idle; so it is fed whole frames only, and what it
//! keeps is thrown away whenever nothing is unfinished: no message in parts, no close under way.
//! An idle connection holds the few words of [`WebSocket`].

use std::io::{self, Cursor, ErrorKind, Read, Write};

use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Message, Utf8Bytes};

use crate::limits::WEB_MESSAGE_BYTES_MAX;

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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    /// Messages go both ways.
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
    /// A message longer than [`WEB_MESSAGE_BYTES_MAX`] (1009).
    TooLong,
}

/// One connection's framing.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// The beginning of a frame whose rest has not come.
    input: Vec<u8>,
    /// The library, while something is unfinished.
    context: Option<Box<WebSocketContext>>,
    /// Parts of a message have come, and not its last one.
    in_parts: bool,
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
        if self.input.is_empty() {
            let whole = self.whole_frames(bytes);
            let life = self.feed(&bytes[..whole], output, sink);
            self.input.extend_from_slice(&bytes[whole..]);
            return life;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let whole = self.whole_frames(&input);
        let life = self.feed(&input[..whole], output, sink);
        if whole < input.len() {
            input.drain(..whole);
            self.input = input;
        }
        life
    }

    /// Appends a message of text. Nothing, once the connection is being closed.
    pub fn send(&self, text: &[u8], output: &mut Vec<u8>) {
        if self.is_open() {
            write_frame(OpCode::Data(Data::Text), text, output);
        }
    }

    /// Appends a ping.
    pub fn ping(&self, output: &mut Vec<u8>) {
        if self.is_open() {
            write_frame(OpCode::Control(Control::Ping), &[], output);
        }
    }

    /// Begins to close the connection, unless it is being closed.
    pub fn close(&mut self, reason: Reason, output: &mut Vec<u8>) {
        let mut context = self.context.take().unwrap_or_else(new_context);
        let code = match reason {
            Reason::GoingAway => CloseCode::Away,
            Reason::Protocol => CloseCode::Protocol,
            Reason::NoText => CloseCode::Invalid,
            Reason::TooLong => CloseCode::Size,
        };
        let frame = CloseFrame { code, reason: Utf8Bytes::default() };
        // Writing into memory fails only where a close has gone before.
        let _ = context.close(&mut Pipe { input: &[], output }, Some(frame));
        self.context = Some(context);
    }

    fn is_open(&self) -> bool {
        self.context.as_ref().is_none_or(|context| context.can_write())
    }

    /// Hands whole frames to the library.
    fn feed(
        &mut self,
        frames: &[u8],
        output: &mut Vec<u8>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Life {
        if frames.is_empty() {
            return if self.is_open() { Life::Open } else { Life::Closing };
        }
        let mut context = self.context.take().unwrap_or_else(new_context);
        let mut pipe = Pipe { input: frames, output };
        loop {
            let reason = match context.read(&mut pipe) {
                // What comes after our close does not matter any more.
                Ok(Message::Text(_) | Message::Binary(_)) if !context.can_write() => continue,
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
                    return Life::Ended;
                }
                Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Reason::TooLong,
                Err(Error::Utf8(_)) => Reason::NoText,
                Err(Error::Protocol(ProtocolError::InvalidCloseSequence) | _) => Reason::Protocol,
            };
            self.context = Some(context);
            self.close(reason, pipe.output);
            return Life::Ended;
        }
        let life = if context.can_write() { Life::Open } else { Life::Closing };
        if self.in_parts || life == Life::Closing {
            self.context = Some(context);
        }
        life
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
