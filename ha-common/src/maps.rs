//! Types of the BPF maps, shared by the program that fills them, the daemon and `bpftool`.
//!
//! All are `repr(C)` with explicit padding, so that kernel and user space agree on every byte, and
//! have named fields only, which BTF hands on to `bpftool map dump`.

use crate::fresh::Window;

/// Slots of the `links` map: one per peer and link.
pub const SLOTS_MAX: usize = 2_048;
/// Slots of the `endpoints` map: the (interface, address, port) triples on which this node receives.
pub const ENDPOINTS_MAX: usize = 128;
/// Size of the ring buffer of changes in bytes; a change takes 32, so 2,048 fit.
pub const CHANGES_BYTES: usize = 64 * 1024;

/// Who this node is (map `node`, one entry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NodeIdentity {
    /// [`crate::wire::name_id`] of the cluster.
    pub cluster: u32,
    /// [`crate::wire::name_id`] of this node.
    pub node: u32,
    /// Which start of this node's daemon is running; 0 = not configured yet.
    pub incarnation: u64,
}

/// Key of the `endpoints` map: where datagrams for this node arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// Index of the interface.
    pub interface: u32,
    /// Port, host byte order.
    pub port: u32,
    /// Address, IPv4 as IPv4-mapped IPv6.
    pub address: [u8; 16],
}

/// What is known of the packet that a CPU judges just now (map `slate`): the kernel's stack has no room
/// for it beside the hashes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Slate {
    /// Header and tag; then those of the answer.
    pub fixed: crate::wire::Fixed,
    /// Where it arrived.
    pub site: Site,
    /// Sum of a probe as it came, see [`crate::reply::sum_of`].
    pub asked: u32,
}

/// Whom what arrives at an endpoint may be for (value of the `endpoints` map).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Audience {
    /// This node alone: an address of its own.
    One = 1,
    /// Other nodes too: a multicast group, a broadcast address, or an own address on a link whose
    /// senders do not know which node has it.
    Several = 2,
}

impl Audience {
    /// The audience that a map value stands for.
    #[inline(always)]
    #[must_use]
    pub const fn from_value(value: u32) -> Self {
        if value == Self::Several as u32 { Self::Several } else { Self::One }
    }
}

/// What there is to know of an endpoint (value of the `endpoints` map).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Site {
    /// See [`Audience`].
    pub audience: u32,
    /// Hardware address of the interface, for what arrives at a group's; zero = not known.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// From which address probes are answered that arrive here: the endpoint's own, or, where that
    /// is a group's, one of the interface. Zero = none.
    pub address: [u8; 16],
}

impl Site {
    /// An endpoint that is an address of this node.
    #[must_use]
    pub const fn own(audience: Audience, address: [u8; 16]) -> Self {
        Self { audience: audience as u32, mac: [0; 6], reserved: [0; 2], address }
    }

    /// Whose address other nodes have too, on an interface with this hardware address, if any,
    /// and this one of its addresses, if any.
    #[must_use]
    pub fn shared(mac: Option<[u8; 6]>, address: Option<[u8; 16]>) -> Self {
        Self {
            audience: Audience::Several as u32,
            mac: mac.unwrap_or_default(),
            reserved: [0; 2],
            address: address.unwrap_or_default(),
        }
    }

    /// Who hears it.
    #[inline(always)]
    #[must_use]
    pub const fn audience(&self) -> Audience {
        Audience::from_value(self.audience)
    }

    /// Whether a frame to that hardware address can be answered from here.
    #[inline(always)]
    #[must_use]
    pub fn can_answer(&self, destination: [u8; 6]) -> bool {
        // IEEE 802: the lowest bit of the first byte tells a group's address.
        let has_mac = destination[0] & 1 == 0 || self.mac != [0; 6];
        has_mac && self.address != [0; 16]
    }
}

/// Key of the `paths` map: which peer speaks on which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Path {
    /// [`crate::wire::name_id`] of the peer.
    pub sender: u32,
    /// [`crate::wire::name_id`] of the link, or its kind ([`crate::wire::by_arrival`]).
    pub link: u32,
    /// 0 for a link that packets name; for one by arrival, the index of its interface.
    pub interface: u32,
}

impl Path {
    /// The path of a packet that names this sender and link and arrives on this interface.
    #[inline(always)]
    #[must_use]
    pub const fn new(sender: u32, link: u32, interface: u32) -> Self {
        let interface = if link <= crate::wire::by_arrival::MAX { interface } else { 0 };
        Self { sender, link, interface }
    }
}

