//! The path of a heartbeat: parse -> peer -> fresh? -> authentic? -> stamp.
//!
//! One function for the kernel programs and for user-space sockets; they differ in their [`Tables`].

use crate::arrivals::ArrivalWords;
use crate::auth::{self, Key, Workspace};
use crate::frame::{self, Source};
use crate::fresh::Freshness;
use crate::maps::{Audience, Change, ChangeKind, Endpoint, Lease, NodeIdentity, Path, Site, Slate};
use crate::reason::Reason;
use crate::record::Record;
use crate::reply::{ANSWER_PAUSE_NS, Answering, sum_of};
use crate::wire::{FIXED_BYTES, Fixed, Header, HeaderError, Kind, MAGIC, TAG_BYTES, VERSION, Way};

/// What judging looks things up in: BPF maps in the kernel, plain tables in user space.
pub trait Tables: Workspace {
    /// Who this node is; `None` = not configured yet.
    fn node(&self) -> Option<NodeIdentity>;
    /// What there is to know of that endpoint, if it is one of this node's.
    fn site(&self, endpoint: &Endpoint) -> Option<Site>;
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
    /// Who judges.
    fn way(&self) -> Way;
    /// The lease of this node's daemon.
    fn lease(&self) -> Lease;
    /// Takes one out of the answers that this CPU may give, if there is one, see
    /// [`crate::reply::Budget`].
    fn spend(&self, now_ns: u64) -> bool;
}

/// The outcome for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What became of it.
    pub reason: Reason,
    /// What the daemon must look at; of kind 0, nothing. No `Option`: the verifier would meet what the
    /// stack held before in the place of a change that is not there.
    told: Change,
}

impl Judgement {
    const NOTHING: Change = Change { kind: 0, slot: 0, at_ns: 0, value: 0 };

    /// What the daemon must look at.
    #[inline(always)]
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        if self.told.kind == 0 { None } else { Some(self.told) }
    }
}

impl From<Reason> for Judgement {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, told: Self::NOTHING }
    }
}

impl From<Result<Self, Reason>> for Judgement {
    #[inline(always)]
    fn from(judged: Result<Self, Reason>) -> Self {
        match judged {
            Ok(judgement) => judgement,
            Err(reason) => reason.into(),
        }
    }
}

/// Judges an Ethernet frame that arrived on the interface with that index.
#[inline(always)]
pub fn judge<T: Tables, S: Source + ?Sized>(tables: &T, frame: &S, interface: u32) -> Judgement {
    let mut slate = Slate::default();
    judge_and_reply(tables, frame, interface, || Some(&mut slate), |_| true)
}

/// The same; `slate` gives the memory that questions need, `reply` writes the answer of a probe that is to
/// be answered, and says whether it could.
#[inline(always)]
pub fn judge_and_reply<'a, T: Tables, S: Source + ?Sized>(
    tables: &T,
    frame: &S,
    interface: u32,
    slate: impl FnOnce() -> Option<&'a mut Slate>,
    reply: impl FnOnce(&Slate) -> bool,
) -> Judgement {
    let Some(datagram) = frame::parse(frame) else { return Reason::NotOurs.into() };
    let endpoint =
        Endpoint { interface, port: u32::from(datagram.port), address: datagram.destination };
    let Some(site) = tables.site(&endpoint) else { return Reason::NotOurs.into() };
    if datagram.fragment {
        return Reason::Fragment.into();
    }
    let Some(fixed) = Fixed::read(frame, datagram.payload_at) else {
        return Reason::Truncated.into();
    };
    let mut arrival = Arrival {
        payload_bytes: datagram.payload_bytes,
        interface,
        audience: site.audience(),
        can_answer: false,
    };
    // What comes all the time stays on the stack, and knows nothing of answers.
    if !fixed.is_question() {
        return judge_message(tables, &fixed, &arrival).into();
    }
    let Some(slate) = slate() else { return Reason::NotReady.into() };
    let Some(destination) = frame.read::<6>(0) else { return Reason::NotOurs.into() };
    arrival.can_answer = site.can_answer(destination);
    slate.asked = sum_of(&fixed);
    slate.fixed = fixed;
    slate.site = site;
    let judgement: Judgement = judge_question(tables, &mut slate.fixed, &arrival).into();
    if judgement.reason == Reason::Probe && !reply(slate) {
        return Reason::Truncated.into();
    }
    judgement
}

