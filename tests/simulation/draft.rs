//! Draws a plan from its seed: who is there, what they do and when, and what goes wrong.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use throng::rng::Rng;

use super::plan::{Ask, Event, Fate, Left, Plan, Says, Shape};

/// How often each thing goes wrong, in thousandths; 0 for what does not exist in this world.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    lost: u32,
    twice: u32,
    delay: u32,
    corrupt: u32,
    cut: u32,
    spoof: u32,
    answer_lost: u32,
    reset: u32,
    disturbances: [u32; 8],
}

impl Rates {
    /// First which faults exist, then how often they happen.
    fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: u32| if rng.below(3) == 0 { 1 + rng.below(most) } else { 0 };
        Self {
            lost: rate(300),
            twice: rate(500),
            delay: rate(500),
            corrupt: rate(50),
            cut: rate(50),
            spoof: rate(50),
            answer_lost: rate(300),
            reset: rate(300),
            disturbances: std::array::from_fn(|_| rate(8)),
        }
    }

    fn fate(&self, rng: &mut Rng, clients: u16) -> Fate {
        let mut happens = |rate: u32| rate > 0 && rng.below(1_000) < rate;
        let [lost, twice, delayed, corrupt, cut, spoof, answer_lost] = [
            happens(self.lost),
            happens(self.twice),
            happens(self.delay),
            happens(self.corrupt),
            happens(self.cut),
            happens(self.spoof),
            happens(self.answer_lost),
        ];
        let most = if rng.below(8) == 0 { 300 } else { 6 };
        Fate {
            lost,
            twice,
            delay: if delayed { 1 + small(rng.below(most)) } else { 0 },
            corrupt: corrupt.then(|| (byte(rng.below(98)), byte(1 + rng.below(255)))),
            cut: cut.then(|| byte(rng.below(98))),
            spoof: spoof.then(|| small(rng.below(u32::from(clients)))),
            answer_lost,
        }
    }
}

fn small(number: u32) -> u16 {
    u16::try_from(number).expect("drawn below 2^16")
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).expect("drawn below 2^8")
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// UDP; announces at the interval, says when it has finished and when it goes.
    QBittorrent,
    /// HTTP; wants 80 peers, repeats its goodbye, scrapes beside.
    Transmission,
    /// A WebSocket, offers and answers.
    WebTorrent,
    /// Any transport; odd values, no goodbye, everything at odd times.
    Broken,
    /// What is no request, and what is another's.
    Hostile,
}

/// How each client behaves: the same in every plan of a seed.
fn kind(seed: u64, client: u16) -> Kind {
    match Rng::new(seed ^ u64::from(client) << 20).below(16) {
        0..=5 => Kind::QBittorrent,
        6..=8 => Kind::Transmission,
        9..=12 => Kind::WebTorrent,
        13..=14 => Kind::Broken,
        _ => Kind::Hostile,
    }
}

/// A client in a swarm.
#[derive(Clone, Copy, Debug)]
struct Stay {
    client: u16,
    swarm: u16,
    /// Announces so far, and when it finishes and when it goes, counted in these.
    announces: u16,
    finishes: u16,
    goes: u16,
}

/// What is due in a plan under construction.
#[derive(Clone, Copy, Debug)]
enum Due {
    Announce(Stay),
    Answer(u16),
    Again(u16),
    Open(u16),
    Close(u16),
    Compare,
    /// A client's peer of a swarm stops.
    Stop(u16, u16),
    Disturb(u8),
    End(u8, u16),
    Scrape(u16),
}

