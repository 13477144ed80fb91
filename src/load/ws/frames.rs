//! The client's half of WebSocket frames (RFC 6455 section 5), without a socket.
//!
//! `tungstenite` knows what a frame's head looks like; what may come from a tracker is little:
//! whole messages, messages in parts, pings, a close. A reader between two frames holds nothing.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::load::verify::Fault;

/// Bytes of the longest frame or message that is read.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A message.
    Text(&'a str),
    /// It wants these bytes back.
    Ping(&'a [u8]),
    /// The other side closes, with that code; 1005 if it gives none.
    Close(u16),
}

/// Bytes on their way to being messages.
#[derive(Debug, Default)]
pub struct Reader {
    /// The beginning of a frame whose rest has not come.
    input: Vec<u8>,
    /// The beginning of a message whose rest has not come.
    parts: Option<Vec<u8>>,
}

impl Reader {
    /// Takes bytes and hands what came to `sink`.
    ///
    /// # Errors
    /// [`Fault::Frame`] at the first byte that is against the rules.
    pub fn receive(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Fault> {
        if self.input.is_empty() {
            let used = self.read(bytes, sink)?;
            self.input.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let used = self.read(&input, sink)?;
        if used < input.len() {
            input.drain(..used);
            self.input = input;
        }
        Ok(())
    }

    /// Reads whole frames; returns how many bytes they are.
    fn read(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<usize, Fault> {
        let mut cursor = Cursor::new(bytes);
        let mut used = 0;
        while let Some((head, length)) =
            FrameHeader::parse(&mut cursor).map_err(|_| Fault::Frame)?
        {
            let start = usize::try_from(cursor.position()).map_err(|_| Fault::Frame)?;
            let length = usize::try_from(length).map_err(|_| Fault::Frame)?;
            if length > MESSAGE_BYTES_MAX || head.mask.is_some() {
                return Err(Fault::Frame);
            }
            let Some(payload) = bytes.get(start..start + length) else { break };
            used = start + length;
            cursor.set_position(used as u64);
            self.frame(&head, payload, sink)?;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        head: &FrameHeader,
        payload: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if head.rsv1 || head.rsv2 || head.rsv3 {
            return Err(Fault::Frame);
        }
        let mut hand_over = |message: &[u8]| {
            let text = std::str::from_utf8(message).map_err(|_| Fault::Frame)?;
            sink(Event::Text(text));
            Ok(())
        };
        match head.opcode {
            OpCode::Data(Data::Text | Data::Binary) if self.parts.is_none() => {
                if head.is_final {
                    return hand_over(payload);
                }
                self.parts = Some(payload.to_vec());
                Ok(())
            }
            OpCode::Data(Data::Continue) => {
                let mut message = self.parts.take().ok_or(Fault::Frame)?;
                message.extend_from_slice(payload);
                if message.len() > MESSAGE_BYTES_MAX {
                    return Err(Fault::Frame);
                }
                if head.is_final {
                    return hand_over(&message);
                }
                self.parts = Some(message);
                Ok(())
            }
            OpCode::Control(control) if head.is_final && payload.len() <= 125 => {
                match control {
                    Control::Ping => sink(Event::Ping(payload)),
                    Control::Pong => {}
                    Control::Close => {
                        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                        sink(Event::Close(code.unwrap_or(1005)));
                    }
                    Control::Reserved(_) => return Err(Fault::Frame),
                }
                Ok(())
            }
            OpCode::Data(_) | OpCode::Control(_) => Err(Fault::Frame),
        }
    }
}

/// Appends a message of text.
pub fn write_text(out: &mut Vec<u8>, text: &[u8], mask: [u8; 4]) {
    write(out, OpCode::Data(Data::Text), text, mask);
}

/// Appends the answer to a ping.
pub fn write_pong(out: &mut Vec<u8>, payload: &[u8], mask: [u8; 4]) {
    write(out, OpCode::Control(Control::Pong), payload, mask);
}

/// Appends a close with a code.
pub fn write_close(out: &mut Vec<u8>, code: u16, mask: [u8; 4]) {
    write(out, OpCode::Control(Control::Close), &code.to_be_bytes(), mask);
}

fn write(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let head = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    head.format(payload.len() as u64, out).expect("memory takes everything");
    let start = out.len();
    out.extend_from_slice(payload);
    let (words, rest) = out[start..].as_chunks_mut::<4>();
    for word in words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::Message;
    use tungstenite::protocol::{Role, WebSocketContext};

    use super::*;

    /// A frame of a tracker.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("short");
        let head = match length {
            0..126 => vec![first, u8::try_from(length).expect("below 126")],
            _ => [&[first, 126], &length.to_be_bytes()[..]].concat(),
        };
        [&head, payload].concat()
    }

    /// What comes of bytes that come in pieces of that size.
    fn heard(bytes: &[u8], piece: usize) -> Result<Vec<String>, Fault> {
        let (mut reader, mut heard) = (Reader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.receive(piece, &mut |event| heard.push(format!("{event:?}")))?;
        }
        assert!(reader.input.is_empty() && reader.parts.is_none());
        Ok(heard)
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let long = "x".repeat(1_000);
        let bytes = [
            frame(0x81, b"one"),
            frame(0x01, b"in "),
            frame(0x89, b"p"),
            frame(0x00, b"three "),
            frame(0x80, b"parts"),
            frame(0x8A, b""),
            frame(0x82, long.as_bytes()),
            frame(0x88, &[3, 233, b'b']),
        ]
        .concat();
        let expected: Vec<String> = [
            Event::Text("one"),
            Event::Ping(b"p"),
            Event::Text("in three parts"),
            Event::Text(&long),
            Event::Close(1_001),
        ]
        .iter()
        .map(|event| format!("{event:?}"))
        .collect();
        for piece in [1, 2, 3, 7, 64, bytes.len()] {
            assert_eq!(heard(&bytes, piece).as_ref(), Ok(&expected), "{piece}");
        }
    }

    #[test]
    fn what_is_against_the_rules_is_a_fault() {
        let masked = [0x81, 0x81, 1, 2, 3, 4, 0];
        let huge = [0x81, 127, 0, 0, 0, 0, 0xFF, 0, 0, 0];
        let cases = [
            frame(0xC1, b"compressed"),
            frame(0x80, b"no beginning"),
            [frame(0x01, b"no end"), frame(0x81, b"")].concat(),
            frame(0x09, b"a ping in parts"),
            frame(0x89, &[0; 126]),
            frame(0x83, b"reserved"),
            frame(0x81, b"\xFF"),
            masked.to_vec(),
            huge.to_vec(),
        ];
        for bytes in cases {
            assert_eq!(heard(&bytes, bytes.len()), Err(Fault::Frame), "{bytes:?}");
        }
    }

    #[test]
    fn a_server_reads_what_is_written() {
        let mut out = Vec::new();
        for len in [0, 1, 125, 126, 70_000] {
            write_text(&mut out, &vec![b'a'; len], [1, 2, 3, 200]);
        }
        write_pong(&mut out, b"back", [9; 4]);
        write_close(&mut out, 1_000, [7, 0, 0, 7]);
        let mut server = WebSocketContext::new(Role::Server, None);
        let mut pipe = Cursor::new(out);
        for len in [0, 1, 125, 126, 70_000] {
            let message = server.read(&mut pipe).expect("a message");
            assert_eq!(message, Message::text("a".repeat(len)));
        }
        assert_eq!(server.read(&mut pipe).expect("a pong"), Message::Pong(b"back"[..].into()));
        assert!(server.read(&mut pipe).expect("a close").is_close());
    }
}
