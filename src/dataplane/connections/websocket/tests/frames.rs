//! Frames as a client writes them, a strict reader of what a server says, and RFC 6455 once more:
//! a plain reading of the rules, whole and without hurry, to which the framing is compared.

use super::super::Life;
use super::{Message, Outcome};
use crate::limits::WEB_MESSAGE_BYTES_MAX;

/// The first bit of a frame: it is the last of its message.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Bytes of a payload's length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// As few as will do, which RFC 6455 demands.
    Shortest,
    Two,
    Eight,
}

/// A frame that says it has `length` bytes, whatever it has.
pub fn frame_saying(
    (first, mask): (u8, Option<[u8; 4]>),
    (width, length): (Width, u64),
    payload: &[u8],
) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let width = match (width, length) {
        (Width::Shortest, ..126) => None,
        (Width::Shortest, 126..65_536) | (Width::Two, _) => Some(Width::Two),
        _ => Some(Width::Eight),
    };
    let mut frame = vec![first];
    match width {
        Some(Width::Two) => {
            frame.push(masked | 126);
            frame.extend(u16::try_from(length).expect("two bytes").to_be_bytes());
        }
        Some(_) => {
            frame.push(masked | 127);
            frame.extend(length.to_be_bytes());
        }
        None => frame.push(masked | u8::try_from(length).expect("seven bits")),
    }
    frame.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A frame as RFC 6455 wants it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u64::try_from(payload.len()).expect("64 bits");
    frame_saying((first, Some([0xA5, 0x00, 0xFF, 0x3C])), (Width::Shortest, length), payload)
}

pub fn text(payload: &str) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_bytes())
}

/// A message in parts.
pub fn fragments(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let part = |(at, payload): (usize, &&[u8])| {
        let last = if at + 1 == parts.len() { FIN } else { 0 };
        frame(last | if at == 0 { opcode } else { CONTINUATION }, payload)
    };
    parts.iter().enumerate().flat_map(part).collect()
}

pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// What a server says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A code and a reason, or neither.
    Close(Option<(u16, String)>),
}

/// A header: the first byte, the mask, the bytes of the payload, and where that begins. `None` if
/// it is not all there.
fn header(bytes: &[u8]) -> Option<(u8, Option<[u8; 4]>, u64, usize)> {
    let [first, second, ..] = *bytes else { return None };
    let (length, at) = match second & 0x7F {
        126 => (u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes[2..].first_chunk()?), 10),
        length => (u64::from(length), 2),
    };
    if second & 0x80 == 0 {
        return Some((first, None, length, at));
    }
    Some((first, Some(*bytes[at..].first_chunk()?), length, at + 4))
}

/// Reads what a server has said, all of which must be whole, unmasked, as short as may be, in one
/// part, with nothing behind a close.
pub fn read_replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert!(!matches!(replies.last(), Some(Reply::Close(_))), "{bytes:?} behind a close");
        let (first, mask, length, at) = header(bytes).expect("a whole header");
        assert_eq!(mask, None, "masked by a server");
        let shortest = match length {
            ..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        assert_eq!(at, shortest, "the header of {length} bytes");
        let length = usize::try_from(length).expect("it is in memory");
        let payload = bytes[at..].get(..length).expect("a whole frame");
        bytes = &bytes[at + length..];
        assert!(first & 8 == 0 || length <= 125, "a long control frame");
        let is_text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        replies.push(match first {
            0x81 => Reply::Text(is_text(payload)),
            0x88 => Reply::Close(payload.split_first_chunk::<2>().map(|(code, reason)| {
                let code = u16::from_be_bytes(*code);
                assert!(is_code(code), "{code}");
                (code, is_text(reason))
            })),
            0x89 => Reply::Ping(payload.to_vec()),
            0x8A => Reply::Pong(payload.to_vec()),
            _ => panic!("{first:#x} begins a frame of ours"),
        });
    }
    replies
}

/// Codes that a close may carry: RFC 6455 section 7.4, and two that were registered later.
pub fn is_code(code: u16) -> bool {
    matches!(code, 1_000..=1_003 | 1_007..=1_013 | 3_000..=4_999)
}

/// What `bytes` come to, by the rules.
pub fn by_the_rules(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut parts: Option<(u8, Vec<u8>)> = None;
    let mut at = 0;
    outcome.amid = loop {
        let (first, mask, length, start) = match header(&bytes[at..]) {
            // As much of a header as tells what it is would do, but all of it is waited for.
            None => break at < bytes.len() || parts.is_some(),
            Some(header) => header,
        };
        let (is_final, opcode) = (first & FIN != 0, first & 0x0F);
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return outcome.failed(1_002);
        }
        let length = match usize::try_from(length) {
            Ok(length) if length <= WEB_MESSAGE_BYTES_MAX => length,
            _ => return outcome.failed(1_009),
        };
        let Some(masked) = bytes[at + start..].get(..length) else { break true };
        at += start + length;
        let Some(mask) = mask else { return outcome.failed(1_002) };
        let payload: Vec<u8> =
            masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let is_control = opcode & 8 != 0;
        if first & 0x70 != 0 || is_control && (!is_final || length > 125) {
            return outcome.failed(1_002);
        }
        match opcode {
            PING => outcome.replies.push(Reply::Pong(payload)),
            PONG => {}
            CLOSE => return outcome.closed(&payload),
            _ => {
                if (opcode == CONTINUATION) != parts.is_some() {
                    return outcome.failed(1_002);
                }
                let (_, message) = parts.get_or_insert((opcode, Vec::new()));
                if message.len() + length > WEB_MESSAGE_BYTES_MAX {
                    return outcome.failed(1_009);
                }
                message.extend(payload);
                let Some((opcode, message)) = parts.take_if(|parts| {
                    // Text that cannot become UTF-8 any more is not waited for.
                    is_final || parts.0 == TEXT && is_hopeless(&parts.1)
                }) else {
                    continue;
                };
                match String::from_utf8(message) {
                    Ok(text) => outcome.messages.push(Message::Text(text)),
                    Err(_) if opcode == BINARY => outcome.messages.push(Message::Garbage),
                    Err(_) => return outcome.failed(1_007),
                }
            }
        }
    };
    outcome
}

/// Whether no bytes behind these make them UTF-8.
fn is_hopeless(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some())
}

impl Outcome {
    fn failed(mut self, code: u16) -> Self {
        self.replies.push(Reply::Close(Some((code, String::new()))));
        self.life = Life::Ended;
        self
    }

    fn closed(mut self, payload: &[u8]) -> Self {
        let reply = match (payload.split_first_chunk::<2>(), payload.len()) {
            (None, 0) => None,
            (None, _) => return self.failed(1_002),
            (Some((code, reason)), _) => {
                let Ok(reason) = str::from_utf8(reason) else { return self.failed(1_007) };
                let code = u16::from_be_bytes(*code);
                Some(if is_code(code) {
                    (code, reason.to_owned())
                } else {
                    (1_002, "Protocol violation".to_owned())
                })
            }
        };
        self.replies.push(Reply::Close(reply));
        self.life = Life::Ended;
        self
    }
}
