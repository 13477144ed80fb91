//! The command line of the load generator.
//!
//! Definitions and their way to a [`Plan`], which knows the bounds.

use std::time::Duration;

use clap::{Args, Subcommand};
use throng::load::plan::{LoadError, Mix, Pace, Plan, Transport};
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

const EXAMPLES: &str = "\
Examples:
  throng load udp 127.0.0.1:6969                        as fast as it answers, for 10 seconds
  throng load udp 127.0.0.1:6969 --fill --pid $(pidof throng) --json
  throng load udp [::1]:6969 --rate 50000 --duration 1m --mix announce=9,scrape=1
  throng load http http://127.0.0.1:6969/announce --connections 200
  throng load http 127.0.0.1:6969 --close               a connection for each request

Exit codes: 0 answers came and all were right; 69 nobody answered; 76 some answer was wrong;
2 the command line is wrong or the target not permitted; 74 a socket cannot be had.";

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
}

/// What UDP alone has.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Udp {
    #[command(flatten)]
    common: Common,
    /// Requests without an answer that each thread has under way, at the most; 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 256)]
    in_flight: u32,
}

/// What HTTP alone has.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Http {
    #[command(flatten)]
    common: Common,
    /// Connections of each thread, with one request under way each; 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: u32,
    /// Use a connection for each request instead of keeping it
    #[arg(long)]
    close: bool,
}

/// What both have.
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
    /// Swarms
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    swarms: u32,
    /// Peers of all swarms together
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    peers: u32,
    /// How uneven the swarms are: a peer at place u of 0..1 is in swarm floor(SWARMS * u^X)
    ///
    /// 0 and 1: all swarms have the same number of peers. 4: of 10,000 swarms the largest has a
    /// tenth of all peers and most have a few. 1 to 16.
    #[arg(long, value_name = "X", default_value_t = 4.0)]
    skew: f64,
    /// Share of the peers that are seeders, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    seeders: f64,
    /// Peers asked for in an announce
    #[arg(long, value_name = "N", default_value_t = 50)]
    num_want: u32,
    /// What is asked how often, as weights: announce=8,scrape=1,connect=1
    ///
    /// What is not named is not asked. UDP sockets renew their connection id every 50 seconds in
    /// any case; HTTP has no connect.
    #[arg(long, value_name = "WEIGHTS", default_value = "announce=1", value_parser = parse_mix)]
    mix: Mix,
    /// Hashes of a scrape: 74 at the most over UDP, 100 over HTTP
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
    /// Announce every peer once before the measured time
    #[arg(long)]
    fill: bool,
    /// After so long without an answer a request is lost; 1m at the most
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
    /// Sockets (UDP) or source addresses (HTTP) of each thread; 1 to 240, default 4, or 64 with
    /// --close
    #[arg(long, value_name = "N")]
    sources: Option<u16>,
    /// Let habits of other trackers pass, instead of counting them as wrong
    ///
    /// Counts that leave the asker out (aquatic), the asker among its peers (opentracker), a line
    /// end behind the dictionary (aquatic_http).
    #[arg(long)]
    lenient: bool,
    /// Another number makes other swarms, peers and choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure the CPU time of that process too, and answers for each second of it
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
    /// What both transports have.
    pub const fn common(&self) -> &Common {
        match self {
            Self::Udp(Udp { common, .. }) | Self::Http(Http { common, .. }) => common,
        }
    }

    /// What is to be done.
    pub fn plan(&self) -> Result<Plan, LoadError> {
        let common = self.common();
        let (transport, in_flight, close) = match self {
            Self::Udp(Udp { in_flight, .. }) => (Transport::Udp, *in_flight, false),
            Self::Http(Http { connections, close, .. }) => (Transport::Http, *connections, *close),
        };
        let target = Target::parse(&common.target, transport, common.i_own_this_target)?;
        let few = u16::try_from(in_flight).unwrap_or(u16::MAX).clamp(1, 4);
        Ok(Plan {
            target,
            threads: common.threads,
            sources: common.sources.unwrap_or(if close { 64 } else { few }),
            seed: common.seed,
            swarms: common.swarms,
            peers: common.peers,
            skew: common.skew,
            seeders: common.seeders,
            num_want: common.num_want,
            mix: common.mix,
            scrape_hashes: common.scrape_hashes,
            pace: common.rate.map_or(Pace::Closed, Pace::Open),
            in_flight,
            duration: common.duration,
            fill: common.fill,
            timeout: common.timeout,
            close,
            rigour: if common.lenient { Rigour::Lenient } else { Rigour::Strict },
            pid: common.pid,
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
