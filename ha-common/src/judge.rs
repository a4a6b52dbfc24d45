//! The path of a heartbeat: parse -> peer -> fresh? -> authentic? -> stamp.
//!
//! One function for the kernel programs and for user-space sockets; they differ in their [`Tables`].

use crate::arrivals::ArrivalWords;
use crate::auth::{self, Key, Workspace};
use crate::frame::{self, Source};
use crate::fresh::Freshness;
use crate::maps::{Audience, Change, ChangeKind, Endpoint, NodeIdentity, Path};
use crate::reason::Reason;
use crate::record::Record;
use crate::wire::{FIXED_BYTES, Fixed, Header, HeaderError, Kind, TAG_BYTES};

/// What judging looks things up in: BPF maps in the kernel, plain tables in user space.
pub trait Tables: Workspace {
    /// Who this node is; `None` = not configured yet.
    fn node(&self) -> Option<NodeIdentity>;
    /// Who hears that endpoint, if it is one of this node's.
    fn audience(&self, endpoint: &Endpoint) -> Option<Audience>;
    /// The slot of a peer's link.
    fn slot(&self, path: &Path) -> Option<u32>;
    /// The record in a slot.
    fn record(&self, slot: u32) -> Option<Record<'_>>;
    /// The arrivals on the path in a slot.
    fn arrivals(&self, slot: u32) -> Option<ArrivalWords<'_>>;
    /// The key in that entry, see [`auth::KEY_ENTRIES`].
    fn key(&self, entry: u32) -> Option<&Key>;
    /// When the packet arrived, `CLOCK_MONOTONIC` nanoseconds.
    fn now_ns(&self) -> u64;
}

/// The outcome for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What became of it.
    pub reason: Reason,
    /// What the daemon must look at.
    pub change: Option<Change>,
}

impl From<Reason> for Judgement {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, change: None }
    }
}

/// Judges an Ethernet frame that arrived on the interface with that index.
#[inline(always)]
pub fn judge<T: Tables, S: Source + ?Sized>(tables: &T, frame: &S, interface: u32) -> Judgement {
    let Some(datagram) = frame::parse(frame) else { return Reason::NotOurs.into() };
    let endpoint =
        Endpoint { interface, port: u32::from(datagram.port), address: datagram.destination };
    let Some(audience) = tables.audience(&endpoint) else { return Reason::NotOurs.into() };
    if datagram.fragment {
        return Reason::Fragment.into();
    }
    match Fixed::read(frame, datagram.payload_at) {
        Some(fixed) => judge_payload(tables, &fixed, datagram.payload_bytes, interface, audience),
        None => Reason::Truncated.into(),
    }
}

/// Judges the payload of a datagram to one of this node's endpoints: its fixed part, and its
/// whole length. `audience` is the endpoint's.
#[inline(always)]
pub fn judge_payload<T: Tables>(
    tables: &T,
    fixed: &Fixed,
    payload_bytes: usize,
    interface: u32,
    audience: Audience,
) -> Judgement {
    let header = match Header::decode(fixed) {
        Ok(header) => header,
        Err(HeaderError::Version) => return Reason::BadVersion.into(),
        Err(HeaderError::Kind) => return Reason::BadKind.into(),
    };
    let body_bytes = match header.body_bytes {
        0 => 0,
        bytes => bytes as usize + TAG_BYTES,
    };
    if payload_bytes < FIXED_BYTES + body_bytes {
        return Reason::Truncated.into();
    }
    let Some(node) = tables.node() else { return Reason::NotReady.into() };
    if header.cluster != node.cluster {
        return Reason::WrongCluster.into();
    }
    if header.receiver != node.node {
        return match audience {
            Audience::One => Reason::WrongReceiver.into(),
            Audience::Several => Reason::ForAnother.into(),
        };
    }
    let path = Path::new(header.sender, header.link, interface);
    let Some(slot) = tables.slot(&path) else { return Reason::UnknownPeer.into() };
    let Some(record) = tables.record(slot) else { return Reason::NotReady.into() };
    let judgement = judge_peer(tables, fixed, &header, node.incarnation, record, slot, interface);
    if !matches!(judgement.reason, Reason::Accepted | Reason::Greeting | Reason::Control) {
        record.count_rejected();
    }
    judgement
}

