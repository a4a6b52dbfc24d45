//! Wire format, version 1. `docs/protocol.md` is its specification; golden bytes pin it.
//!
//! A datagram is `header (72 bytes) | tag (16 bytes) [| body tag (16 bytes) | body]`, all numbers
//! in network byte order. The layout up to the tag is fixed, so that the kernel can check it with
//! constant offsets; what comes later travels in the body, which older nodes skip.

use crate::frame::Source;

/// First two bytes of every datagram: "HA".
pub const MAGIC: u16 = 0x4841;
/// Version of the fixed layout. Another one is refused.
pub const VERSION: u8 = 1;
/// Length of the header, which the tag covers.
pub const HEADER_BYTES: usize = 72;
/// Length of a tag field; shorter tags are padded with zeros.
pub const TAG_BYTES: usize = 16;
/// Length of header and tag: what every datagram starts with.
pub const FIXED_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// Longest body. Header, tags, body and IPv6 + UDP headers fit into the 1280 bytes that every
/// IPv6 path carries (RFC 8200 5), so that a control message is never fragmented.
pub const BODY_BYTES_MAX: usize = 1120;
/// Longest datagram.
pub const DATAGRAM_BYTES_MAX: usize = FIXED_BYTES + TAG_BYTES + BODY_BYTES_MAX;
/// Sequence number of an obituary: nothing of its incarnation can follow it.
pub const SEQUENCE_LAST: u64 = u64::MAX;
/// DSCP CS6 (network control, RFC 4594 3.1) as IPv4 TOS byte or IPv6 traffic class.
pub const TRAFFIC_CLASS: u8 = 0xc0;

/// Identifier of a cluster, node or link in packets: FNV-1a (32 bits) of its name.
///
/// Derived from the name alone, so that a node or link added to the configuration of a running
/// cluster changes no other's identifier.
#[must_use]
pub const fn name_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// What [`Header::link`] says of a link that has no name which both ends share: its kind. The
/// receiver tells such links apart by the interface on which packets arrive. No link has a name
/// whose [`name_id`] is one of these.
pub mod by_arrival {
    /// UDP to the peer's own address.
    pub const UCAST: u32 = 1;
    /// UDP to a multicast group.
    pub const MCAST: u32 = 2;
    /// UDP to a broadcast address.
    pub const BCAST: u32 = 3;
    /// A serial line.
    pub const SERIAL: u32 = 4;
    /// The highest of them.
    pub const MAX: u32 = SERIAL;
}

/// Kind of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Liveness; ends in the kernel.
    Heartbeat = 1,
    /// Group states, hand-over, leave; goes up to the daemon.
    Control = 2,
    /// A question to the peer's kernel: header and tag alone.
    Probe = 3,
    /// Its answer, of the same length; never answered.
    Answer = 4,
}

impl Kind {
    #[inline(always)]
    const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Heartbeat),
            2 => Some(Self::Control),
            3 => Some(Self::Probe),
            4 => Some(Self::Answer),
            _ => None,
        }
    }
}

/// Who answers a probe: in a probe, who is asked; in an answer, who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Way {
    /// Not said.
    #[default]
    None = 0,
    /// The XDP program, which sends the packet back from where it came (`XDP_TX`).
    Xdp = 1,
    /// The program at TC ingress, which redirects it to the same interface.
    Tc = 2,
    /// The daemon, on a socket or a serial line.
    Socket = 3,
}

impl Way {
    /// The way with that number on the wire; an unknown one (of a newer node) counts as not said.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Xdp,
            2 => Self::Tc,
            3 => Self::Socket,
            _ => Self::None,
        }
    }
}

/// What a node says of itself in every heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// It has just started and does not know its peers yet.
    #[default]
    Starting = 1,
    /// It takes part.
    Active = 2,
    /// It is leaving.
    Leaving = 3,
    /// It takes part and is about to replace its own program: it is silent for a moment, and goes on
    /// as the same incarnation.
    Restarting = 4,
}

impl Phase {
    /// The phase with that number on the wire; an unknown one (of a newer node) counts as starting,
    /// which gives it no part in any decision.
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            2 => Self::Active,
            3 => Self::Leaving,
            4 => Self::Restarting,
            _ => Self::Starting,
        }
    }
}

