use super::*;
use crate::frame::parse;
use crate::judge::Tables as _;
use crate::maps::LinkRecord;
use crate::reason::Reason;
use crate::vectors::{
    Destination, Memory, OWN, OWN_MAC, Packet, SLOT_ALPHA, STEP_NS, Vlan, contents,
    judge_and_answer, key, vectors, world,
};
use crate::wire::{Header, Kind};

/// A world that believes alpha.
fn settled() -> Memory {
    let tables = Memory::new(world());
    assert_eq!(judge_and_answer(&tables, &Packet::heartbeat(1).frame()).0.reason, Reason::Accepted);
    tables
}

fn probe(sequence: u64, key_number: u8) -> Packet {
    let mut packet = Packet::heartbeat(sequence);
    packet.header.kind = Kind::Probe;
    packet.header.way = Way::Xdp;
    packet.header.key = key_number;
    packet.key = key(key_number);
    packet
}

fn answered(tables: &Memory, packet: &Packet) -> Vec<u8> {
    tables.advance(2 * STEP_NS);
    let (judgement, answer) = judge_and_answer(tables, &packet.frame());
    assert_eq!(judgement.reason, Reason::Probe);
    answer.unwrap()
}

fn header_of(frame: &[u8]) -> Header {
    let at = parse(frame).unwrap().payload_at;
    Header::decode(&Fixed::read(frame, at).unwrap()).unwrap()
}

#[test]
fn an_answer_says_who_answers_to_which_probe_and_how_old_the_lease_is() {
    let tables = settled();
    let ran_ns = tables.now_ns();
    let (phase, layers) = (Phase::Active as u16, u16::from(layers::SERVICE));
    tables.set_lease(Lease { driver_ran_ns: ran_ns, generation: 99, phase, layers });
    tables.advance(3_000_000);
    let packet = probe(5, 1);
    let answer = answered(&tables, &packet);
    let asked = packet.header;
    let expected = Header {
        kind: Kind::Answer,
        sender: asked.receiver,
        receiver: asked.sender,
        incarnation: OWN,
        echo: asked.incarnation,
        keepalive_us: 0,
        generation: 99,
        phase: Phase::Active,
        layers: layers::KERNEL | layers::DAEMON | layers::SERVICE,
        lease_age_ms: 3,
        key_offered: 0,
        ..asked
    };
    assert_eq!(header_of(&answer), expected);
    tables.advance(1_000_000_000);
    let header = header_of(&answered(&tables, &probe(6, 1)));
    assert_eq!((header.layers, header.lease_age_ms), (layers::KERNEL, 1_004));
}

#[test]
fn a_daemon_that_never_ran_or_long_ago_has_the_oldest_lease() {
    let tables = settled();
    assert_eq!(header_of(&answered(&tables, &probe(5, 1))).lease_age_ms, u16::MAX);
    tables.set_lease(Lease { driver_ran_ns: 1, ..Lease::default() });
    tables.advance(90_000_000_000);
    let header = header_of(&answered(&tables, &probe(6, 1)));
    assert_eq!((header.lease_age_ms, header.phase), (u16::MAX, Phase::Starting));
}

#[test]
fn the_link_layer_is_there_while_the_path_is_heard() {
    let mut loud = world();
    loud.records[0].1.silence_ns = 50 * STEP_NS;
    let tables = Memory::new(loud);
    assert!(judge_and_answer(&tables, &Packet::heartbeat(1).frame()).1.is_none());
    assert_eq!(header_of(&answered(&tables, &probe(5, 1))).layers & layers::LINK, layers::LINK);
    tables.advance(60 * STEP_NS);
    assert_eq!(header_of(&answered(&tables, &probe(6, 1))).layers & layers::LINK, 0);
}

#[test]
fn an_answer_is_signed_with_the_key_of_its_probe() {
    for number in [1, 3, 4, 5, 6, 7] {
        let tables = settled();
        let answer = answered(&tables, &probe(5, number));
        let fixed = Fixed::read(answer.as_slice(), 42).unwrap();
        assert!(key(number).verify(&fixed), "key {number}");
    }
    // One that an earlier file had, under a number that has another now.
    let tables = settled();
    let earlier = Packet { key: key(crate::vectors::EARLIER + 1), ..probe(5, 1) };
    let answer = answered(&tables, &earlier);
    assert!(earlier.key.verify(&Fixed::read(answer.as_slice(), 42).unwrap()));
}