/// The part from "peer" on.
#[inline(always)]
fn judge_peer<T: Tables>(
    tables: &T,
    fixed: &Fixed,
    header: &Header,
    own: u64,
    record: Record<'_>,
    slot: u32,
    interface: u32,
) -> Judgement {
    if record.interface() != interface {
        return Reason::WrongInterface.into();
    }
    let window = match header.kind {
        Kind::Heartbeat => record.heartbeat_window(),
        Kind::Control => record.control_window(),
    };
    let freshness = window.judge(header.incarnation, header.sequence, header.echo, own);
    // The cheap check comes first; nothing is stored before the tag was found right.
    if let Some(reason) = stale(freshness) {
        return reason.into();
    }
    let key_entry = match auth::authenticate(tables, header.key, fixed) {
        Ok(entry) => entry,
        Err(reason) => return reason.into(),
    };
    // Kind and window are loaded anew: the verifier would carry what the checks above know of them
    // through the hashes, once for each combination. And no CPU's stamp of meanwhile is lost.
    let kind = fixed.kind_again();
    let window = match kind {
        Kind::Heartbeat => record.heartbeat_window(),
        Kind::Control => record.control_window(),
    };
    let freshness = window.judge(header.incarnation, header.sequence, header.echo, own);
    if let Some(reason) = stale(freshness) {
        return reason.into();
    }
    match kind {
        Kind::Heartbeat => {
            let now_ns = tables.now_ns();
            if matches!(freshness, Freshness::Next { .. })
                && let Some(arrivals) = tables.arrivals(slot)
            {
                arrivals.note(record, header, now_ns);
            }
            heartbeat(header, freshness, record, slot, key_entry, now_ns)
        }
        Kind::Control => control(header, freshness, record),
    }
}

#[inline(always)]
fn stale(freshness: Freshness) -> Option<Reason> {
    match freshness {
        Freshness::OldIncarnation => Some(Reason::OldIncarnation),
        Freshness::OldSequence => Some(Reason::OldSequence),
        Freshness::Next { .. } | Freshness::Proven | Freshness::Greeting => None,
    }
}

#[inline(always)]
fn heartbeat(
    header: &Header,
    freshness: Freshness,
    record: Record<'_>,
    slot: u32,
    key_entry: u32,
    now_ns: u64,
) -> Judgement {
    let change =
        |kind: ChangeKind, value| Some(Change { kind: kind as u32, slot, at_ns: now_ns, value });
    if freshness == Freshness::Greeting {
        let first = header.incarnation > record.heard();
        if first {
            record.set_heard(header.incarnation);
        }
        let change = if first { change(ChangeKind::FirstSight, header.incarnation) } else { None };
        return Judgement { reason: Reason::Greeting, change };
    }
    // Signed: another CPU may have stamped a later time in between.
    let silence_ns = now_ns.wrapping_sub(record.last_seen_ns()) as i64;
    let silent = record.silence_ns() != 0 && silence_ns > record.silence_ns() as i64;
    let changed = header.generation != record.generation()
        || header.phase as u32 != record.phase()
        || u32::from(header.layers) != record.layers()
        || header.key_offered != record.key_offered();
    record.set_key_entry(key_entry);
    record.stamp(header, freshness, now_ns);
    let change = if freshness == Freshness::Proven {
        change(ChangeKind::NewIncarnation, header.incarnation)
    } else if silent {
        change(ChangeKind::LinkBack, silence_ns as u64)
    } else if changed {
        change(ChangeKind::State, header.incarnation)
    } else {
        None
    };
    Judgement { reason: Reason::Accepted, change }
}

#[inline(always)]
fn control(header: &Header, freshness: Freshness, record: Record<'_>) -> Judgement {
    if freshness == Freshness::Greeting {
        return Reason::Greeting.into();
    }
    record.set_control_heard(header.incarnation);
    record.set_control_believed(header.incarnation);
    record.set_control_sequence(header.sequence);
    Reason::Control.into()
}

#[cfg(test)]
mod tests;