impl Plan {
    /// The plan of a seed: most worlds are small.
    pub fn generate(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5EED_0F57);
        let size = rng.below(100);
        let (clients, events, seconds) = match size {
            0..=79 => (3 + rng.below(30), 300, 2_000 + rng.below(12_000)),
            80..=97 => (30 + rng.below(170), 900, 2_000 + rng.below(6_000)),
            _ => (500 + rng.below(1_900), 3_000, 1_000 + rng.below(4_000)),
        };
        let cores = if rng.below(3) == 0 { 1 } else { 1 + rng.below(8) };
        let interval = [300, 600, 1_800, 1_800][rng.below(4) as usize];
        let pressed = rng.below(12) == 0;
        let crowded = rng.below(10) == 0;
        let shape = Shape {
            cores: small(cores),
            clients: small(clients),
            swarms: small(1 + rng.below(clients.div_ceil(3))),
            ttl: interval * 5 / 3,
            interval,
            memory_bytes: if pressed { 1 << 20 } else { 64 << 20 },
            peers_per_swarm: if crowded { 2 + rng.below(20) } else { 10_000 },
            mailbox: if rng.below(6) == 0 { 1 + rng.below(4) as usize } else { 10_000 },
            polite: rng.below(4) == 0,
            keep_peer_ids: rng.below(2) == 0,
            missteered: rng.below(2) == 0,
            connection_id_secs: [64, 128, 128, 600][rng.below(4) as usize],
        };
        let rates = Rates::draw(&mut rng);
        let mut draft = Draft {
            seed,
            rng,
            rates,
            shape,
            pressed,
            due: BinaryHeap::new(),
            dues: Vec::new(),
            events: Vec::new(),
        };
        draft.run(events, seconds);
        Self { seed, shape: draft.shape, events: draft.events }
    }
}

/// A plan under construction.
struct Draft {
    seed: u64,
    rng: Rng,
    rates: Rates,
    shape: Shape,
    pressed: bool,
    /// When what is due, by its place in `dues`.
    due: BinaryHeap<Reverse<(u32, usize)>>,
    dues: Vec<Due>,
    events: Vec<Event>,
}

impl Draft {
    fn at(&mut self, second: u32, due: Due) {
        self.due.push(Reverse((second, self.dues.len())));
        self.dues.push(due);
    }

    fn client(&mut self) -> u16 {
        small(self.rng.below(u32::from(self.shape.clients)))
    }

    fn swarm(&mut self) -> u16 {
        // Some are much more popular than others.
        let swarms = u32::from(self.shape.swarms);
        let most = 1 + self.rng.below(swarms);
        small(self.rng.below(most))
    }

    fn core(&mut self) -> u16 {
        small(self.rng.below(u32::from(self.shape.cores)))
    }

    fn run(&mut self, events: usize, seconds: u32) {
        let begin = if self.rng.below(2) == 0 { 60 } else { seconds / 2 };
        for client in 0..self.shape.clients {
            let second = self.rng.below(begin);
            if kind(self.seed, client) == Kind::WebTorrent {
                self.at(second, Due::Open(client));
            }
            for _ in 0..1 + self.rng.below(3) {
                let stay = Stay {
                    client,
                    swarm: self.swarm(),
                    announces: 0,
                    finishes: small(self.rng.below(8)),
                    goes: 1 + small(self.rng.below(12)),
                };
                let later = second + 1 + self.rng.below(30);
                self.at(later, Due::Announce(stay));
            }
        }
        for disturbance in 0..8 {
            if self.rates.disturbances[usize::from(disturbance)] > 0 {
                let second = self.rng.below(seconds);
                self.at(second, Due::Disturb(disturbance));
            }
        }
        let mut now = 0;
        while let Some(Reverse((second, index))) = self.due.pop() {
            if second > seconds || self.events.len() > events {
                break;
            }
            let mut rest = second - now;
            while rest > 0 {
                let step = small(rest.min(60_000));
                self.events.push(Event::Pass(step));
                rest -= u32::from(step);
            }
            now = second;
            if self.rng.below(50) == 0 {
                self.events.push(Event::Compare);
            }
            let due = self.dues[index];
            self.happen(now, due);
        }
    }

    fn happen(&mut self, now: u32, due: Due) {
        match due {
            Due::Announce(stay) => self.announce(now, stay),
            Due::Answer(client) => {
                let nth = byte(self.rng.below(4));
                let bend = if self.rng.below(3) == 0 { byte(self.rng.below(7)) } else { 0 };
                self.events.push(Event::WebAnswer { client, nth, bend });
            }
            Due::Again(client) => self.events.push(Event::Again { client }),
            Due::Open(client) => self.events.push(Event::WebOpen { client }),
            Due::Compare => self.events.push(Event::Compare),
            Due::Close(client) => self.events.push(Event::WebClose { client }),
            Due::Stop(client, swarm) => self.stop(client, swarm),
            Due::Scrape(client) => self.scrape(now, client),
            Due::Disturb(which) => self.disturb(now, which),
            Due::End(which, core) => self.events.push(match which {
                0 => Event::Full(core, false),
                1 => Event::Deaf(core, false),
                2 => Event::Stall(core, false),
                3 => Event::Late(None),
                4 => Event::Slots(None),
                _ => Event::Deny(core, false),
            }),
        }
    }

