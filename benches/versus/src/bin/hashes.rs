//! The `info_hash`es of a load, one of 40 hex digits a line: for trackers that want a whitelist.

use std::io::{self, BufWriter, Write};

use clap::Parser;
use throng::load::population::Population;

/// Prints the info_hashes that `throng load` announces.
#[derive(Parser)]
struct Options {
    /// The load's --seed
    #[arg(long)]
    seed: u64,
    /// The load's --swarms
    #[arg(long)]
    swarms: u32,
}

fn main() -> io::Result<()> {
    let Options { seed, swarms } = Options::parse();
    // A hash depends on the seed and the swarm's number alone.
    let population =
        Population { seed, swarms, peers: 1, skew: 0.0, seeders: 0.0, sources: 1, addresses: 1 };
    let mut out = BufWriter::new(io::stdout().lock());
    for swarm in 0..swarms {
        for byte in population.info_hash(swarm).0 {
            write!(out, "{byte:02x}")?;
        }
        writeln!(out)?;
    }
    out.flush()
}
