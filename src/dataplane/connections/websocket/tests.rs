//! Frames of well and badly behaved clients, whole and cut anywhere.
//!
//! The cases follow those of the Autobahn test suite: framing, pings, reserved bits, opcodes,
//! fragments, UTF-8, closes, limits. Each runs alone, behind a message, before one, and cut in many
//! ways, always with the same result; after every cut it is checked that memory is held only for
//! what is unfinished.

mod echo;
mod frames;

use proptest::prelude::*;

use self::frames::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Reply, TEXT, Width, by_the_rules, close,
    fragments, frame, frame_saying, is_code, read_replies, text,
};
use super::{Event, Life, Reason, WebSocket};
use crate::limits::WEB_MESSAGE_BYTES_MAX;
use crate::rng::Rng;

/// Bytes up to which a sequence is cut at every offset.
const CUT_EVERYWHERE_BYTES: usize = 600;

/// Bytes that are looked at again after a cut, cuts times length, to see what should have come.
const LOOK_BACK_BYTES: usize = 1 << 20;

/// What was handed out.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Message {
    Text(String),
    Garbage,
}

/// What bytes come to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Outcome {
    messages: Vec<Message>,
    replies: Vec<Reply>,
    life: Life,
    /// A message has begun and not ended.
    amid: bool,
}

/// Hands bytes over and notes what comes out.
fn hand_over(socket: &mut WebSocket, bytes: &[u8], output: &mut Vec<u8>) -> Vec<Message> {
    let mut messages = Vec::new();
    let life = socket.receive(bytes, output, &mut |event| {
        messages.push(match event {
            Event::Text(text) => Message::Text(text.to_owned()),
            Event::Garbage => Message::Garbage,
        });
    });
    assert_eq!(life, socket.life);
    assert_holds_no_more_than_it_needs(socket);
    messages
}

fn assert_holds_no_more_than_it_needs(socket: &WebSocket) {
    // What a vector that grows by doubling has, and its least.
    assert!(socket.input.capacity() <= 2 * socket.input.len() + 8, "{}", socket.input.capacity());
    assert_eq!(socket.context.is_some(), socket.in_parts);
    assert!(socket.life != Life::Ended || !socket.is_amid_message());
}

/// Hands `bytes` over in pieces that end at `cuts`, which ascend.
fn run(bytes: &[u8], cuts: &[usize]) -> Outcome {
    let (mut socket, mut output, mut messages) = (WebSocket::default(), Vec::new(), Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        messages.extend(hand_over(&mut socket, &bytes[from..to], &mut output));
        from = to;
        if to * cuts.len() <= LOOK_BACK_BYTES {
            let expected = by_the_rules(&bytes[..to]);
            assert_eq!((&messages, socket.life), (&expected.messages, expected.life));
            assert_eq!(socket.is_amid_message(), expected.amid, "at {to} of {cuts:?}");
        }
    }
    let replies = read_replies(&output);
    let (life, amid) = (socket.life, socket.is_amid_message());
    if life == Life::Ended {
        // Whatever is tried.
        let before = output.len();
        assert_eq!(hand_over(&mut socket, &text("late"), &mut output), []);
        assert_eq!(hand_over(&mut socket, &frame(FIN | PING, b"late"), &mut output), []);
        socket.send(b"late", &mut output);
        socket.ping(&mut output);
        socket.close(Reason::GoingAway, &mut output);
        assert_eq!((socket.life, output.len()), (Life::Ended, before), "behind a close");
    }
    Outcome { messages, replies, life, amid }
}