    fn announce(&mut self, now: u32, mut stay: Stay) {
        let client = stay.client;
        let kind = kind(self.seed, client);
        let left = if stay.announces >= stay.finishes { Left::Nothing } else { Left::Something };
        let mut says = Says {
            swarm: stay.swarm,
            event: match stay.announces {
                n if n >= stay.goes => 3,
                0 => 2,
                n if n == stay.finishes => 1,
                _ => 0,
            },
            left,
            num_want: if kind == Kind::Transmission { 80 } else { -1 },
            port: None,
        };
        if matches!(kind, Kind::Broken | Kind::Hostile) {
            says = self.broken(says);
        }
        match kind {
            Kind::WebTorrent => {
                let offers = byte(self.rng.below(12));
                self.events.push(Event::WebSay { client, says, offers });
                for _ in 0..self.rng.below(3) {
                    let answerer = self.client();
                    let later = now + self.rng.below(140);
                    self.at(later, Due::Answer(answerer));
                }
                self.beside_web(client);
            }
            Kind::QBittorrent => self.udp(now, client, Ask::Announce(says)),
            Kind::Transmission => self.http(client, Ask::Announce(says)),
            Kind::Broken | Kind::Hostile => self.oddly(now, client, says, kind),
        }
        if self.rng.below(6) == 0 {
            let later = now + self.rng.below(600);
            self.at(later, Due::Scrape(client));
        }
        let gone = stay.announces >= stay.goes;
        if gone && self.rng.below(4) > 0 {
            return;
        }
        // Whoever has gone comes again, or says goodbye once more.
        stay.announces = if gone && self.rng.below(2) == 0 { 0 } else { stay.announces + 1 };
        let interval = if kind == Kind::WebTorrent { 120 } else { self.shape.interval };
        let slack = self.rng.below(interval / 5);
        let later = match self.rng.below(12) {
            // Some are late, some exactly as late as may be, some too late.
            0 => self.shape.ttl,
            1 => self.shape.ttl + 1 + self.rng.below(60),
            2 => 1 + self.rng.below(30),
            _ => interval - interval / 10 + slack,
        };
        self.at(now + later, Due::Announce(stay));
    }

    fn beside_web(&mut self, client: u16) {
        match self.rng.below(16) {
            0 => {
                self.events.push(Event::WebClose { client });
                self.events.push(Event::WebOpen { client });
            }
            1 => self.events.push(Event::WebClose { client }),
            2..=4 => self.events.push(Event::WebOpen { client }),
            _ => {}
        }
    }

    fn broken(&mut self, says: Says) -> Says {
        let event = [0, 1, 2, 3, 4, 5, 200][self.rng.below(7) as usize];
        let left = [Left::Nothing, Left::Something, Left::Unknown][self.rng.below(3) as usize];
        let num_want = [-1, -5, 0, 1, 3, 200, 201, i16::MAX][self.rng.below(8) as usize];
        let port = [None, None, None, Some(0), Some(22), Some(6_881)][self.rng.below(6) as usize];
        Says { event, left, num_want, port, ..says }
    }

    fn oddly(&mut self, now: u32, client: u16, says: Says, kind: Kind) {
        let junk = kind == Kind::Hostile && self.rng.below(2) == 0;
        let ask = if junk { Ask::Junk(byte(self.rng.below(8))) } else { Ask::Announce(says) };
        match self.rng.below(4) {
            0 => self.http(client, ask),
            1 if junk => {
                let kind = byte(self.rng.below(8));
                self.events.push(Event::WebOpen { client });
                self.events.push(Event::WebJunk { client, kind });
            }
            1 => {
                self.events.push(Event::WebOpen { client });
                let offers = byte(self.rng.below(20));
                self.events.push(Event::WebSay { client, says, offers });
            }
            _ => self.udp(now, client, ask),
        }
        if self.pressed && self.rng.below(2) == 0 {
            let (first, count) = (self.rng.next_u32() >> 1, 200 + small(self.rng.below(3_000)));
            self.events.push(Event::Flood { client, first, count });
        }
    }

    fn udp(&mut self, now: u32, client: u16, ask: Ask) {
        let clients = self.shape.clients;
        let fates = [0, 1].map(|_| self.rates.fate(&mut self.rng, clients));
        self.events.push(Event::Udp { client, ask, fates });
        if fates.iter().any(|fate| fate.lost || fate.answer_lost || fate.delay > 0) {
            // BEP 15: after 15 seconds, then after twice as long.
            self.at(now + 15, Due::Again(client));
            self.at(now + 45, Due::Again(client));
        }
    }

