//! What happens in a world, drawn from its seed before anything happens.
//!
//! An event is plain data and means the same whatever came before it, as far as it can: so any
//! subset of a plan is a plan, and a failing one can be made smaller.

/// One world from beginning to end.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    pub events: Vec<Event>,
}

/// What a world consists of.
#[derive(Clone, Debug)]
pub struct Shape {
    pub cores: u16,
    pub clients: u16,
    pub swarms: u16,
    /// Seconds that a peer stays.
    pub ttl: u32,
    /// Seconds between two announces.
    pub interval: u32,
    pub memory_bytes: usize,
    pub peers_per_swarm: u32,
    pub mailbox: usize,
    pub polite: bool,
    pub keep_peer_ids: bool,
    /// Datagrams reach cores that do not own their swarm.
    pub missteered: bool,
    pub connection_id_secs: u32,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Ask {
    Announce(Says),
    /// `count` swarms from `first` on.
    Scrape {
        first: u16,
        count: u8,
    },
    /// What is no request, or not this client's to make.
    Junk(u8),
}

/// What a peer says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    pub swarm: u16,
    /// BEP 15's number of it; anything above 4 is unknown.
    pub event: u8,
    pub left: Left,
    /// Negative for the default.
    pub num_want: i16,
    /// Else the client's own.
    pub port: Option<u16>,
}

/// What a peer still needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    Nothing,
    Something,
    Unknown,
}

/// What becomes of a datagram, and of the answer to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub lost: bool,
    pub twice: bool,
    /// Steps before it arrives.
    pub delay: u16,
    /// One of its bytes changes: where, and by which bits.
    pub corrupt: Option<(u8, u8)>,
    /// Bytes that are left of it.
    pub cut: Option<u8>,
    /// It says that it comes from this client.
    pub spoof: Option<u16>,
    pub answer_lost: bool,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks over UDP: the fates of its connect, if it needs one, and of its request.
    Udp {
        client: u16,
        ask: Ask,
        fates: [Fate; 2],
    },
    /// A client that has not been answered asks again.
    Again {
        client: u16,
    },
    /// Many clients announce themselves to one swarm, in one batch for each core.
    Crowd {
        first: u16,
        count: u16,
        says: Says,
    },
    /// One client announces itself to swarms that nobody else knows.
    Flood {
        client: u16,
        first: u32,
        count: u16,
    },
    /// A client asks over HTTP, the requests back to back, in pieces of so many bytes; after
    /// `reset` bytes its connection is gone.
    Http {
        client: u16,
        asks: Vec<Ask>,
        piece: u16,
        reset: Option<u16>,
    },
    WebOpen {
        client: u16,
    },
    WebClose {
        client: u16,
    },
    WebSay {
        client: u16,
        says: Says,
        offers: u8,
    },
    /// The client answers the `nth` offer that it has been given; `bend` falsifies the answer, or
    /// repeats one that has been taken.
    WebAnswer {
        client: u16,
        nth: u8,
        bend: u8,
    },
    WebScrape {
        client: u16,
        first: u16,
        count: u8,
    },
    WebJunk {
        client: u16,
        kind: u8,
    },
    /// Seconds pass, each with its tick.
    Pass(u16),
    /// Seconds pass in which nobody runs, as when a machine sleeps.
    Leap(u32),
    /// A core's mailboxes take nothing.
    Full(u16, bool),
    /// A core leaves its messages where they are.
    Deaf(u16, bool),
    /// A core does nothing at all.
    Stall(u16, bool),
    /// Messages delivered after each step; all when `None`.
    Late(Option<u8>),
    /// Datagrams that can be sent from here on; any number when `None`.
    Slots(Option<u8>),
    /// Every swarm is looked at. Now and then only: whoever is looked at expires.
    Compare,
    /// The process ends and starts again.
    Restart,
    /// The operator takes a swarm off the list, or puts it back.
    Deny(u16, bool),
}
