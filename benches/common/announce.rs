//! Announces as the benches send them.

use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::id::{InfoHash, PeerId};

/// What a peer says that listens on `port`.
pub fn announce(info_hash: InfoHash, port: u16, seeder: bool, num_want: u32) -> Announce {
    Announce {
        info_hash,
        peer_id: PeerId(*b"-qB4650-bench0123456"),
        port,
        uploaded: 1 << 20,
        downloaded: 1 << 22,
        left: Left::Bytes(if seeder { 0 } else { 1 << 24 }),
        event: Event::None,
        num_want: NumWant::Count(num_want),
        key: Some(u32::from(port)),
    }
}