/// Whether a frame looks like a probe that asks for an answer by that way; nothing of it was checked.
#[inline(always)]
pub fn asks<S: Source + ?Sized>(frame: &S, way: Way) -> bool {
    let Some(datagram) = frame::parse(frame) else { return false };
    let Some([start]) = frame.words::<1>(datagram.payload_at) else { return false };
    let Some([link]) = frame.words::<1>(datagram.payload_at + 16) else { return false };
    let start = u64::from_be(start) >> 32;
    let probe = u64::from(MAGIC) << 16 | u64::from(VERSION) << 8 | Kind::Probe as u64;
    start == probe && (u64::from_be(link) >> 16) as u8 == way as u8
}

/// How a payload arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its whole length.
    pub payload_bytes: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Who else hears that endpoint.
    pub audience: Audience,
    /// Whether a probe can be answered where it is judged.
    pub can_answer: bool,
}

impl Arrival {
    /// At a socket, or on a line.
    #[must_use]
    pub const fn at_socket(payload_bytes: usize, interface: u32, audience: Audience) -> Self {
        Self { payload_bytes, interface, audience, can_answer: true }
    }
}

/// Judges the payload of a datagram to one of this node's endpoints by its fixed part. Of a probe
/// that is to be answered, the answer is in its place then.
#[inline(always)]
pub fn judge_payload<T: Tables>(tables: &T, fixed: &mut Fixed, arrival: &Arrival) -> Judgement {
    if fixed.is_question() {
        judge_question(tables, fixed, arrival).into()
    } else {
        judge_message(tables, fixed, arrival).into()
    }
}

#[inline(always)]
fn decode(fixed: &Fixed) -> Result<Header, Reason> {
    Header::decode(fixed).map_err(|error| match error {
        HeaderError::Version => Reason::BadVersion,
        HeaderError::Kind => Reason::BadKind,
    })
}

/// A heartbeat or a control message.
#[inline(always)]
fn judge_message<T: Tables>(
    tables: &T,
    fixed: &Fixed,
    arrival: &Arrival,
) -> Result<Judgement, Reason> {
    let header = decode(fixed)?;
    let body_bytes = match header.body_bytes {
        0 => 0,
        bytes => bytes as usize + TAG_BYTES,
    };
    if arrival.payload_bytes < FIXED_BYTES + body_bytes {
        return Err(Reason::Truncated);
    }
    let known = find(tables, &header, arrival)?;
    Ok(known.counted(message(tables, fixed, &header, &known, arrival)))
}

/// A probe or an answer. Apart from what comes all the time: it needs more memory.
#[inline(always)]
fn judge_question<T: Tables>(
    tables: &T,
    fixed: &mut Fixed,
    arrival: &Arrival,
) -> Result<Judgement, Reason> {
    let header = decode(fixed)?;
    // Nothing is answered with more than 88 bytes, nor to more.
    if header.body_bytes != 0 || arrival.payload_bytes > FIXED_BYTES {
        return Err(Reason::BadKind);
    }
    if header.kind == Kind::Probe && header.way == Way::Tc && tables.way() == Way::Xdp {
        return Err(Reason::ProbePassed);
    }
    if arrival.payload_bytes < FIXED_BYTES {
        return Err(Reason::Truncated);
    }
    let known = find(tables, &header, arrival)?;
    Ok(known.counted(question(tables, fixed, &header, &known, arrival)))
}

/// Of whom a datagram is.
struct Known<'a> {
    /// This node.
    node: NodeIdentity,
    /// The peer's record.
    record: Record<'a>,
    /// Its slot.
    slot: u32,
}

impl Known<'_> {
    /// Counts what is rejected of the peer.
    #[inline(always)]
    fn counted(&self, judgement: Judgement) -> Judgement {
        if judgement.reason.is_rejection() {
            self.record.count_rejected();
        }
        judgement
    }
}

