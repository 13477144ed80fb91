//! The part of a report that WebSocket alone has: what peers said to each other through the
//! tracker, and what their connections cost it.

use std::fmt;

use serde::Serialize;

use super::{ActionReport, Phase, float, latency, per};
use crate::load::tally::RelayTally;

/// Offers, answers and connections.
#[derive(Clone, Debug, Serialize)]
pub struct RelayReport {
    /// Offers sent to the tracker, and those (`replies`) that it brought to a peer. It has use for
    /// as many as there are other peers in the swarm. Latency counts from the announce.
    pub offers: ActionReport,
    /// Answers sent to the tracker, and those that it brought to the offerer. Latency counts from
    /// the announce with the offer: the whole round.
    pub answers: ActionReport,
    /// Connections that were open at the end.
    pub open: u64,
    /// Pings that were answered in the measured time.
    pub pings: u64,
    /// Offers brought for each CPU second of the measured process.
    pub offers_per_cpu_second: Option<f64>,
    /// Resident memory of that process before the first connection.
    pub resident_before_bytes: Option<u64>,
    /// And at the end of the measured time.
    pub resident_bytes: Option<u64>,
    /// How much it has grown, over the connections that are open.
    pub bytes_per_connection: Option<f64>,
}

impl RelayReport {
    pub(super) fn new(measured: &Phase, resident_before_bytes: Option<u64>) -> Self {
        let Phase { tally, seconds, usage } = measured;
        let relay = |relay: &RelayTally| ActionReport {
            sent: relay.sent,
            replies: relay.received,
            per_second: per(relay.received_in_time, *seconds),
            latency: latency(&relay.latency),
        };
        let offers = tally.offers.received_in_time;
        let grown = usage.resident_bytes.zip(resident_before_bytes);
        let grown = grown.map(|(after, before)| float(after) - float(before));
        Self {
            offers: relay(&tally.offers),
            answers: relay(&tally.answers),
            open: tally.open,
            pings: tally.pings,
            offers_per_cpu_second: usage.cpu_seconds.map(|seconds| per(offers, seconds)),
            resident_before_bytes,
            resident_bytes: usage.resident_bytes,
            bytes_per_connection: grown
                .filter(|_| tally.open > 0)
                .map(|grown| grown / float(tally.open)),
        }
    }

    /// What the measured process used for it, as lines of the report.
    pub(super) fn write_usage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(offers) = self.offers_per_cpu_second.filter(|_| self.offers.sent > 0) {
            writeln!(f, "  {offers:.0} offers relayed for each")?;
        }
        let (Some(before), Some(after)) = (self.resident_before_bytes, self.resident_bytes) else {
            return Ok(());
        };
        write!(f, "  resident memory {} KiB, {} KiB before", after / 1_024, before / 1_024)?;
        match self.bytes_per_connection {
            Some(bytes) => writeln!(f, "; {bytes:.0} bytes more for each open connection"),
            None => writeln!(f),
        }
    }
}
