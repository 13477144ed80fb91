//! The swarm store of `aquatic_udp`, called through the public interface of its published crate.

use std::io::Cursor;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use aquatic_common::{CanonicalSocketAddr, ServerStartInstant, ValidUntil};
use aquatic_udp::common::StatisticsMessage;
use aquatic_udp::config::Config;
use aquatic_udp::swarm::TorrentMaps;
use aquatic_udp_protocol::{
    AnnounceActionPlaceholder, AnnounceEvent, AnnounceRequest, ConnectionId, InfoHash,
    Ipv4AddrBytes, NumberOfBytes, NumberOfPeers, PeerId, PeerKey, Port, TransactionId,
};
use crossbeam_channel::{Receiver, Sender};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{NUM_WANT, PORT, Peer, Reply, Store, Swarm, hash};

/// The store and what its calls ask for.
pub struct Aquatic {
    maps: TorrentMaps,
    config: Config,
    sender: Sender<StatisticsMessage>,
    /// With the default settings nothing is sent; it keeps the channel open.
    _receiver: Receiver<StatisticsMessage>,
    rng: SmallRng,
    valid_until: ValidUntil,
}

impl Aquatic {
    /// An empty one with default settings, except for the length of its replies.
    pub fn new() -> Self {
        let mut config = Config::default();
        config.protocol.max_response_peers = usize::from(NUM_WANT);
        let (sender, receiver) = crossbeam_channel::unbounded();
        let valid_until = ValidUntil::new(ServerStartInstant::new(), config.cleaning.max_peer_age);
        let rng = SmallRng::seed_from_u64(33);
        let maps = TorrentMaps::default();
        Self { maps, config, sender, _receiver: receiver, rng, valid_until }
    }
}

impl Store for Aquatic {
    type Request = (AnnounceRequest, CanonicalSocketAddr);

    fn request(peer: Peer) -> Self::Request {
        let transaction = i32::from_be_bytes(peer.number.to_be_bytes());
        let port = NonZeroU16::new(PORT).expect("a port");
        let request = AnnounceRequest {
            connection_id: ConnectionId::new(0),
            action_placeholder: AnnounceActionPlaceholder::default(),
            transaction_id: TransactionId::new(transaction),
            info_hash: InfoHash(hash::info_hash(peer.swarm).0),
            peer_id: PeerId([0; 20]),
            bytes_downloaded: NumberOfBytes::new(1 << 22),
            bytes_left: NumberOfBytes::new(if peer.seeder { 0 } else { 1 << 24 }),
            bytes_uploaded: NumberOfBytes::new(1 << 20),
            event: AnnounceEvent::None.into(),
            ip_address: Ipv4AddrBytes([0; 4]),
            key: PeerKey::new(1),
            peers_wanted: NumberOfPeers::new(i32::from(NUM_WANT)),
            port: Port::new(port),
        };
        (request, CanonicalSocketAddr::new(SocketAddr::from((peer.ip(), PORT))))
    }

    fn answer(&mut self, batch: &[Self::Request], replies: &mut [Reply]) {
        for ((request, source), (bytes, len)) in batch.iter().zip(replies) {
            let response = self.maps.announce(
                &self.config,
                &self.sender,
                &mut self.rng,
                request,
                *source,
                self.valid_until,
            );
            let mut cursor = Cursor::new(&mut bytes[..]);
            response.write_bytes(&mut cursor).expect("it fits");
            *len = usize::try_from(cursor.position()).expect("it fits");
        }
    }

    /// It does not count the asker, and gives everybody everybody.
    fn expected(peer: Peer, swarm: Swarm) -> (u32, (u32, u32)) {
        let (mut seeders, mut leechers) = (swarm.seeders, swarm.leechers);
        *(if peer.seeder { &mut seeders } else { &mut leechers }) -= 1;
        (seeders + leechers, (seeders, leechers))
    }

    /// It has no public way to count; the replies were counted.
    fn check(&self, _peers: u32) {}
}
