//! The command line of the load generator.
//!
//! Definitions and their way to a [`Plan`], which knows the bounds.

use std::time::Duration;

use clap::{Args, Subcommand};
use throng::limits::LOAD_SOURCES_MAX;
use throng::load::plan::{LoadError, Mix, Pace, Plan, Transport, Web};
use throng::load::target::Target;
use throng::load::verify::Rigour;

const ABOUT: &str = "\
Puts load on a tracker and checks every answer.

Invented peers announce to invented swarms, as many as the tracker takes (closed loop) or at a \
fixed rate (--rate). A peer always has the same swarm, port, peer_id and source address. On an \
IPv4 loopback target peers are spread over the source addresses 127.0.1.1, 127.0.1.2 and so on, \
which a machine has without being told; elsewhere they share one address.

Traffic goes to loopback addresses only, unless --i-own-this-target says that the tracker is \
yours.";

const ABOUT_WS: &str = "\
Puts load on a WebTorrent tracker and checks every message.

Connections that stay open announce with offers, and answer the offers that they get. First all of \
them join their swarms; then each announces again as soon as its reply came (closed loop), or they \
announce at a fixed rate (--rate), or they stay idle (--idle). On an IPv4 loopback target they are \
spread over the source addresses 127.0.1.1, 127.0.1.2 and so on.

Every offer must be one of ours, for a swarm of the peer that gets it, not its own, and byte by \
byte what was sent; so must every answer be, and it must come once, to the connection that offered.

Traffic goes to loopback addresses only, unless --i-own-this-target says that the tracker is \
yours.";

const EXAMPLES: &str = "\
Examples:
  throng load udp 127.0.0.1:6969                        as fast as it answers, for 10 seconds
  throng load udp 127.0.0.1:6969 --fill --pid $(pidof throng) --json
  throng load udp [::1]:6969 --rate 50000 --duration 1m --mix announce=9,scrape=1
  throng load http http://127.0.0.1:6969/announce --connections 200
  throng load http 127.0.0.1:6969 --close               a connection for each request
  throng load ws ws://127.0.0.1:6969 --connections 2000 --swarms 200
  throng load ws 127.0.0.1:6969 --connections 20000 --idle --pid $(pidof throng)

Exit codes: 0 answers came and all were right; 69 nobody answered; 76 some answer was wrong;
2 the command line is wrong or the target not permitted; 74 a socket cannot be had.";

/// After so long a request is lost.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Over WebSocket there are as many requests under way as connections, usually thousands.
const TIMEOUT_WS: Duration = Duration::from_secs(10);

/// Over which transport, and how.
#[derive(Clone, Debug, PartialEq, Subcommand)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub enum Load {
    /// Load over UDP (BEP 15)
    #[command(about = "Put load on a UDP tracker (BEP 15)", long_about = ABOUT)]
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Udp(Udp),
    /// Load over HTTP (BEP 3, 7, 23, 48)
    #[command(about = "Put load on an HTTP tracker (BEP 3, 7, 23, 48)", long_about = ABOUT)]
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Http(Http),
    /// Load over WebSocket (WebTorrent)
    #[command(about = "Put load on a WebTorrent tracker", long_about = ABOUT_WS)]
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Ws(Ws),
}

/// What UDP alone has.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Udp {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    crowd: Crowd,
    /// Requests without an answer that each thread has under way, at the most; 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 256)]
    in_flight: u32,
}

/// What HTTP alone has.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Http {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    crowd: Crowd,
    /// Connections of each thread, with one request under way each; 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: u32,
    /// Use a connection for each request instead of keeping it
    #[arg(long)]
    close: bool,
}

/// What WebSocket alone has.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Ws {
    #[command(flatten)]
    common: Common,
    /// Connections of each thread; 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    connections: u32,
    /// Swarms
    #[arg(long, value_name = "N", default_value_t = 100)]
    swarms: u32,
    /// Torrents of each connection, which has a peer in as many swarms; 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1)]
    torrents: u32,
    /// Offers in an announce; 0 to 10
    #[arg(long, value_name = "N", default_value_t = 5)]
    offers: u32,
    /// Bytes of an offer, and of an answer; 700 to 6000
    #[arg(long, value_name = "N", default_value_t = Web::default().sdp_bytes)]
    sdp_bytes: u16,
    /// Share of the offers that are answered, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    answers: f64,
    /// Expect a reply to each answer too, as aquatic_ws sends
    #[arg(long)]
    answers_replied: bool,
    /// Only join, then say nothing but answers to pings: what does an open connection cost?
    #[arg(long)]
    idle: bool,
}

/// What UDP and HTTP have.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Crowd {
    /// Swarms
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    swarms: u32,
    /// Peers of all swarms together
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    peers: u32,
    /// Peers asked for in an announce
    #[arg(long, value_name = "N", default_value_t = 50)]
    num_want: u32,
    /// Announce every peer once before the measured time
    #[arg(long)]
    fill: bool,
}