/// The sum over a datagram with its checksum, by the definition.
fn udp_sum_over_ipv6(frame: &[u8], at: usize) -> u16 {
    let mut bytes = frame[at + 8..].to_vec();
    bytes.extend([0, frame[at + 6]]);
    bytes.extend(&frame[at + 4..at + 6]);
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn the_frame_goes_back_where_it_came_from() {
    let tables = settled();
    let asked = probe(5, 1);
    let (before, after) = (asked.frame(), answered(&tables, &asked));
    assert_eq!(before.len(), after.len(), "not one byte more");
    assert_eq!((&after[..6], &after[6..12]), (&before[6..12], &before[..6]));
    assert_eq!((&after[26..30], &after[30..34]), (&before[30..34], &before[26..30]));
    assert_eq!((&after[34..36], &after[36..38]), (&before[36..38], &before[34..36]));
    assert_eq!(after[40..42], [0, 0], "no checksum");
    let header: &[u8; 20] = after[14..34].try_into().unwrap();
    assert_eq!(fold(sum(header, 0, 20)), 0xffff, "checksum of the IPv4 header");
    let mut asked = Packet { v6: true, vlan: Vlan::Customer, ..probe(6, 1) };
    for (destination, own) in [(Destination::Host(2), 2), (Destination::Group, 2)] {
        asked.destination = destination;
        asked.header.sequence += 1;
        let (before, after) = (asked.frame(), answered(&tables, &asked));
        assert_eq!((&after[..6], &after[6..12]), (&before[6..12], &OWN_MAC[..]));
        assert_eq!(after[12..18], before[12..18], "the tag stays");
        assert_eq!((&after[42..58], after[41]), (&before[26..42], own));
        assert_eq!(udp_sum_over_ipv6(&after, 18), 0xffff);
    }
}

#[test]
fn an_answer_is_taken_by_the_asker_and_answered_by_nobody() {
    let beta = settled();
    let asked = probe(5, 1);
    let answer = answered(&beta, &asked);
    let mut mirrored = world();
    (mirrored.identity.node, mirrored.identity.incarnation) = (asked.header.sender, 20);
    mirrored.paths[0].0.sender = asked.header.receiver;
    for (endpoint, site) in &mut mirrored.endpoints {
        if endpoint.address[15] == 2 {
            endpoint.address[15] = 1;
            site.address[15] = 1;
        }
    }
    let alpha = Memory::new(mirrored);
    // The port that it was sent from.
    let mut answer = answer;
    answer[36..38].copy_from_slice(&694u16.to_be_bytes());
    alpha.advance(10_000_000_000);
    let (judgement, more) = judge_and_answer(&alpha, &answer);
    assert_eq!((judgement.reason, more), (Reason::Answer, None));
    let record = contents(alpha.record(SLOT_ALPHA).unwrap());
    assert_eq!((record.answered_ns, record.answer_incarnation), (asked.header.sent_ns, OWN));
    assert_eq!(record.answer_at_ns, alpha.now_ns(), "it arrived later than its probe had left");
    assert_eq!((record.answer_way, record.last_seen_ns), (Way::Xdp as u32, 0), "no heartbeat");
    let (judgement, more) = judge_and_answer(&alpha, &answer);
    assert_eq!((judgement.reason, more), (Reason::UnexpectedAnswer, None));
    // Back at who gave it, it is for somebody else.
    assert_eq!(judge_and_answer(&beta, &answer).1, None);
}

#[test]
fn of_probes_by_each_way_only_those_for_others_pass() {
    use Way::{None, Socket, Tc, Xdp};
    let expected = [
        (Xdp, [Reason::Probe, Reason::Probe, Reason::ProbePassed, Reason::ProbePassed]),
        (Tc, [Reason::Probe, Reason::Probe, Reason::Probe, Reason::ProbePassed]),
        (Socket, [Reason::Probe; 4]),
    ];
    for (judge, reasons) in expected {
        for (asked, reason) in [None, Xdp, Tc, Socket].into_iter().zip(reasons) {
            let tables = settled();
            tables.set_way(judge);
            let mut packet = probe(5, 1);
            packet.header.way = asked;
            let (judgement, answer) = judge_and_answer(&tables, &packet.frame());
            assert_eq!(judgement.reason, reason, "{judge:?}, asked for {asked:?}");
            if let Some(answer) = answer {
                assert_eq!(header_of(&answer).way, judge);
            }
        }
    }
}

#[test]
fn a_control_window_is_enough_to_be_believed() {
    let tables = Memory::new(world());
    let mut control = Packet::heartbeat(1);
    control.header.kind = Kind::Control;
    assert_eq!(judge_and_answer(&tables, &probe(5, 1).frame()).0.reason, Reason::Greeting);
    assert_eq!(judge_and_answer(&tables, &control.frame()).0.reason, Reason::Control);
    answered(&tables, &probe(5, 1));
}

#[test]
fn answers_on_one_path_have_a_pause_between_them() {
    let tables = settled();
    tables.advance(ANSWER_PAUSE_NS);
    let given = (0..10_000u64).filter(|number| {
        tables.advance(1_000);
        judge_and_answer(&tables, &probe(number + 1, 1).frame()).1.is_some()
    });
    assert_eq!(given.count(), 25, "in 10 ms");
}

#[test]
fn answers_of_one_cpu_are_bounded_whatever_comes() {
    let mut budget = Budget::default();
    let now_ns = 5_000_000_000;
    let at_once = (0..100_000).filter(|_| budget.spend(now_ns)).count() as u64;
    assert_eq!(at_once, ANSWER_BURST);
    let second = (0..1_000_000u64).filter(|it| budget.spend(now_ns + it * 1_000)).count() as u64;
    let expected = 1_000_000_000 / ANSWER_INTERVAL_NS;
    assert!((expected - 1..=expected + 1).contains(&second), "{second} in a second");
    let mut clock_went_back = Budget { full_ns: u64::MAX - ANSWER_INTERVAL_NS };
    assert!(!clock_went_back.spend(1));
}

#[test]
fn no_vector_is_answered_with_more_than_its_own_length() {
    let tables = Memory::new(world());
    let mut answers = 0;
    for vector in vectors() {
        tables.advance(STEP_NS);
        let before = contents(tables.record(SLOT_ALPHA).unwrap());
        let (judgement, answer) = judge_and_answer(&tables, &vector.frame);
        let Some(answer) = answer else { continue };
        answers += 1;
        assert_eq!(answer.len(), vector.frame.len(), "{}", vector.name);
        assert_eq!(judgement.change(), None, "{}: nobody wakes", vector.name);
        let after = contents(tables.record(SLOT_ALPHA).unwrap());
        let known = |it: LinkRecord| LinkRecord {
            probes: before.probes,
            answer_from_ns: 0,
            answers: 0,
            ..it
        };
        assert_eq!(known(after), known(before), "{}: no liveness comes of it", vector.name);
    }
    assert_eq!(answers, 7);
}
