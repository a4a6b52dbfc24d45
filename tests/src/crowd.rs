//! Many peers on one link of the shared vectors' world, who ask or beat at once.

use ha_common::maps::{LinkRecord, Path};
use ha_common::vectors::{self, INTERFACE, Packet, World};
use ha_common::wire::name_id;

/// A world of that many peers; the number of a peer is that of its slot.
#[must_use]
pub fn world(peers: u32) -> World {
    let mut world = vectors::world();
    (world.paths, world.records) = (Vec::new(), Vec::new());
    for slot in 0..peers {
        let path = Path::new(identity(slot), name_id("hb0"), INTERFACE);
        let record = LinkRecord {
            peer: path.sender,
            link: path.link,
            interface: INTERFACE,
            ..LinkRecord::default()
        };
        world.paths.push((path, slot));
        world.records.push((slot, record));
    }
    world
}

/// Who the peer with that number is.
#[must_use]
pub fn identity(slot: u32) -> u32 {
    name_id(&format!("peer{slot}"))
}

/// The same packet from that peer.
#[must_use]
pub fn of_peer(slot: u32, mut packet: Packet) -> Packet {
    packet.header.sender = identity(slot);
    packet
}