/// Finds the peer, if the datagram is for this node.
#[inline(always)]
fn find<'a, T: Tables>(
    tables: &'a T,
    header: &Header,
    arrival: &Arrival,
) -> Result<Known<'a>, Reason> {
    let Some(node) = tables.node() else { return Err(Reason::NotReady) };
    if header.cluster != node.cluster {
        return Err(Reason::WrongCluster);
    }
    if header.receiver != node.node {
        return Err(match arrival.audience {
            Audience::One => Reason::WrongReceiver,
            Audience::Several => Reason::ForAnother,
        });
    }
    let path = Path::new(header.sender, header.link, arrival.interface);
    let Some(slot) = tables.slot(&path) else { return Err(Reason::UnknownPeer) };
    let Some(record) = tables.record(slot) else { return Err(Reason::NotReady) };
    Ok(Known { node, record, slot })
}

/// The part of a heartbeat or a control message from "peer" on.
#[inline(always)]
fn message<T: Tables>(
    tables: &T,
    fixed: &Fixed,
    header: &Header,
    known: &Known<'_>,
    arrival: &Arrival,
) -> Judgement {
    let Known { node, record, slot } = *known;
    if record.interface() != arrival.interface {
        return Reason::WrongInterface.into();
    }
    // The cheap check comes first; nothing is stored before the tag was found right.
    if let Err(reason) = fresh(header.kind, header, record, node.incarnation, 0) {
        return reason.into();
    }
    let key_entry = match auth::authenticate(tables, header.key, fixed) {
        Ok(entry) => entry,
        Err(reason) => return reason.into(),
    };
    // Kind and window are loaded anew: the verifier would carry what the checks above know of them
    // through the hashes, once for each combination. And no CPU's stamp of meanwhile is lost.
    let kind = fixed.message_again();
    let freshness = match fresh(kind, header, record, node.incarnation, 0) {
        Ok(freshness) => freshness,
        Err(reason) => return reason.into(),
    };
    if kind == Kind::Control {
        return control(header, freshness, record);
    }
    let now_ns = tables.now_ns();
    if matches!(freshness, Freshness::Next { .. })
        && let Some(arrivals) = tables.arrivals(slot)
    {
        arrivals.note(record, header, now_ns);
    }
    heartbeat(header, freshness, record, slot, key_entry, now_ns)
}

/// The part of a probe or an answer from "peer" on.
#[inline(always)]
fn question<T: Tables>(
    tables: &T,
    fixed: &mut Fixed,
    header: &Header,
    known: &Known<'_>,
    arrival: &Arrival,
) -> Judgement {
    let Known { node, record, slot } = *known;
    if record.interface() != arrival.interface {
        return Reason::WrongInterface.into();
    }
    if let Err(reason) = fresh(header.kind, header, record, node.incarnation, tables.now_ns()) {
        return reason.into();
    }
    let key_entry = match auth::authenticate(tables, header.key, fixed) {
        Ok(entry) => entry,
        Err(reason) => return reason.into(),
    };
    // As for messages; all of the header, since less of it fits on the stack.
    let Ok(again) = Header::decode(fixed) else { return Reason::BadVersion.into() };
    let header = &again;
    let now_ns = tables.now_ns();
    let freshness = match fresh(header.kind, header, record, node.incarnation, now_ns) {
        Ok(freshness) => freshness,
        Err(reason) => return reason.into(),
    };
    if header.kind == Kind::Answer {
        return answer(header, record, slot, now_ns);
    }
    let is_believed =
        header.incarnation == record.believed() || header.incarnation == record.control_believed();
    if !is_believed || freshness == Freshness::Greeting {
        return Reason::Greeting.into();
    }
    let asked = Asked { key_entry, now_ns, can_answer: arrival.can_answer };
    probe(tables, fixed, header, known, &asked).into()
}