/// Ways to cut `bytes`, of which the first is not to.
fn ways_to_cut(bytes: &[u8]) -> Vec<Vec<usize>> {
    let length = bytes.len();
    let mut ways = vec![vec![], (1..length).collect()];
    if length <= CUT_EVERYWHERE_BYTES {
        ways.extend((1..length).map(|at| vec![at]));
    } else {
        let near_an_end = (1..30).flat_map(|at| [at, length - at]);
        ways.extend(near_an_end.map(|at| vec![at]));
    }
    let mut rng = Rng::new(6455);
    for pieces in [2, 3, 5, 9, 30] {
        let below = u32::try_from(length + 1).expect("short");
        let mut cut = || usize::try_from(rng.below(below)).expect("short");
        let mut cuts: Vec<usize> = (0..pieces).map(|_| cut()).collect();
        cuts.sort_unstable();
        ways.push(cuts);
    }
    ways
}

/// One case: alone, behind a message, and before one.
fn check_case(what: &str, bytes: &[u8], expected: &Outcome) {
    let said = |text: &str| Message::Text(text.to_owned());
    let mut behind = expected.clone();
    behind.messages.insert(0, said("before"));
    let mut before = expected.clone();
    if expected.life == Life::Open {
        before.messages.push(said("after"));
    }
    let mut cases = vec![
        (bytes.to_vec(), expected.clone()),
        ([&text("before"), bytes].concat(), behind),
        ([bytes, &text("after")].concat(), before),
    ];
    if expected.amid {
        cases.pop();
    }
    for (bytes, expected) in cases {
        assert_eq!(by_the_rules(&bytes), expected, "{what}, by the rules");
        for cuts in ways_to_cut(&bytes) {
            assert!(run(&bytes, &cuts) == expected, "{what}, cut at {cuts:?}: {:?}", {
                run(&bytes, &cuts)
            });
        }
    }
}

/// The connection stays open.
fn goes_on(what: &str, bytes: &[u8], messages: &[&str], replies: &[Reply]) {
    let messages = messages.iter().map(|text| Message::Text((*text).to_owned())).collect();
    let replies = replies.to_vec();
    check_case(what, bytes, &Outcome { messages, replies, life: Life::Open, amid: false });
}

/// The connection ends, and we say why.
fn ends(what: &str, bytes: &[u8], code: u16) {
    let replies = vec![Reply::Close(Some((code, String::new())))];
    let expected = Outcome { replies, life: Life::Ended, ..Outcome::default() };
    check_case(what, bytes, &expected);
}

#[test]
fn messages_of_every_length_up_to_the_limit_are_handed_out() {
    let json = |length: usize| format!("\"{}\"", "x".repeat(length))[..length].to_owned();
    for length in [0, 1, 2, 124, 125, 126, 127, 128, 4_096, 65_535, WEB_MESSAGE_BYTES_MAX] {
        let message = json(length);
        for opcode in [TEXT, BINARY] {
            let whole = frame(FIN | opcode, message.as_bytes());
            goes_on(&format!("{length} bytes in one frame"), &whole, &[&message], &[]);
            let (one, other) = message.as_bytes().split_at(length / 3);
            let parts = fragments(opcode, &[one, other]);
            goes_on(&format!("{length} bytes in two"), &parts, &[&message], &[]);
        }
    }
    let tiny = vec![&b"x"[..]; 200];
    goes_on("parts of a byte", &fragments(TEXT, &tiny), &[&"x".repeat(200)], &[]);
    goes_on("two messages", &[text("a"), text("b")].concat(), &["a", "b"], &[]);
}

#[test]
fn longer_messages_are_refused() {
    let whole = |length: u64| {
        let head = |mask| frame_saying((FIN | TEXT, mask), (Width::Eight, length), &[]);
        [head(Some([1, 2, 3, 4])), head(None)]
    };
    for length in [65_537, 1 << 20, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
        for header in whole(length) {
            ends(&format!("a header of {length} bytes"), &header, 1_009);
        }
    }
    let limit = vec![b'x'; WEB_MESSAGE_BYTES_MAX];
    ends("one byte more in one frame", &frame(FIN | BINARY, &[&limit[..], b"x"].concat()), 1_009);
    for opcode in [TEXT, BINARY] {
        ends("one byte more in two", &fragments(opcode, &[&limit[..], b"x"]), 1_009);
        ends("one byte more in three", &fragments(opcode, &[b"x", &limit[..], b""]), 1_009);
    }
    // Too long for any frame, before it is too long for a control frame.
    ends("a ping of more", &frame(FIN | PING, &[&limit[..], b"x"].concat()), 1_009);
}