/// What all have.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Common {
    /// The tracker: HOST:PORT, or its announce URL
    #[arg(value_name = "TARGET")]
    target: String,
    /// Permit a target that is not on the loopback interface
    #[arg(long)]
    i_own_this_target: bool,
    /// Threads that ask, each with its own sockets
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u16,
    /// How uneven the swarms are: a peer at place u of 0..1 is in swarm floor(SWARMS * u^X)
    ///
    /// 0 and 1: all swarms have the same number of peers. 4: of 10,000 swarms the largest has a
    /// tenth of all peers and most have a few. 1 to 16.
    #[arg(long, value_name = "X", default_value_t = 4.0)]
    skew: f64,
    /// Share of the peers that are seeders, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    seeders: f64,
    /// What is asked how often, as weights: announce=8,scrape=1,connect=1
    ///
    /// What is not named is not asked. UDP sockets renew their connection id every 50 seconds in
    /// any case; HTTP and WebSocket have no connect.
    #[arg(long, value_name = "WEIGHTS", default_value = "announce=1", value_parser = parse_mix)]
    mix: Mix,
    /// Hashes of a scrape: 74 at the most over UDP, 100 over HTTP and WebSocket
    #[arg(long, value_name = "N", default_value_t = 5)]
    scrape_hashes: u16,
    /// Ask so many times a second (open loop) instead of as fast as answers come (closed loop)
    ///
    /// All threads together. Latency counts from the time when a request was due, so that one that
    /// had to wait because the tracker was slow shows that.
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// The measured time, as in 10s or 2m; 24h at the most
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// After so long without an answer a request is lost; 1m at the most, default 2s, over
    /// WebSocket 10s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Sockets (UDP) or source addresses of each thread; 1 to 240, default 4, over HTTP 64 with
    /// --close, over WebSocket one for 500 connections
    #[arg(long, value_name = "N")]
    sources: Option<u16>,
    /// Let habits of other trackers pass, instead of counting them as wrong
    ///
    /// Counts that leave the asker out (aquatic), the asker among its peers (opentracker), a line
    /// end behind the dictionary (aquatic_http), offers and answers written anew.
    #[arg(long)]
    lenient: bool,
    /// Another number makes other swarms, peers and choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure the CPU time of that process too, and answers for each second of it; over WebSocket
    /// also its memory
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Say nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
}

impl Load {
    /// What all transports have.
    pub const fn common(&self) -> &Common {
        match self {
            Self::Udp(Udp { common, .. })
            | Self::Http(Http { common, .. })
            | Self::Ws(Ws { common, .. }) => common,
        }
    }

    /// What is to be done.
    pub fn plan(&self) -> Result<Plan, LoadError> {
        match self {
            Self::Udp(Udp { common, crowd, in_flight }) => {
                let sources = few(*in_flight);
                common.plan(Transport::Udp, *in_flight, sources).map(|plan| crowd.apply(plan))
            }
            Self::Http(Http { common, crowd, connections, close }) => {
                let sources = if *close { 64 } else { few(*connections) };
                let plan = common.plan(Transport::Http, *connections, sources)?;
                Ok(crowd.apply(Plan { close: *close, ..plan }))
            }
            Self::Ws(ws) => ws.plan(),
        }
    }
}

/// A few, but not more than there are requests.
fn few(in_flight: u32) -> u16 {
    u16::try_from(in_flight).unwrap_or(u16::MAX).clamp(1, 4)
}

impl Ws {
    fn plan(&self) -> Result<Plan, LoadError> {
        let sources = u16::try_from(self.connections.div_ceil(500)).unwrap_or(u16::MAX);
        let sources = sources.clamp(few(self.connections), LOAD_SOURCES_MAX);
        let plan = self.common.plan(Transport::Ws, self.connections, sources)?;
        Ok(Plan {
            swarms: self.swarms,
            peers: plan.web_connections().saturating_mul(self.torrents),
            num_want: self.offers,
            timeout: self.common.timeout.unwrap_or(TIMEOUT_WS),
            web: Web {
                torrents: self.torrents,
                sdp_bytes: self.sdp_bytes,
                answers: self.answers,
                answers_replied: self.answers_replied,
                idle: self.idle,
            },
            ..plan
        })
    }
}

impl Crowd {
    fn apply(&self, plan: Plan) -> Plan {
        let Self { swarms, peers, num_want, fill } = *self;
        Plan { swarms, peers, num_want, fill, ..plan }
    }
}

impl Common {
    /// A plan whose swarms and peers are still to be said.
    fn plan(&self, transport: Transport, in_flight: u32, sources: u16) -> Result<Plan, LoadError> {
        Ok(Plan {
            target: Target::parse(&self.target, transport, self.i_own_this_target)?,
            threads: self.threads,
            sources: self.sources.unwrap_or(sources),
            seed: self.seed,
            swarms: 1,
            peers: 1,
            skew: self.skew,
            seeders: self.seeders,
            num_want: 0,
            mix: self.mix,
            scrape_hashes: self.scrape_hashes,
            pace: self.rate.map_or(Pace::Closed, Pace::Open),
            in_flight,
            duration: self.duration,
            fill: true,
            timeout: self.timeout.unwrap_or(TIMEOUT),
            close: false,
            web: Web::default(),
            rigour: if self.lenient { Rigour::Lenient } else { Rigour::Strict },
            pid: self.pid,
        })
    }
}

fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn parse_mix(text: &str) -> Result<Mix, String> {
    let mut mix = Mix { connect: 0, announce: 0, scrape: 0 };
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`"))?;
        let weight = weight.parse().map_err(|_| format!("`{weight}` is no weight"))?;
        match name {
            "connect" => mix.connect = weight,
            "announce" => mix.announce = weight,
            "scrape" => mix.scrape = weight,
            _ => return Err(format!("`{name}` is none of connect, announce, scrape")),
        }
    }
    Ok(mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        let mix = |connect, announce, scrape| Ok(Mix { connect, announce, scrape });
        assert_eq!(parse_mix("announce=1"), mix(0, 1, 0));
        assert_eq!(parse_mix("scrape=2,connect=3,announce=0"), mix(3, 0, 2));
        for text in ["", "announce", "announce=", "announce=-1", "stop=1", "announce=1,"] {
            assert!(parse_mix(text).is_err(), "{text}");
        }
    }
}