    fn http(&mut self, client: u16, ask: Ask) {
        let mut asks = vec![ask];
        for _ in 0..[0, 0, 0, 1, 3][self.rng.below(5) as usize] {
            let (first, count) = (self.swarm(), byte(1 + self.rng.below(4)));
            asks.push(Ask::Scrape { first, count });
        }
        let piece = [1, 7, 50, 200, 5_000, 5_000][self.rng.below(6) as usize];
        let resets = self.rng.below(1_000) < self.rates.reset;
        let reset = resets.then(|| small(self.rng.below(600)));
        self.events.push(Event::Http { client, asks, piece, reset });
    }

    fn scrape(&mut self, now: u32, client: u16) {
        let (first, count) = (self.swarm(), [1, 1, 2, 5, 74, 80, 0][self.rng.below(7) as usize]);
        match self.rng.below(3) {
            0 => self.udp(now, client, Ask::Scrape { first, count }),
            1 => self.http(client, Ask::Scrape { first, count }),
            _ => self.events.push(Event::WebScrape { client, first, count }),
        }
        if self.rng.below(8) == 0 {
            let says = Says {
                swarm: first,
                event: 2,
                left: [Left::Nothing, Left::Something][self.rng.below(2) as usize],
                num_want: -1,
                port: None,
            };
            let count = 1 + self.rng.below(u32::from(self.shape.clients).min(400));
            let first = self.client();
            self.events.push(Event::Crowd { first, count: small(count), says });
        }
    }

    fn disturb(&mut self, now: u32, which: u8) {
        let core = self.core();
        let brief = 1 + self.rng.below(4);
        let long = 1 + self.rng.below(120);
        match which {
            0 => {
                self.window(now, which, Event::Full(core, true), (core, long));
                // Of whoever goes now, this core is told later.
                self.at(now + long + 4, Due::Compare);
                for client in self.web_clients(16) {
                    let later = now + self.rng.below(long);
                    self.at(later, Due::Close(client));
                    self.at(now + long + 5, Due::Open(client));
                }
            }
            1 => self.window(now, which, Event::Deaf(core, true), (core, brief)),
            2 => {
                let seconds = if self.rng.below(3) == 0 { long } else { 1 };
                self.window(now, which, Event::Stall(core, true), (core, seconds));
            }
            3 => {
                let few = byte(self.rng.below(3));
                self.window(now, which, Event::Late(Some(few)), (0, long));
            }
            4 => {
                let few = byte(self.rng.below(6));
                self.window(now, which, Event::Slots(Some(few)), (0, long));
            }
            5 => {
                let swarm = self.swarm();
                let seconds = if self.rng.below(2) == 0 { long } else { long * 10 };
                self.window(now, which, Event::Deny(swarm, true), (swarm, seconds));
                for client in self.web_clients(8) {
                    let later = now + self.rng.below(seconds);
                    self.at(later, Due::Stop(client, swarm));
                }
            }
            6 => self.events.push(Event::Restart),
            _ => {
                let seconds = [2, 60, 3_600, self.shape.ttl, self.shape.ttl + 1];
                let seconds = seconds[self.rng.below(5) as usize];
                self.events.push(Event::Leap(seconds));
            }
        }
        let rate = self.rates.disturbances[usize::from(which)];
        let rare = if which >= 6 { 16_000 } else { 4_000 };
        let later = now + brief + long + self.rng.below(rare / rate);
        self.at(later, Due::Disturb(which));
    }

    fn stop(&mut self, client: u16, swarm: u16) {
        let says = Says { swarm, event: 3, left: Left::Something, num_want: 0, port: None };
        self.events.push(Event::WebSay { client, says, offers: 0 });
    }

    /// Some clients that have a WebSocket.
    fn web_clients(&mut self, most: u16) -> Vec<u16> {
        let drawn: Vec<u16> = (0..most).map(|_| self.client()).collect();
        drawn.into_iter().filter(|&n| kind(self.seed, n) == Kind::WebTorrent).collect()
    }

    fn window(&mut self, now: u32, which: u8, begin: Event, (what, seconds): (u16, u32)) {
        self.events.push(begin);
        self.at(now + seconds, Due::End(which, what));
    }
}