/// Liveness of one peer on one link (map `links`, mmap-ed by the daemon).
///
/// Every field is one aligned word that is stored and loaded whole; [`crate::record::Record`] is
/// the only way to it. `last_seen_ns` is stored last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LinkRecord {
    /// [`crate::wire::name_id`] of the peer; 0 = slot not in use. Written by the daemon.
    pub peer: u32,
    /// [`crate::wire::name_id`] of the link. Written by the daemon.
    pub link: u32,
    /// Index of the interface that the link is on. Written by the daemon.
    pub interface: u32,
    /// The peer's generation of group states, as last heard.
    pub generation: u32,
    /// Silence after which the next heartbeat is reported as a change. Written by the daemon.
    pub silence_ns: u64,
    /// `CLOCK_MONOTONIC` of the last accepted heartbeat; 0 = none.
    pub last_seen_ns: u64,
    /// Freshness of heartbeats.
    pub heartbeat: Window,
    /// Freshness of control messages.
    pub control: Window,
    /// The peer's `CLOCK_MONOTONIC` when it sent the last accepted heartbeat.
    pub sent_ns: u64,
    /// The peer's keepalive in microseconds.
    pub keepalive_us: u32,
    /// Age of the peer's daemon lease in milliseconds.
    pub lease_age_ms: u32,
    /// What the peer says of itself, see [`crate::wire::Phase`].
    pub phase: u32,
    /// The peer's layers of liveness, see [`crate::wire::layers`].
    pub layers: u32,
    /// The key that the peer offers, see [`crate::auth::Key::offer`].
    pub key_offered: u32,
    /// Entry of the key that its last accepted heartbeat was signed with, see
    /// [`crate::auth::KEY_ENTRIES`].
    pub key_entry: u32,
    /// Accepted heartbeats.
    pub received: u64,
    /// Heartbeats that the sequence numbers show as missing.
    pub lost: u64,
    /// Packets that named this peer and link and were refused, see [`crate::reason::Reason::is_rejection`].
    pub rejected: u64,
    /// Freshness of the peer's probes.
    pub probes: Window,
    /// Before that moment none of the peer's probes is answered.
    pub answer_from_ns: u64,
    /// When that probe of this node's left which the peer's kernel answered last, this node's
    /// `CLOCK_MONOTONIC`; 0 = none. The peer was alive after it, whenever the answer arrived.
    pub answered_ns: u64,
    /// When that answer arrived: the ages in it are of then, or of before.
    pub answer_at_ns: u64,
    /// The incarnation of the peer's daemon, as that answer says.
    pub answer_incarnation: u64,
    /// Age of the peer's daemon lease in milliseconds, as that answer says.
    pub answer_lease_age_ms: u32,
    /// The peer's layers of liveness, as that answer says.
    pub answer_layers: u32,
    /// Probes of the peer that were answered.
    pub answers: u64,
    /// Who gave that answer, see [`crate::wire::Way`].
    pub answer_way: u32,
    /// Zero.
    pub reserved: u32,
}

/// The lease of this node's daemon (map `lease`, one entry, mmap-ed): what the kernel answers a peer's
/// probe with, whether the daemon runs or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Lease {
    /// `CLOCK_MONOTONIC` of the driver's last turn; 0 = none.
    pub driver_ran_ns: u64,
    /// Number of this node's current set of group states.
    pub generation: u32,
    /// What this node says of itself, see [`crate::wire::Phase`].
    pub phase: u16,
    /// Layers of liveness that only the daemon knows, see [`crate::wire::layers`]: answered with while the
    /// daemon runs.
    pub layers: u16,
}

/// What changed, so that the daemon must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ChangeKind {
    /// An incarnation was heard that is higher than any before; it has yet to prove itself.
    FirstSight = 1,
    /// A new incarnation proved to be alive.
    NewIncarnation = 2,
    /// The peer's generation, phase, layers or offered key changed.
    State = 3,
    /// The link was silent for longer than `silence_ns` and is back.
    LinkBack = 4,
    /// The peer's kernel (or its daemon, on a socket) answered a probe.
    Answered = 5,
    /// The link's timer found it silent for its time of suspicion (see [`crate::watch`]).
    Suspect = 6,
}

/// Entry of the ring buffer `changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Change {
    /// See [`ChangeKind`].
    pub kind: u32,
    /// Slot in the `links` map.
    pub slot: u32,
    /// `CLOCK_MONOTONIC` of the packet, or of the timer's tick.
    pub at_ns: u64,
    /// The incarnation, or for [`ChangeKind::LinkBack`] the length of the silence in nanoseconds,
    /// for [`ChangeKind::Suspect`] that of the silence so far, for [`ChangeKind::Answered`] when the
    /// probe left.
    pub value: u64,
}

const _: () = {
    assert!(size_of::<NodeIdentity>() == 16);
    assert!(size_of::<Endpoint>() == 24);
    assert!(size_of::<Path>() == 12);
    assert!(size_of::<Window>() == 24);
    assert!(size_of::<LinkRecord>() == 216);
    assert!(size_of::<Site>() == 28);
    assert!(size_of::<Slate>() == 120);
    assert!(size_of::<Change>() == 24);
    assert!(size_of::<Lease>() == 16);
};