/// Layers of liveness, as bits: link, kernel, daemon, service.
pub mod layers {
    /// The sender hears the receiver on this link.
    pub const LINK: u8 = 1;
    /// The sender's kernel works (implied by any packet).
    pub const KERNEL: u8 = 2;
    /// The sender's daemon renewed its lease within the last second.
    pub const DAEMON: u8 = 4;
    /// All groups that the sender owns are well: no service of theirs has failed and is not recovered yet, or has
    /// not answered for its status, and none is stuck. Says nothing when the sender's daemon does not run.
    pub const SERVICE: u8 = 8;
}

/// The fixed part of every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// [`name_id`] of the cluster's name.
    pub cluster: u32,
    /// [`name_id`] of the sending node.
    pub sender: u32,
    /// [`name_id`] of the node that it is for.
    pub receiver: u32,
    /// [`name_id`] of the link that it travels on, or its kind, see [`by_arrival`].
    pub link: u32,
    /// Number of the key that made the tag, 0..=15.
    pub key: u8,
    /// Who is asked, or who answered; in heartbeats and control messages nobody.
    pub way: Way,
    /// Length of the body in bytes, without its tag; 0 = no body and no body tag.
    pub body_bytes: u16,
    /// Which start of the sender's daemon is speaking.
    pub incarnation: u64,
    /// The receiver's incarnation, as last heard by the sender; 0 = not heard yet.
    pub echo: u64,
    /// Grows by one with each datagram of this kind from this sender to this receiver on this link.
    pub sequence: u64,
    /// Sender's `CLOCK_MONOTONIC` when it was sent, nanoseconds.
    pub sent_ns: u64,
    /// Sender's own keepalive in microseconds.
    pub keepalive_us: u32,
    /// Number of the sender's current set of group states.
    pub generation: u32,
    /// What the sender says of itself.
    pub phase: Phase,
    /// Layers of liveness, see [`layers`].
    pub layers: u8,
    /// Age of the sender's daemon lease in milliseconds, saturating.
    pub lease_age_ms: u16,
    /// Fingerprint of the active key of the sender's key file, which it accepts already and
    /// signs with once the receiver offers the same, see [`crate::auth::Key::offer`]; 0 = none.
    pub key_offered: u32,
}

/// Words of the fixed part.
pub const FIXED_WORDS: usize = FIXED_BYTES / 8;
/// Words of the header.
pub(crate) const HEADER_WORDS: usize = HEADER_BYTES / 8;

/// The fixed part as it stands in memory, in words of eight bytes.
///
/// Words, because the kernel side must read, check and decode it in few instructions and within
/// 512 bytes of stack: bytes would be loaded, kept and spilled one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Fixed {
    words: [u64; FIXED_WORDS],
}

impl Fixed {
    /// Reads it from `source`; `None` past the end.
    #[inline(always)]
    pub fn read<S: Source + ?Sized>(source: &S, offset: usize) -> Option<Self> {
        Some(Self { words: source.words::<FIXED_WORDS>(offset)? })
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The header's words, as they stand in memory.
    #[inline(always)]
    pub(crate) fn header_in_memory(&self) -> [u64; HEADER_WORDS] {
        let w = &self.words;
        [w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]]
    }

    /// The header's words, as little endian numbers.
    #[inline(always)]
    pub(crate) fn header_words(&self) -> [u64; HEADER_WORDS] {
        self.header_in_memory().map(u64::from_le)
    }

    /// The tag field's words, as little endian numbers.
    #[inline(always)]
    pub(crate) fn tag_words(&self) -> [u64; 2] {
        [self.words[9], self.words[10]].map(u64::from_le)
    }

    /// Makes the header of the answer out of that of a probe: ends swapped, the probe's incarnation as
    /// echo, and the rest as it is said. The tag field is left zero.
    #[inline(always)]
    pub(crate) fn turn(&mut self, way: Way, incarnation: u64, generation: u32, said: u32) {
        const KIND: u64 = 0xff << 32;
        const WAY: u64 = 0xff << 16;
        let word = |word: u64| u64::from_be(word);
        let w = &mut self.words;
        w[0] = (word(w[0]) & !KIND | (Kind::Answer as u64) << 32).to_be();
        w[1] = word(w[1]).rotate_left(32).to_be();
        w[2] = (word(w[2]) & !WAY | (way as u64) << 16).to_be();
        w[4] = w[3];
        w[3] = incarnation.to_be();
        w[7] = u64::from(generation).to_be();
        w[8] = (u64::from(said) << 32).to_be();
        w[9] = 0;
        w[10] = 0;
    }