/// Whether a datagram of that kind may change something, if it is authentic.
#[inline(always)]
fn fresh(
    kind: Kind,
    header: &Header,
    record: Record<'_>,
    own: u64,
    now_ns: u64,
) -> Result<Freshness, Reason> {
    if kind == Kind::Answer {
        let is_expected =
            header.echo == own && header.sent_ns > record.answered_ns() && header.sent_ns <= now_ns;
        return if is_expected { Ok(Freshness::Proven) } else { Err(Reason::UnexpectedAnswer) };
    }
    let window = match kind {
        Kind::Heartbeat => record.heartbeat_window(),
        Kind::Control => record.control_window(),
        Kind::Probe | Kind::Answer => record.probe_window(),
    };
    let freshness = window.judge(header.incarnation, header.sequence, header.echo, own);
    match freshness {
        Freshness::OldIncarnation => return Err(Reason::OldIncarnation),
        Freshness::OldSequence => return Err(Reason::OldSequence),
        Freshness::Next { .. } | Freshness::Proven | Freshness::Greeting => {}
    }
    if kind == Kind::Probe && now_ns < record.answer_from_ns() {
        return Err(Reason::ProbeLimit);
    }
    Ok(freshness)
}

/// What else there is to know of an authentic probe.
struct Asked {
    key_entry: u32,
    now_ns: u64,
    can_answer: bool,
}

/// Answers a probe, whose place the answer takes, or passes it up.
#[inline(always)]
fn probe<T: Tables>(
    tables: &T,
    fixed: &mut Fixed,
    header: &Header,
    known: &Known<'_>,
    asked: &Asked,
) -> Reason {
    let (record, now_ns) = (known.record, asked.now_ns);
    let is_for_socket = header.way == Way::Socket && tables.way() != Way::Socket;
    let passes = is_for_socket || !asked.can_answer;
    // A path's pause bounds what goes up too.
    if !passes && !tables.spend(now_ns) {
        return Reason::ProbeLimit;
    }
    record.set_probe_heard(header.incarnation);
    record.set_probe_believed(header.incarnation);
    record.set_probe_sequence(header.sequence);
    record.set_answer_from_ns(now_ns + ANSWER_PAUSE_NS);
    if passes {
        return Reason::ProbePassed;
    }
    // Where a program receives, the daemon's own record hears no heartbeats: what the socket answers there
    // never claims the link. Nobody decides by that bit of an answer.
    let silence_ns = now_ns.wrapping_sub(record.last_seen_ns()) as i64;
    let answering = Answering {
        node: known.node,
        lease: tables.lease(),
        hears: record.last_seen_ns() != 0 && silence_ns <= record.silence_ns() as i64,
        now_ns,
        way: tables.way(),
    };
    answering.turn(fixed);
    let Some(key) = tables.key(asked.key_entry) else { return Reason::UnknownKey };
    if !key.sign_in(fixed, tables) {
        return Reason::UnknownKey;
    }
    record.set_answers(record.answers().wrapping_add(1));
    Reason::Probe
}

/// Stores what an answer proves; the moment last.
#[inline(always)]
fn answer(header: &Header, record: Record<'_>, slot: u32, now_ns: u64) -> Judgement {
    record.set_answer_incarnation(header.incarnation);
    record.set_answer_lease_age_ms(u32::from(header.lease_age_ms));
    record.set_answer_layers(u32::from(header.layers));
    record.set_answer_way(header.way as u32);
    // After the age: who sees this one with an earlier age would take the lease for younger than it is.
    record.set_answer_at_ns(now_ns);
    record.set_answered_ns(header.sent_ns);
    let change =
        Change { kind: ChangeKind::Answered as u32, slot, at_ns: now_ns, value: header.sent_ns };
    Judgement { reason: Reason::Answer, told: change }
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
    let change = |kind: ChangeKind, value| Change { kind: kind as u32, slot, at_ns: now_ns, value };
    if freshness == Freshness::Greeting {
        let first = header.incarnation > record.heard();
        if first {
            record.set_heard(header.incarnation);
        }
        if !first {
            return Reason::Greeting.into();
        }
        let told = change(ChangeKind::FirstSight, header.incarnation);
        return Judgement { reason: Reason::Greeting, told };
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
    let told = if freshness == Freshness::Proven {
        change(ChangeKind::NewIncarnation, header.incarnation)
    } else if silent {
        change(ChangeKind::LinkBack, silence_ns as u64)
    } else if changed {
        change(ChangeKind::State, header.incarnation)
    } else {
        Judgement::NOTHING
    };
    Judgement { reason: Reason::Accepted, told }
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