/// RFC 6455 section 5.2 demands the shortest length; the library takes others, and so do we.
#[test]
fn lengths_in_more_bytes_than_needed_are_accepted() {
    for width in [Width::Two, Width::Eight] {
        for mask in [[0; 4], [0xFF; 4], *b"key!"] {
            let long = |first| frame_saying((first, Some(mask)), (width, 5), b"hello");
            goes_on("a text", &long(FIN | TEXT), &["hello"], &[]);
            let pong = Reply::Pong(b"hello".to_vec());
            goes_on("a ping", &long(FIN | PING), &[], &[pong]);
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_told_apart() {
    let messages = vec![Message::Garbage];
    let expected = Outcome { messages, ..Outcome::default() };
    for garbage in [&b"\xFF"[..], b"\xC3", b"\xED\xA0\x80", &[0xFE; 126]] {
        check_case("garbage", &frame(FIN | BINARY, garbage), &expected);
        check_case("in parts", &fragments(BINARY, &[garbage, b"", b"{}"]), &expected);
    }
}

#[test]
fn pings_get_their_pongs_and_pongs_nothing() {
    let payload: Vec<u8> = (0..=255).collect();
    for length in 0..=125 {
        let payload = &payload[131 - length..131];
        let ping = frame(FIN | PING, payload);
        goes_on("a ping", &ping, &[], &[Reply::Pong(payload.to_vec())]);
        goes_on("a pong", &frame(FIN | PONG, payload), &[], &[]);
    }
    let ten: Vec<u8> = (0..10).flat_map(|number| frame(FIN | PING, &[number])).collect();
    let pongs: Vec<_> = (0..10).map(|number| Reply::Pong(vec![number])).collect();
    goes_on("ten pings", &ten, &[], &pongs);
    for length in [126, 127, 65_535, WEB_MESSAGE_BYTES_MAX] {
        for opcode in [PING, PONG, CLOSE] {
            ends("a long control frame", &frame(FIN | opcode, &vec![b'x'; length]), 1_002);
        }
    }
}

#[test]
fn control_frames_come_between_parts_and_not_in_parts() {
    let pong = |payload: &[u8]| Reply::Pong(payload.to_vec());
    let between = [
        frame(TEXT, b"a"),
        frame(FIN | PING, b"1"),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, b"2"),
        frame(CONTINUATION, b"b"),
        frame(FIN | PING, b"3"),
        frame(FIN | CONTINUATION, b"c"),
    ];
    goes_on("pings between", &between.concat(), &["abc"], &[pong(b"1"), pong(b"3")]);
    for upto in 1..between.len() {
        let replies = by_the_rules(&between[..upto].concat()).replies;
        let expected = Outcome { replies, amid: true, ..Outcome::default() };
        check_case("parts without an end", &between[..upto].concat(), &expected);
    }
    for opcode in [PING, PONG, CLOSE] {
        ends("a part of a control frame", &frame(opcode, b""), 1_002);
        let both = [frame(opcode, b"a"), frame(FIN | CONTINUATION, b"b")].concat();
        ends("a control frame in parts", &both, 1_002);
        ends("between parts", &[frame(TEXT, b"a"), frame(opcode, b"b")].concat(), 1_002);
    }
}

#[test]
fn reserved_bits_reserved_opcodes_and_frames_without_a_mask_are_refused() {
    for opcode in 0..16 {
        let known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
        for payload in [&b""[..], b"hello", &[b'x'; 126]] {
            for bits in if known { 1..8 } else { 0..8 } {
                let first = FIN | bits << 4 | opcode;
                let what = format!("{first:#x} and {} bytes", payload.len());
                ends(&what, &frame(first, payload), 1_002);
                ends(&what, &[frame(TEXT, b"a"), frame(first, payload)].concat(), 1_002);
            }
            let length = u64::try_from(payload.len()).expect("short");
            let open = frame_saying((FIN | opcode, None), (Width::Shortest, length), payload);
            ends(&format!("{opcode} without a mask"), &open, 1_002);
        }
    }
}

#[test]
fn parts_are_parts_of_one_message() {
    for first in [FIN | CONTINUATION, CONTINUATION] {
        for payload in [&b""[..], b"hello"] {
            ends("a continuation of nothing", &frame(first, payload), 1_002);
            let after = [fragments(TEXT, &[b"a", b"b"]), frame(first, payload)].concat();
            let expected = Outcome {
                messages: vec![Message::Text("ab".to_owned())],
                replies: vec![Reply::Close(Some((1_002, String::new())))],
                life: Life::Ended,
                amid: false,
            };
            check_case("a continuation behind the last", &after, &expected);
        }
    }
    for begun in [TEXT, BINARY] {
        for next in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
            let bytes = [frame(begun, b"a"), frame(next, b"b")].concat();
            ends("a message within a message", &bytes, 1_002);
        }
    }
    let empty = fragments(TEXT, &[b"", b"", b""]);
    goes_on("a message of nothing in three", &empty, &[""], &[]);
    let two = [fragments(TEXT, &[b"a", b"b"]), fragments(BINARY, &[b"c", b"d"])].concat();
    goes_on("two in parts", &two, &["ab", "cd"], &[]);
}

#[test]
fn text_is_utf_8_however_it_is_parted() {
    let whole = ["\0", "\u{7f}", "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}"];
    let more = ["\u{fffd}", "\u{fffe}", "\u{ffff}", "\u{10000}", "\u{10ffff}", "k\u{1f3ce}!"];
    for text in whole.iter().chain(&more) {
        for at in 0..=text.len() {
            let (one, other) = text.as_bytes().split_at(at);
            goes_on("a character", &fragments(TEXT, &[one, other]), &[text], &[]);
        }
        let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
        goes_on("a character in bytes", &fragments(TEXT, &bytes), &[text], &[]);
    }
    let broken: [&[u8]; 21] = [
        // Alone, without a rest, too long for what it is.
        b"\x80",
        b"\xBF",
        b"\xC3",
        b"\xE2\x82",
        b"\xF0\x9F\x98",
        b"\xC0\x80",
        b"\xC1\xBF",
        b"\xE0\x80\x80",
        b"\xE0\x9F\xBF",
        b"\xF0\x80\x80\x80",
        b"\xF0\x8F\xBF\xBF",
        // Surrogates, beyond the last character, bytes that never are.
        b"\xED\xA0\x80",
        b"\xED\xBF\xBF",
        b"\xED\xA0\xBD\xED\xB8\x80",
        b"\xF4\x90\x80\x80",
        b"\xF5\x80\x80\x80",
        b"\xF8\x88\x80\x80\x80",
        b"\xFC\x84\x80\x80\x80\x80",
        b"\xFE",
        b"\xFF",
        b"a\xC3\x28",
    ];
    for bytes in broken {
        let inside = [b"ok ", bytes, b" ko"].concat();
        for text in [bytes, &inside] {
            ends("no UTF-8", &frame(FIN | TEXT, text), 1_007);
            for at in 0..=text.len() {
                let (one, other) = text.split_at(at);
                ends("no UTF-8 in parts", &fragments(TEXT, &[one, other]), 1_007);
            }
        }
    }
}

#[test]
fn a_close_is_answered_once_and_ends_everything() {
    let answers = |what: &str, bytes: &[u8], reply: Option<(u16, &str)>| {
        let reply = Reply::Close(reply.map(|(code, reason)| (code, reason.to_owned())));
        let expected = Outcome { replies: vec![reply], life: Life::Ended, ..Outcome::default() };
        check_case(what, bytes, &expected);
    };
    let bare = frame(FIN | CLOSE, b"");
    answers("no code", &bare, None);
    answers("two closes", &[&bare[..], &close(1_000, b"")].concat(), None);
    answers("amid a message", &[frame(TEXT, b"a"), bare].concat(), None);
    ends("half a code", &frame(FIN | CLOSE, b"\x03"), 1_002);
    let longest = "r".repeat(123);
    for code in (1_000..=1_003).chain(1_007..=1_013).chain([3_000, 3_999, 4_000, 4_999]) {
        assert!(is_code(code));
        for reason in ["", "gone \u{1f44b}", &longest] {
            let bytes = close(code, reason.as_bytes());
            answers(&format!("{code}"), &bytes, Some((code, reason)));
        }
    }
    let invalid = [0, 1, 999, 1_004, 1_005, 1_006, 1_014, 1_015, 1_016, 1_100, 2_000, 2_999];
    for code in invalid.into_iter().chain([5_000, 65_535]) {
        assert!(!is_code(code));
        let bytes = close(code, b"why");
        answers(&format!("{code}"), &bytes, Some((1_002, "Protocol violation")));
    }
    for reason in [&b"\xFF"[..], b"\xC3", b"ok \xED\xA0\x80"] {
        ends("a reason that is no text", &close(1_000, reason), 1_007);
    }
    ends("a reason too long", &close(1_000, &[b'r'; 124]), 1_002);
}

#[test]
fn after_our_close_only_theirs_matters() {
    let reasons = [
        (Reason::GoingAway, 1_001),
        (Reason::Protocol, 1_002),
        (Reason::NoText, 1_007),
        (Reason::TooLong, 1_009),
    ];
    let limit = vec![b'x'; WEB_MESSAGE_BYTES_MAX];
    // What is under way when we close, what comes then, and whether it ends the connection.
    let cases: [(Vec<u8>, Vec<u8>, Life); 9] = [
        (vec![], vec![], Life::Closing),
        (vec![], frame(FIN | CLOSE, b""), Life::Ended),
        (vec![], close(1_001, b"too"), Life::Ended),
        (frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"b"), Life::Closing),
        (text("split")[..5].to_vec(), text("split")[5..].to_vec(), Life::Closing),
        (frame(TEXT, b"a"), [frame(CONTINUATION, &limit), text("b")].concat(), Life::Ended),
        (vec![], frame(0xC1, b"compressed"), Life::Ended),
        (vec![], frame(FIN | TEXT, b"\xFF"), Life::Ended),
        (text("ab")[..3].to_vec(), [&text("ab")[3..], &close(1_000, b"")].concat(), Life::Ended),
    ];
    for (reason, code) in reasons {
        for (before, after, life) in &cases {
            let chatter = [text("late"), frame(FIN | PING, b"late"), frame(FIN | PONG, b"")];
            let after = match before[..] {
                [] => [&chatter.concat(), &after[..]].concat(),
                _ => after.clone(),
            };
            for cuts in ways_to_cut(&after) {
                let (mut socket, mut output) = (WebSocket::default(), Vec::new());
                assert_eq!(hand_over(&mut socket, before, &mut output), []);
                socket.close(reason, &mut output);
                socket.close(Reason::GoingAway, &mut output);
                socket.send(b"late", &mut output);
                socket.ping(&mut output);
                let mut from = 0;
                for to in cuts.into_iter().chain([after.len()]) {
                    assert_eq!(hand_over(&mut socket, &after[from..to], &mut output), []);
                    from = to;
                }
                assert_eq!(socket.life, *life, "{after:?} behind {before:?}");
                let replies = read_replies(&output);
                assert_eq!(replies, [Reply::Close(Some((code, String::new())))]);
            }
        }
    }
}