    /// Whether it is of a probe or an answer; nothing of it was checked.
    #[inline(always)]
    pub(crate) fn is_question(&self) -> bool {
        let kind = (u64::from_be(self.words[0]) >> 32) as u8;
        kind == Kind::Probe as u8 || kind == Kind::Answer as u8
    }

    /// The kind of a heartbeat or a control message that was decoded before.
    #[inline(always)]
    pub(crate) fn message_again(&self) -> Kind {
        // SAFETY: a reference is valid to read from.
        let first = u64::from_be(unsafe { (&raw const self.words[0]).read_volatile() });
        if (first >> 32) as u8 == Kind::Control as u8 { Kind::Control } else { Kind::Heartbeat }
    }

    /// One's complement sum of its words in memory, not folded.
    #[inline(always)]
    pub(crate) fn sum(&self) -> u64 {
        let mut sum = 0;
        let mut at = 0;
        while at < FIXED_WORDS {
            sum += (self.words[at] & 0xffff_ffff) + (self.words[at] >> 32);
            at += 1;
        }
        sum
    }

    /// Its words, as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub fn words(&self) -> &[u64; FIXED_WORDS] {
        &self.words
    }

    /// Sets the tag field.
    #[inline(always)]
    pub(crate) fn set_tag_words(&mut self, tag: [u64; 2]) {
        self.words[9] = tag[0].to_le();
        self.words[10] = tag[1].to_le();
    }
}

/// Why the fixed part is not one that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// Not the magic, or another version.
    Version,
    /// A kind that this version does not know.
    Kind,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`HeaderError`] when magic, version or kind are not of this version.
    #[inline(always)]
    pub fn decode(fixed: &Fixed) -> Result<Self, HeaderError> {
        let word = |position: usize| u64::from_be(fixed.words[position]);
        let first = word(0);
        if (first >> 48) as u16 != MAGIC || (first >> 40) as u8 != VERSION {
            return Err(HeaderError::Version);
        }
        let Some(kind) = Kind::from_wire((first >> 32) as u8) else {
            return Err(HeaderError::Kind);
        };
        Ok(Self {
            kind,
            cluster: first as u32,
            sender: (word(1) >> 32) as u32,
            receiver: word(1) as u32,
            link: (word(2) >> 32) as u32,
            key: (word(2) >> 24) as u8,
            way: Way::from_wire((word(2) >> 16) as u8),
            body_bytes: word(2) as u16,
            incarnation: word(3),
            echo: word(4),
            sequence: word(5),
            sent_ns: word(6),
            keepalive_us: (word(7) >> 32) as u32,
            generation: word(7) as u32,
            phase: Phase::from_wire((word(8) >> 56) as u8),
            layers: (word(8) >> 48) as u8,
            lease_age_ms: (word(8) >> 32) as u16,
            key_offered: word(8) as u32,
        })
    }

    /// Writes the header; the tag field is left zero for [`crate::auth::Key::sign`].
    #[must_use]
    pub fn encode(&self) -> Fixed {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let magic = u32::from(MAGIC) << 16 | u32::from(VERSION) << 8 | self.kind as u32;
        let key_and_body = u32::from(self.key) << 24
            | u32::from(self.way as u8) << 16
            | u32::from(self.body_bytes);
        let liveness = u32::from(self.phase as u8) << 24
            | u32::from(self.layers) << 16
            | u32::from(self.lease_age_ms);
        let words = [
            pair(magic, self.cluster),
            pair(self.sender, self.receiver),
            pair(self.link, key_and_body),
            self.incarnation,
            self.echo,
            self.sequence,
            self.sent_ns,
            pair(self.keepalive_us, self.generation),
            pair(liveness, self.key_offered),
            0,
            0,
        ];
        Fixed { words: words.map(u64::to_be) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
