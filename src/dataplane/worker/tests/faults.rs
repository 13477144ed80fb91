//! A worker on a ring that fails on purpose, and clients that take note of every byte.
//!
//! While there are faults a datagram may be lost and a connection may end; but nothing is answered
//! twice, no answer is another's, and every stream is the beginning of what was to be said. When
//! the faults stop, everybody is served again, and nothing has been lost on the way: no buffer, no
//! slot, no place of a connection, no member of a swarm.

use std::collections::BTreeSet;

use super::*;
use crate::dataplane::ring::faults::{Faults, KINDS};
use crate::rng::Rng;
use crate::wire::udp::Reply;

const SEEDS: u64 = 60;
/// Turns with faults.
const TURNS: u32 = 600;
/// Few of everything.
const NARROW: Sizes =
    Sizes { for_datagrams: SHORT, for_connections: SHORT, datagrams: 4, streams: 2, replies: 4 };
const SHORT: Queues = Queues { submissions: 4, completions: 8 };

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: tracker\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A message of a client, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(len) if len < 126 => frame.push(0x80 | len),
        _ => {
            let len = u16::try_from(text.len()).expect("a short message");
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.bytes());
    frame
}

/// A connection whose every answer is known before it comes.
struct Stream {
    address: SocketAddr,
    /// What comes first on a connection, and what is said to it.
    hello: (Vec<u8>, Vec<u8>),
    /// A request about the swarm `aaaaaaaaaaaaaaaaaaaa`, and the answer.
    question: (Vec<u8>, Vec<u8>),
    stream: Option<TcpStream>,
    unsent: Vec<u8>,
    expected: Vec<u8>,
    answers: u64,
}

impl Stream {
    /// Learns from a worker without faults what it answers.
    fn new(worker: &mut Worker, address: SocketAddr, hello: &[u8], question: &[u8]) -> Self {
        let mut stream = open(address);
        let mut ask = |bytes: &[u8]| {
            stream.write_all(bytes).expect("a fresh connection takes it");
            let mut answer = Vec::new();
            let (give_up, mut quiet) = (Instant::now() + PATIENCE, 0);
            while !bytes.is_empty() && quiet < 100 {
                assert!(Instant::now() < give_up, "no answer to {}", bytes.escape_ascii());
                worker.turn().expect("no reason to refuse");
                let before = answer.len();
                read_into(&mut stream, &mut answer);
                quiet = if answer.is_empty() || answer.len() > before { 0 } else { quiet + 1 };
            }
            answer
        };
        let hello = (hello.to_vec(), ask(hello));
        let question = (question.to_vec(), ask(question));
        let (unsent, expected) = (Vec::new(), Vec::new());
        Self { address, hello, question, stream: None, unsent, expected, answers: 0 }
    }

    /// Asks about a swarm, perhaps while other answers are still to come.
    fn ask(&mut self, letter: u8) {
        if self.stream.is_none() {
            self.stream = Some(open(self.address));
            self.unsent.clone_from(&self.hello.0);
            self.expected.clone_from(&self.hello.1);
        }
        self.unsent.extend(about(&self.question.0, letter));
        self.expected.extend(about(&self.question.1, letter));
    }

    /// Sends a part of what is to be sent, and compares what comes with what should.
    fn turn(&mut self, rng: &mut Rng) {
        let Some(stream) = &mut self.stream else { return };
        let part = 1 + rng.below(u32::try_from(self.unsent.len()).expect("short")) as usize;
        let part = part.min(self.unsent.len());
        let sent = match stream.write(&self.unsent[..part]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return self.breaks(),
        };
        self.unsent.drain(..sent);
        let mut came = Vec::new();
        let goes_on = read_into(stream, &mut came);
        assert!(
            self.expected.starts_with(&came),
            "{} instead of {}",
            came.escape_ascii(),
            self.expected.escape_ascii()
        );
        self.expected.drain(..came.len());
        self.answers += u64::from(!came.is_empty());
        if !goes_on {
            self.breaks();
        }
    }