#[test]
fn what_we_say_is_framed() {
    let (socket, mut output) = (WebSocket::default(), Vec::new());
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        output.clear();
        let said = "y".repeat(length);
        socket.send(said.as_bytes(), &mut output);
        socket.ping(&mut output);
        assert_eq!(read_replies(&output), [Reply::Text(said), Reply::Ping(vec![])]);
    }
}

/// The library is woken for whole frames only, and bytes are copied once or twice however many
/// reads bring them.
#[test]
fn a_long_message_in_single_bytes_costs_no_more_than_its_length() {
    let bytes = frame(FIN | TEXT, &vec![b'x'; WEB_MESSAGE_BYTES_MAX]);
    let (mut socket, mut output) = (WebSocket::default(), Vec::new());
    let (mut moves, mut capacity) = (0, 0);
    for at in 0..bytes.len() - 1 {
        assert_eq!(hand_over(&mut socket, &bytes[at..=at], &mut output), []);
        assert!(socket.context.is_none());
        assert_eq!(socket.input.len(), at + 1);
        moves += u32::from(socket.input.capacity() != capacity);
        capacity = socket.input.capacity();
    }
    assert!(moves <= 20, "{moves}");
    // The last byte brings the beginning of the next message with it, which keeps nothing big.
    let rest = [&bytes[bytes.len() - 1..], &text("next")[..3]].concat();
    assert_eq!(hand_over(&mut socket, &rest, &mut output).len(), 1);
    assert_eq!((socket.input.len(), output.len()), (3, 0));
}

