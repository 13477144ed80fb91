//! A server that says what it hears, for a conformance suite. Not run unless it is asked for:
//!
//! ```text
//! cargo test --lib echoes_for_a_conformance_suite -- --ignored &
//! wstest --mode fuzzingclient --spec fuzzingclient.json
//! ```
//!
//! with `"url": "ws://127.0.0.1:9001"` and the cases 1 to 7 and 10 in the specification. The cases
//! 1.2 cannot pass, as bytes that are no text are not handed out. Those of 9 want messages longer
//! than any that we take.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::super::{Event, Life, WebSocket};
use crate::wire::http::{Head, Upgrade, head_end};

/// It ends when nobody has come for so long.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "it waits for a client that finds fault with it"]
fn echoes_for_a_conformance_suite() {
    let listener = TcpListener::bind("127.0.0.1:9001").expect("the port is free");
    listener.set_nonblocking(true).expect("an option");
    let mut last = Instant::now();
    while last.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((stream, _)) => {
                last = Instant::now();
                // A client that goes away without a word is nothing that fails here.
                let _ = thread::spawn(|| drop(echo(stream)));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let (mut buffer, mut input) = ([0; 4_096], Vec::new());
    let end = loop {
        let len = stream.read(&mut buffer)?;
        input.extend_from_slice(&buffer[..len]);
        match head_end(&input, 0) {
            Ok(Some(end)) => break end,
            Ok(None) if len > 0 => {}
            _ => return Ok(()),
        }
    };
    let mut output = Vec::new();
    let head = Head::parse(&input[..end]).expect("the suite speaks HTTP");
    Upgrade::parse(&head).expect("and means a WebSocket").write_response(&mut output);
    let mut bytes = input[end..].to_vec();
    let mut socket = WebSocket::default();
    loop {
        let (mut replies, mut heard) = (Vec::new(), Vec::new());
        let life = socket.receive(&bytes, &mut replies, &mut |event| {
            if let Event::Text(text) = event {
                WebSocket::default().send(text.as_bytes(), &mut heard);
            }
        });
        // The answers to what came before a close go before the answer to it.
        let inorder = if life == Life::Open { [replies, heard] } else { [heard, replies] };
        output.extend(inorder.concat());
        stream.write_all(&output)?;
        output.clear();
        if life == Life::Ended {
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut buffer)? > 0 {}
            return Ok(());
        }
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        bytes.clear();
        bytes.extend_from_slice(&buffer[..len]);
    }
}
