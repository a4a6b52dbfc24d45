//! The frames themselves.

use super::*;
use crate::wire::FIXED_BYTES;

/// An address of the documentation prefix 2001:db8::/32 (RFC 3849).
pub(super) fn address_v6(last: u8) -> [u8; 16] {
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// Where parts of an untagged IPv4 frame begin.
pub(super) mod at {
    pub(in crate::vectors) const ETHERTYPE: usize = 12;
    pub(in crate::vectors) const IP: usize = 14;
    pub(in crate::vectors) const UDP: usize = 34;
    pub(in crate::vectors) const PAYLOAD: usize = 42;
}
/// Where the payload of an untagged IPv6 frame begins.
const PAYLOAD_V6_AT: usize = 62;

pub(super) fn frame(packet: &Packet) -> Vec<u8> {
    let mut payload = packet.fixed().to_bytes().to_vec();
    payload.extend(&packet.rest);
    let mut frame = match (packet.destination, packet.v6) {
        (Destination::Host(_), _) => OWN_MAC.to_vec(),
        (Destination::Group, false) => vec![0x01, 0x00, 0x5e, 0x01, 0x00, 0x01],
        (_, true) => vec![0x33, 0x33, 0, 0, 0x06, 0x94],
        (Destination::Network | Destination::Everybody, false) => vec![0xff; 6],
    };
    frame.extend([2, 0, 0, 0, 0, 1]);
    // Priority 6 (network control), VLAN 100.
    match packet.vlan {
        Vlan::Untagged => {}
        Vlan::Customer => frame.extend([0x81, 0x00, 0xc0, 100]),
        Vlan::Service => frame.extend([0x88, 0xa8, 0xc0, 100]),
        Vlan::Both => frame.extend([0x88, 0xa8, 0xc0, 100, 0x81, 0x00, 0xc0, 100]),
    }
    let udp_bytes = ((payload.len() + 8) as u16).to_be_bytes();
    if packet.v6 {
        frame.extend([0x86, 0xdd, 0x6c, 0, 0, 0, udp_bytes[0], udp_bytes[1], 17, 1]);
        frame.extend(address_v6(1));
        frame.extend(packet.destination.v6());
    } else {
        // The checksum is left zero: nothing of the path of a heartbeat looks at it.
        let ip_bytes = ((payload.len() + 28) as u16).to_be_bytes();
        frame.extend([0x08, 0x00, 0x45, 0xc0, ip_bytes[0], ip_bytes[1], 0, 0, 0, 0, 1, 17, 0, 0]);
        frame.extend([192, 0, 2, 1]);
        frame.extend(&packet.destination.v4()[12..]);
    }
    let [high, low] = packet.port.to_be_bytes();
    frame.extend([0x30, 0x39, high, low, udp_bytes[0], udp_bytes[1], 0, 0]);
    frame.extend(payload);
    frame
}

/// For a node whose identity is not written yet.
#[must_use]
pub fn before_configuration() -> Vec<Vector> {
    vec![
        vector("heartbeat before configuration", &Packet::heartbeat(1), Reason::NotReady),
        damaged("version before configuration", &Packet::heartbeat(1), Reason::BadVersion, |it| {
            it[at::PAYLOAD + 2] = 9;
        }),
    ]
}

/// All of them, to be judged in this order.
#[must_use]
pub fn vectors() -> Vec<Vector> {
    [
        introduction(),
        accepted(),
        changes(),
        control(),
        probes(),
        answers(),
        identity(),
        authenticity(),
        methods::methods(),
        freshness(),
        lengths(),
        cut(),
        not_ours(),
        shared(),
        returning(),
        restart(),
    ]
    .concat()
}

pub(super) fn vector(name: &'static str, packet: &Packet, reason: Reason) -> Vector {
    Vector { name, frame: packet.frame(), reason, change: None }
}

pub(super) fn changed(
    name: &'static str,
    packet: &Packet,
    reason: Reason,
    change: ChangeKind,
) -> Vector {
    Vector { change: Some(change), ..vector(name, packet, reason) }
}

/// A frame that was altered after it was signed.
pub(super) fn damaged(
    name: &'static str,
    packet: &Packet,
    reason: Reason,
    damage: impl FnOnce(&mut Vec<u8>),
) -> Vector {
    let mut frame = packet.frame();
    damage(&mut frame);
    Vector { name, frame, reason, change: None }
}

/// A heartbeat with another header.
pub(super) fn with(sequence: u64, alter: impl FnOnce(&mut Header)) -> Packet {
    let mut packet = Packet::heartbeat(sequence);
    alter(&mut packet.header);
    packet
}

fn v6(sequence: u64) -> Packet {
    Packet { v6: true, ..Packet::heartbeat(sequence) }
}

pub(super) fn with_body(mut packet: Packet, body: &[u8]) -> Packet {
    packet.header.body_bytes = body.len() as u16;
    packet.rest = packet.key.body_tag(&packet.fixed(), body).to_vec();
    packet.rest.extend(body);
    packet
}

fn introduction() -> Vec<Vector> {
    let greeting = |sequence, echo| with(sequence, |it| it.echo = echo);
    vec![
        changed("first greeting", &greeting(1, 0), Reason::Greeting, ChangeKind::FirstSight),
        vector("second greeting", &greeting(2, 0), Reason::Greeting),
        vector("echo of another incarnation", &greeting(2, OWN - 1), Reason::Greeting),
        changed("proof", &Packet::heartbeat(3), Reason::Accepted, ChangeKind::NewIncarnation),
    ]
}

fn accepted() -> Vec<Vector> {
    let tagged = |packet, vlan| Packet { vlan, ..packet };
    let second_key = Packet { key: key(3), ..with(15, |it| it.key = 3) };
    vec![
        vector("next", &Packet::heartbeat(4), Reason::Accepted),
        vector("four lost", &Packet::heartbeat(9), Reason::Accepted),
        vector("IPv4, 802.1Q", &tagged(Packet::heartbeat(10), Vlan::Customer), Reason::Accepted),
        vector("IPv4, 802.1ad", &tagged(Packet::heartbeat(11), Vlan::Service), Reason::Accepted),
        vector("IPv6", &v6(12), Reason::Accepted),
        vector("IPv6, 802.1Q", &tagged(v6(13), Vlan::Customer), Reason::Accepted),
        vector("IPv6, 802.1ad", &tagged(v6(14), Vlan::Service), Reason::Accepted),
        vector("second key", &second_key, Reason::Accepted),
        vector("believed peer echoes another", &with(16, |it| it.echo = 5), Reason::Accepted),
        vector("with body", &with_body(Packet::heartbeat(17), b"newer node"), Reason::Accepted),
        damaged("padded to 60 bytes and more", &Packet::heartbeat(18), Reason::Accepted, |it| {
            it.extend([0; 40]);
        }),
        damaged("don't fragment", &Packet::heartbeat(19), Reason::Accepted, |it| {
            it[at::IP + 6] = 0x40;
        }),
        damaged("other type of service", &Packet::heartbeat(20), Reason::Accepted, |it| {
            it[at::IP + 1] = 0;
        }),
    ]
}

fn changes() -> Vec<Vector> {
    let state = |name, sequence, alter: fn(&mut Header)| {
        changed(name, &with(sequence, alter), Reason::Accepted, ChangeKind::State)
    };
    vec![
        state("generation", 21, |it| it.generation = 8),
        state("phase and generation back", 22, |it| it.phase = Phase::Leaving),
        state("layers and phase back", 23, |it| it.layers = layers::KERNEL),
        state("all back", 24, |_| {}),
        vector(
            "lease age and keepalive only",
            &with(25, |it| {
                it.lease_age_ms = u16::MAX;
                it.keepalive_us = 1;
            }),
            Reason::Accepted,
        ),
    ]
}

fn control() -> Vec<Vector> {
    let message = |sequence| with(sequence, |it| it.kind = Kind::Control);
    let unproven = with(1, |it| {
        it.kind = Kind::Control;
        it.echo = 0;
    });
    let body = with_body(message(2), b"{\"groups\":[]}");
    vec![
        vector("unproven control", &unproven, Reason::Greeting),
        vector("first control", &message(1), Reason::Control),
        vector("control with body", &body, Reason::Control),
        vector("control over IPv6", &Packet { v6: true, ..message(3) }, Reason::Control),
        vector("repeated control", &message(3), Reason::OldSequence),
        damaged("control with bad tag", &message(99), Reason::BadTag, |it| {
            it[at::PAYLOAD + HEADER_BYTES] ^= 1;
        }),
        damaged("control whose body is cut", &body_of_next(), Reason::Truncated, |it| {
            it.truncate(it.len() - 1);
        }),
    ]
}

fn probe(sequence: u64, way: Way) -> Packet {
    with(sequence, |it| {
        it.kind = Kind::Probe;
        it.way = way;
        it.sent_ns = 77;
    })
}

/// Between two of them [`STEP_NS`] pass: who follows an answered one at once comes too soon.
fn probes() -> Vec<Vector> {
    let xdp = |sequence| probe(sequence, Way::Xdp);
    let to = |destination, packet| Packet { destination, ..packet };
    let unproven = Packet {
        header: Header { incarnation: 30, echo: 0, ..xdp(9).header },
        ..Packet::heartbeat(9)
    };
    let stranger = Packet {
        header: Header { sender: name_id("eve"), ..xdp(9).header },
        ..Packet::heartbeat(9)
    };
    let fourth = || xdp(4);
    vec![
        vector("first probe", &xdp(1), Reason::Probe),
        vector("probe too soon", &xdp(2), Reason::ProbeLimit),
        vector("probe that came too soon", &xdp(2), Reason::Probe),
        vector("replayed probe", &xdp(2), Reason::OldSequence),
        damaged("forged probe", &xdp(3), Reason::BadTag, |it| it[at::PAYLOAD + 75] ^= 1),
        vector("probe of a start that is not believed", &unproven, Reason::Greeting),
        vector("probe of a stranger", &stranger, Reason::UnknownPeer),
        vector("probe with a body", &with_body(xdp(3), b"x"), Reason::BadKind),
        vector("probe with more behind it", &Packet { rest: vec![0], ..xdp(3) }, Reason::BadKind),
        vector("probe over IPv6", &Packet { v6: true, ..xdp(3) }, Reason::Probe),
        vector("damaged while it is too soon", &fourth(), Reason::ProbeLimit),
        vector("tagged probe", &Packet { vlan: Vlan::Customer, ..fourth() }, Reason::Probe),
        vector("old probe", &xdp(1), Reason::OldSequence),
        vector("probe for the socket", &probe(5, Way::Socket), Reason::ProbePassed),
        vector("too soon for the socket", &probe(6, Way::Socket), Reason::ProbeLimit),
        vector("probe at the group", &to(Destination::Group, xdp(6)), Reason::Probe),
        vector(
            "probe of an earlier start",
            &{
                Packet {
                    header: Header { incarnation: 19, ..xdp(99).header },
                    ..Packet::heartbeat(99)
                }
            },
            Reason::OldIncarnation,
        ),
        vector(
            "probe at the IPv6 group",
            &Packet { v6: true, ..to(Destination::Group, xdp(7)) },
            Reason::Probe,
        ),
        vector("first of two for the pause", &xdp(8), Reason::ProbeLimit),
        vector(
            "probe where nothing answers",
            &to(Destination::Everybody, xdp(8)),
            Reason::ProbePassed,
        ),
        vector("second of two for the pause", &xdp(9), Reason::ProbeLimit),
        vector(
            "probe with an old echo",
            &{ Packet { header: Header { echo: 5, ..xdp(9).header }, ..Packet::heartbeat(9) } },
            Reason::Probe,
        ),
    ]
}

fn answers() -> Vec<Vector> {
    let answer = |sent_ns, alter: fn(&mut Header)| {
        with(99, |it| {
            it.kind = Kind::Answer;
            it.way = Way::Xdp;
            it.sent_ns = sent_ns;
            alter(it);
        })
    };
    let changed = |name, packet| changed(name, &packet, Reason::Answer, ChangeKind::Answered);
    let unexpected = |name, packet| vector(name, &packet, Reason::UnexpectedAnswer);
    vec![
        changed("answer", answer(500_000_000, |_| {})),
        unexpected("the same answer", answer(500_000_000, |_| {})),
        unexpected("answer to an earlier probe", answer(499_999_999, |_| {})),
        unexpected("answer to another start", answer(500_000_001, |it| it.echo = OWN - 1)),
        unexpected("answer of the future", answer(u64::MAX, |_| {})),
        damaged("forged answer", &answer(500_000_001, |_| {}), Reason::BadTag, |it| {
            it[at::PAYLOAD + 75] ^= 1;
        }),
        changed(
            "answer of a start that was not heard",
            answer(500_000_001, |it| it.incarnation = 31),
        ),
        changed(
            "answer to a later probe over IPv6",
            Packet { v6: true, ..answer(500_000_002, |_| {}) },
        ),
        vector(
            "answer with more behind it",
            &Packet { rest: vec![0], ..answer(600_000_000, |_| {}) },
            Reason::BadKind,
        ),
    ]
}

fn body_of_next() -> Packet {
    with_body(with(4, |it| it.kind = Kind::Control), b"{\"groups\":[]}")
}

fn identity() -> Vec<Vector> {
    let payload = |name, reason, offset: usize, byte| {
        damaged(name, &Packet::heartbeat(99), reason, move |it| it[at::PAYLOAD + offset] = byte)
    };
    let header = |name, reason, alter: fn(&mut Header)| vector(name, &with(99, alter), reason);
    vec![
        payload("wrong magic", Reason::BadVersion, 0, 0),
        payload("wrong second byte of the magic", Reason::BadVersion, 1, 0),
        payload("version 0", Reason::BadVersion, 2, 0),
        payload("version 2", Reason::BadVersion, 2, 2),
        payload("kind 0", Reason::BadKind, 3, 0),
        payload("kind 5", Reason::BadKind, 3, 5),
        header("wrong cluster", Reason::WrongCluster, |it| it.cluster = name_id("other")),
        header("wrong receiver", Reason::WrongReceiver, |it| it.receiver = name_id("gamma")),
        header("its own sender", Reason::UnknownPeer, |it| it.sender = name_id("beta")),
        header("unknown sender", Reason::UnknownPeer, |it| it.sender = name_id("eve")),
        header("unknown link", Reason::UnknownPeer, |it| it.link = name_id("hb9")),
        header("link of another interface", Reason::WrongInterface, |it| it.link = name_id("svc")),
        header("path without record", Reason::NotReady, |it| it.sender = name_id("delta")),
        header("key that is not configured", Reason::UnknownKey, |it| it.key = 2),
        header("key number out of range", Reason::UnknownKey, |it| it.key = 16),
        header("highest key number", Reason::UnknownKey, |it| it.key = 255),
    ]
}

fn authenticity() -> Vec<Vector> {
    let flipped = |name, offset: usize| {
        damaged(name, &Packet::heartbeat(99), Reason::BadTag, move |it| {
            it[at::PAYLOAD + offset] ^= 1;
        })
    };
    let other_key = Packet { key: key(3), ..Packet::heartbeat(99) };
    let unproven = Packet { key: key(2), ..with(99, |it| it.incarnation = 30) };
    vec![
        flipped("first byte of the tag", HEADER_BYTES),
        flipped("last byte of the tag", HEADER_BYTES + 7),
        flipped("first byte behind the tag", HEADER_BYTES + 8),
        flipped("last byte behind the tag", HEADER_BYTES + 15),
        flipped("reserved byte of the header", 21),
        flipped("last byte of the header", HEADER_BYTES - 1),
        flipped("altered send time", 55),
        flipped("altered generation", 63),
        flipped("altered phase", 64),
        vector("signed with another known key", &other_key, Reason::BadTag),
        vector("new incarnation without the key", &unproven, Reason::BadTag),
        damaged("zero tag", &Packet::heartbeat(99), Reason::BadTag, |it| {
            it[at::PAYLOAD + HEADER_BYTES..].fill(0);
        }),
        damaged("IPv6, bad tag", &v6(99), Reason::BadTag, |it| {
            it[PAYLOAD_V6_AT + HEADER_BYTES] ^= 1;
        }),
    ]
}

fn freshness() -> Vec<Vector> {
    vec![
        vector("same sequence again", &Packet::heartbeat(25), Reason::OldSequence),
        vector("earlier sequence", &Packet::heartbeat(3), Reason::OldSequence),
        vector("sequence zero", &Packet::heartbeat(0), Reason::OldSequence),
        vector("earlier incarnation", &with(99, |it| it.incarnation = 19), Reason::OldIncarnation),
        vector("incarnation zero", &with(99, |it| it.incarnation = 0), Reason::OldIncarnation),
        damaged(
            "old and forged: freshness first",
            &Packet::heartbeat(25),
            Reason::OldSequence,
            |it| {
                it[at::PAYLOAD + HEADER_BYTES] ^= 1;
            },
        ),
    ]
}

fn lengths() -> Vec<Vector> {
    let udp = |name, bytes: u16| {
        damaged(name, &Packet::heartbeat(99), Reason::Truncated, move |it| {
            it[at::UDP + 4..at::UDP + 6].copy_from_slice(&bytes.to_be_bytes());
        })
    };
    let body =
        |name, bytes| vector(name, &with(99, move |it| it.body_bytes = bytes), Reason::Truncated);
    vec![
        udp("UDP length zero", 0),
        udp("UDP length below its header", 7),
        udp("UDP length of no payload", 8),
        udp("UDP length one short", 8 + FIXED_BYTES as u16 - 1),
        damaged("IPv4 length one short", &Packet::heartbeat(99), Reason::Truncated, |it| {
            it[at::IP + 3] -= 1;
        }),
        damaged("IPv4 length zero", &Packet::heartbeat(99), Reason::Truncated, |it| {
            it[at::IP + 2..at::IP + 4].fill(0);
        }),
        damaged("IPv6 length one short", &v6(99), Reason::Truncated, |it| it[at::IP + 5] -= 1),
        body("body that is not there", 1),
        body("longest body that is not there", u16::MAX),
        vector(
            "body without its tag",
            &Packet { rest: vec![0; 10], ..with(99, |it| it.body_bytes = 10) },
            Reason::Truncated,
        ),
        vector(
            "body one short",
            &Packet { rest: vec![0; TAG_BYTES + 9], ..with(99, |it| it.body_bytes = 10) },
            Reason::Truncated,
        ),
        damaged(
            "lengths that promise a body",
            &with(99, |it| it.body_bytes = 10),
            Reason::Truncated,
            |it| {
                it[at::IP + 3] += 26;
                it[at::UDP + 5] += 26;
            },
        ),
    ]
}

/// One frame cut short at every boundary, and one byte before it.
fn cut() -> Vec<Vector> {
    let cut = |name, packet: &Packet, bytes: usize, reason| {
        damaged(name, packet, reason, |it| it.truncate(bytes))
    };
    let (v4, tagged) =
        (Packet::heartbeat(99), Packet { vlan: Vlan::Customer, ..Packet::heartbeat(99) });
    let v6 = v6(99);
    vec![
        cut("nothing", &v4, 0, Reason::NotOurs),
        cut("addresses only", &v4, 12, Reason::NotOurs),
        cut("one byte of the type", &v4, 13, Reason::NotOurs),
        cut("Ethernet only", &v4, 14, Reason::NotOurs),
        cut("Ethernet and one byte", &v4, 15, Reason::NotOurs),
        cut("half a VLAN tag", &tagged, 16, Reason::NotOurs),
        cut("VLAN tag only", &tagged, 18, Reason::NotOurs),
        cut("IPv4 one short", &v4, 33, Reason::NotOurs),
        cut("IPv4 only", &v4, 34, Reason::NotOurs),
        cut("UDP one short", &v4, 41, Reason::NotOurs),
        cut("UDP only", &v4, 42, Reason::Truncated),
        cut("header one short", &v4, 42 + HEADER_BYTES - 1, Reason::Truncated),
        cut("header without tag", &v4, 42 + HEADER_BYTES, Reason::Truncated),
        cut("tag one short", &v4, 42 + FIXED_BYTES - 1, Reason::Truncated),
        cut("tagged, tag one short", &tagged, 46 + FIXED_BYTES - 1, Reason::Truncated),
        cut("IPv6 one short", &v6, 53, Reason::NotOurs),
        cut("IPv6 only", &v6, 54, Reason::NotOurs),
        cut("UDP over IPv6 only", &v6, 62, Reason::Truncated),
        cut("IPv6, tag one short", &v6, 62 + FIXED_BYTES - 1, Reason::Truncated),
    ]
}

fn not_ours() -> Vec<Vector> {
    let byte = |name, at: usize, byte| {
        damaged(name, &Packet::heartbeat(99), Reason::NotOurs, move |it| it[at] = byte)
    };
    let byte_v6 =
        |name, at: usize, byte| damaged(name, &v6(99), Reason::NotOurs, move |it| it[at] = byte);
    let packet = |name, packet: Packet| vector(name, &packet, Reason::NotOurs);
    vec![
        byte("ARP", at::ETHERTYPE + 1, 0x06),
        byte("TCP", at::IP + 9, 6),
        damaged("first fragment", &Packet::heartbeat(99), Reason::Fragment, |it| {
            it[at::IP + 6] = 0x20;
        }),
        byte("later fragment", at::IP + 7, 0x10),
        byte("last fragment", at::IP + 6, 0x1f),
        byte("IP options", at::IP, 0x46),
        byte("IP version 6 in an IPv4 frame", at::IP, 0x65),
        byte("header of four words", at::IP, 0x44),
        byte_v6("hop-by-hop options", at::IP + 6, 0),
        byte_v6("IPv6 fragment header", at::IP + 6, 44),
        byte_v6("IP version 4 in an IPv6 frame", at::IP, 0x4c),
        packet("two VLAN tags", Packet { vlan: Vlan::Both, ..Packet::heartbeat(99) }),
        packet("other port", Packet { port: PORT + 1, ..Packet::heartbeat(99) }),
        packet(
            "other address",
            Packet { destination: Destination::Host(3), ..Packet::heartbeat(99) },
        ),
        packet("other IPv6 address", Packet { destination: Destination::Host(3), ..v6(99) }),
        packet(
            "endpoint of another interface",
            Packet { destination: Destination::Host(9), ..Packet::heartbeat(99) },
        ),
    ]
}

/// At endpoints that other nodes hear too, and on links that packets do not name.
fn shared() -> Vec<Vector> {
    let to = |destination, packet| Packet { destination, ..packet };
    let by_arrival = |sequence| with(sequence, |it| it.link = by_arrival::MCAST);
    let for_gamma = || with(99, |it| it.receiver = name_id("gamma"));
    let other = |name, packet| vector(name, &packet, Reason::ForAnother);
    let accepted = |name, packet| vector(name, &packet, Reason::Accepted);
    let (group, network) = (Destination::Group, Destination::Network);
    vec![
        accepted("to the group", to(group, Packet::heartbeat(52))),
        accepted("to the IPv6 group", to(group, v6(53))),
        accepted("to the broadcast address", to(network, Packet::heartbeat(54))),
        accepted("to every host", to(Destination::Everybody, Packet::heartbeat(55))),
        other("for another at the group", to(group, for_gamma())),
        other("for another at the IPv6 group", Packet { v6: true, ..to(group, for_gamma()) }),
        other("for another at the broadcast address", to(network, for_gamma())),
        other(
            "its own, come back",
            to(group, {
                with(99, |it| {
                    it.sender = name_id("beta");
                    it.receiver = name_id("alpha");
                })
            }),
        ),
        vector(
            "forged at the group",
            &Packet { key: key(3), ..to(group, Packet::heartbeat(99)) },
            Reason::BadTag,
        ),
        changed(
            "link by arrival",
            &to(group, by_arrival(1)),
            Reason::Accepted,
            ChangeKind::NewIncarnation,
        ),
        accepted("next on a link by arrival", to(group, by_arrival(2))),
        vector("again on a link by arrival", &to(group, by_arrival(2)), Reason::OldSequence),
        vector(
            "by arrival, a kind that is not there",
            &to(group, with(99, |it| it.link = by_arrival::BCAST)),
            Reason::UnknownPeer,
        ),
    ]
}

fn returning() -> Vec<Vector> {
    let gamma = |sequence, generation| {
        with(sequence, |it| {
            it.sender = name_id("gamma");
            it.generation = generation;
        })
    };
    let back = |name, packet| changed(name, &packet, Reason::Accepted, ChangeKind::LinkBack);
    vec![
        changed("proof at once", &gamma(5, 1), Reason::Accepted, ChangeKind::NewIncarnation),
        back("return", gamma(6, 1)),
        back("return with another generation", gamma(7, 2)),
        vector("forged return", &Packet { key: key(3), ..gamma(8, 2) }, Reason::BadTag),
    ]
}

fn restart() -> Vec<Vector> {
    let start = |incarnation, sequence, echo| {
        with(sequence, |it| {
            it.incarnation = incarnation;
            it.echo = echo;
        })
    };
    vec![
        changed("restarted", &start(21, 1, OWN), Reason::Accepted, ChangeKind::NewIncarnation),
        vector("of the earlier start", &Packet::heartbeat(1000), Reason::OldIncarnation),
        vector("next after restart", &start(21, 2, OWN), Reason::Accepted),
        changed("restarted, unproven", &start(22, 1, 0), Reason::Greeting, ChangeKind::FirstSight),
        vector("of the start before it", &start(21, 3, OWN), Reason::OldIncarnation),
        changed("restart proven", &start(22, 2, OWN), Reason::Accepted, ChangeKind::NewIncarnation),
        vector("last sequence number", &start(22, u64::MAX, OWN), Reason::Accepted),
        vector("nothing follows the last", &start(22, u64::MAX, OWN), Reason::OldSequence),
    ]
}