/// Bytes in pieces: never a panic, and the same as whole, by the rules.
fn check(bytes: &[u8], cuts: &[usize]) {
    let expected = by_the_rules(bytes);
    assert_eq!(run(bytes, &[]), expected);
    assert_eq!(run(bytes, cuts), expected, "cut at {cuts:?}");
}

/// Frames, mostly good ones.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        12 => prop::sample::select(vec![FIN | TEXT, FIN | BINARY, TEXT, BINARY]),
        16 => prop::sample::select(vec![CONTINUATION, FIN | CONTINUATION, FIN | PING, FIN | PONG]),
        1 => Just(FIN | CLOSE),
        1 => any::<u8>(),
    ];
    let piece = prop::sample::select(vec![
        &b""[..],
        b"{}",
        b"\xC3",
        b"\xA9",
        b"\xE2\x82\xAC",
        b"\xF0\x9F",
        b"\x98\x80",
        b"\xFF",
        b"\x03\xE8",
        &[b'x'; 125],
        &[b'y'; 40_000],
    ]);
    let payload = prop::collection::vec(piece, 0..3).prop_map(|pieces| pieces.concat());
    let mask = prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let width = prop::sample::select(vec![Width::Shortest, Width::Shortest, Width::Eight]);
    let more = prop_oneof![30 => Just(0), 1 => any::<u64>()];
    (first, payload, mask, width, more).prop_map(|(first, payload, mask, width, more)| {
        let length = u64::try_from(payload.len()).expect("short").saturating_add(more);
        frame_saying((first, mask), (width, length), &payload)
    })
}

proptest! {
    #[test]
    fn frames_come_to_the_same_by_the_rules_and_however_they_are_cut(
        frames in prop::collection::vec(some_frame(), 0..12),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = frames.concat();
        cuts.sort_unstable_by_key(|cut| cut.index(bytes.len() + 1));
        check(&bytes, &cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect::<Vec<_>>());
    }

    #[test]
    fn bytes_come_to_the_same_by_the_rules_and_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        mut cuts in prop::collection::vec(0..200_usize, 0..6),
    ) {
        cuts.sort_unstable();
        cuts.retain(|cut| *cut <= bytes.len());
        check(&bytes, &cuts);
    }
}