    fn breaks(&mut self) {
        self.stream = None;
        self.unsent.clear();
        self.expected.clear();
    }

    const fn is_served(&self) -> bool {
        self.stream.is_some() && self.expected.is_empty()
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener has a queue");
    stream.set_nonblocking(true).expect("a flag");
    stream.set_nodelay(true).expect("a flag");
    stream
}

/// Reads what there is. Returns whether the connection goes on.
fn read_into(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let error = stream.read_to_end(bytes).err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// The same about another swarm.
fn about(bytes: &[u8], letter: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(20).position(|window| window == [b'a'; 20]).expect("it is there");
    bytes[at..at + 20].fill(letter);
    bytes
}

/// A client that asks for connection ids, many at once.
struct Asker {
    socket: UdpSocket,
    asked: u32,
    /// Numbers of requests that have not been answered.
    open: BTreeSet<u32>,
}

impl Asker {
    fn ask(&mut self) {
        self.asked += 1;
        let mut request = [0; REQUEST_HEAD_BYTES];
        write_connect_request(&mut request, TransactionId(self.asked.to_be_bytes()));
        self.socket.send(&request).expect("loopback takes it");
        self.open.insert(self.asked);
    }

    fn turn(&mut self) {
        let mut buffer = [0; 64];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let reply = Reply::parse(&buffer[..len]).expect("a reply");
            let Reply::Connect { transaction_id, .. } = reply else { panic!("{reply:?}") };
            let number = u32::from_be_bytes(transaction_id.0);
            assert!(self.open.remove(&number), "{number} was asked, and is answered once");
        }
    }
}

/// Joins a swarm over a WebSocket and leaves without a word.
struct Member {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Member {
    fn turn(&mut self, rng: &mut Rng) {
        match &mut self.stream {
            None => {
                let mut stream = open(self.address);
                let (hash, peer) = ("z".repeat(20), "p".repeat(20));
                let whom = format!(r#""info_hash":"{hash}","peer_id":"{peer}""#);
                let join = frame(&format!(r#"{{"action":"announce",{whom},"left":0}}"#));
                let hello = [UPGRADE.as_bytes(), &join].concat();
                stream.write_all(&hello).expect("a fresh connection takes it");
                self.stream = Some(stream);
            }
            Some(stream) => {
                if !read_into(stream, &mut Vec::new()) || rng.below(40) == 0 {
                    self.stream = None;
                }
            }
        }
    }
}

/// Turns a worker with faults, then without. Returns how often each kind happened.
fn live_through(seed: u64, sizes: Sizes) -> [u64; KINDS] {
    let mut rng = Rng::new(seed);
    let Served { mut worker, client, http } = served(sizes);
    let request = format!("GET /scrape?info_hash={} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(20));
    let message = frame(&format!(r#"{{"action":"scrape","info_hash":"{}"}}"#, "a".repeat(20)));
    let mut streams = [
        Stream::new(&mut worker, http, b"", request.as_bytes()),
        Stream::new(&mut worker, http, UPGRADE.as_bytes(), &message),
    ];
    let mut asker = Asker { socket: client, asked: 0, open: BTreeSet::new() };
    let mut members = [(); 3].map(|()| Member { address: http, stream: None });
    for (faults, seed) in worker.ring.faults().into_iter().zip([2 * seed, 2 * seed + 1]) {
        *faults = Some(Faults::new(seed));
    }
    for _ in 0..TURNS {
        for stream in &mut streams {
            if stream.expected.len() < 2_000 && rng.below(3) == 0 {
                stream.ask(b'b' + u8::try_from(rng.below(20)).expect("a letter"));
            }
            stream.turn(&mut rng);
        }
        for _ in 0..rng.below(4) {
            asker.ask();
        }
        asker.turn();
        for member in &mut members {
            member.turn(&mut rng);
        }
        worker.turn().expect("no fault is a reason to give up");
        if rng.below(20) == 0 {
            // As if the timer had run out.
            worker.tick();
        }
    }
    let mut happened = [0; KINDS];
    for faults in worker.ring.faults().into_iter().flatten() {
        happened = std::array::from_fn(|kind| happened[kind] + faults.happened[kind]);
        faults.calm();
    }
    everybody_is_served(&mut worker, &mut streams, &mut asker, members, &mut rng);
    nothing_is_lost(worker, sizes, streams, &asker.socket);
    happened
}

/// Without faults every request is answered, even those that waited meanwhile.
fn everybody_is_served(
    worker: &mut Worker,
    streams: &mut [Stream],
    asker: &mut Asker,
    members: [Member; 3],
    rng: &mut Rng,
) {
    drop(members);
    // Requests from before may have been lost, or wait in the socket: room for others.
    for _ in 0..100 {
        worker.tick();
        worker.turn().expect("no fault is a reason to give up");
        asker.turn();
    }
    let before = asker.asked;
    for _ in 0..3 {
        asker.ask();
    }
    // The members of the swarm z have left.
    streams.iter_mut().for_each(|stream| stream.ask(b'z'));
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        worker.turn().expect("no fault is a reason to give up");
        asker.turn();
        for stream in &mut *streams {
            stream.turn(rng);
            if stream.stream.is_none() {
                stream.ask(b'z');
            }
        }
        // Those from before may be answered meanwhile, when the kernel was slow to bring them.
        let newest_answered = asker.open.last().is_none_or(|&newest| newest <= before);
        if newest_answered && streams.iter().all(Stream::is_served) {
            return;
        }
    }
    let waiting: Vec<_> =
        streams.iter().map(|stream| stream.expected.escape_ascii().to_string()).collect();
    panic!("{:?} and {waiting:?} are not answered", asker.open);
}

/// All connections end, and everything is where it was at first.
fn nothing_is_lost(mut worker: Worker, sizes: Sizes, streams: [Stream; 2], client: &UdpSocket) {
    let http = streams[0].address;
    drop(streams);
    let nobody = |worker: &mut Worker| worker.connections.count() == 0;
    turn_until(&mut worker, "connections to end", nobody);
    // A receive, an accept and the timer.
    let idle = |worker: &mut Worker| worker.ring.in_flight() == 3;
    turn_until(&mut worker, "requests that nobody waits for", idle);
    assert_eq!(worker.ring.free_replies(), usize::from(sizes.replies), "slots of datagrams");
    // Enough at once for all buffers; the last one is taken by the receive that goes on.
    let before = worker.tracker.counters().ring_enobufs[0];
    connect(&mut worker, client, usize::from(sizes.datagrams) - 1);
    let mut connections: Vec<TcpStream> = (0..sizes.streams).map(|_| open(http)).collect();
    let all = |worker: &mut Worker| worker.connections.count() == connections.len();
    turn_until(&mut worker, "connections", all);
    worker.turn().expect("no fault is a reason to give up");
    let received =
        |worker: &mut Worker| worker.tracker.counters().http_received_bytes.iter().sum::<u64>();
    let expected = received(&mut worker) + connections.len() as u64;
    for connection in &mut connections {
        connection.write_all(b"G").expect("it is open");
    }
    let read = |worker: &mut Worker| received(worker) == expected;
    turn_until(&mut worker, "a byte of each", read);
    assert_eq!(worker.tracker.counters().ring_enobufs[0], before, "a buffer is missing");
}

#[test]
fn a_worker_lives_through_faults_of_every_kind_and_loses_nothing() {
    let mut happened = [0; KINDS];
    for seed in 0..SEEDS {
        let sizes = if seed % 2 == 0 { AMPLE } else { NARROW };
        let once = live_through(seed, sizes);
        happened = std::array::from_fn(|kind| happened[kind] + once[kind]);
    }
    assert!(happened.iter().all(|&times| times > 100), "{happened:?}");
}
