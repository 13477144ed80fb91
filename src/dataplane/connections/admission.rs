//! Which new connections may stay.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use super::tls::Tls;
use super::{Connections, Listening};
use crate::time::Millis;
use crate::tracker::Tracker;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// There are as many as may be.
    Full,
    /// Its address has as many as it may.
    Crowded,
    /// Its address has opened as many of late as it may.
    TooFast,
    /// The operator does not want to hear from its address.
    Banned,
    /// It is no trusted proxy's, or its other side has gone already.
    Unwanted,
}

/// A connection that may stay.
pub(super) struct Admitted {
    pub peer: IpAddr,
    /// Whose it counts as, if it counts.
    pub counted: Option<IpAddr>,
    pub tls: Option<Tls>,
}

impl Connections {
    /// Whether a new connection may stay.
    pub(super) fn admit(
        &mut self,
        now: Millis,
        stream: &OwnedFd,
        listening: Listening,
        tracker: &mut Tracker,
    ) -> Result<Admitted, Refused> {
        if self.is_full() {
            return Err(Refused::Full);
        }
        let peer = peer_of(stream).ok_or(Refused::Unwanted)?;
        if tracker.bans(peer) {
            return Err(Refused::Banned);
        }
        let Listening { tls, proxy_protocol, forwarded } = listening;
        let trusted = (proxy_protocol || forwarded) && tracker.policy().is_trusted_proxy(peer);
        if proxy_protocol && !trusted {
            tracker.counters_mut().http_proxy_headers_refused[0] += 1;
            return Err(Refused::Unwanted);
        }
        // A trusted proxy speaks for many.
        let counted = (!trusted).then_some(peer);
        if counted.is_some_and(|peer| !tracker.admits_connection(now.seconds(), peer)) {
            return Err(Refused::TooFast);
        }
        let tls = match (tls, &self.tls) {
            (false, _) => None,
            (true, Some(config)) => Some(Tls::new(config.clone())),
            (true, None) => return Err(Refused::Unwanted),
        };
        if counted.is_some_and(|peer| !self.crowd.enter(peer)) {
            return Err(Refused::Crowded);
        }
        Ok(Admitted { peer, counted, tls })
    }
}

fn peer_of(stream: &OwnedFd) -> Option<IpAddr> {
    let address = rustix::net::getpeername(stream).ok()??;
    SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
}
