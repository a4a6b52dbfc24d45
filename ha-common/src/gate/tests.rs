use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FLOATING: [u8; 4] = [198, 51, 100, 10];
const OTHER: [u8; 4] = [198, 51, 100, 1];
const FLOATING_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const OTHER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const INTERFACE: u32 = 2;

/// Both addresses and a link-local one have gates, open until `until_ns`.
struct Table {
    until_ns: u64,
    now_ns: u64,
    lookups: Cell<u32>,
}

impl Gates for Table {
    fn until_ns(&self, key: &GateKey) -> Option<u64> {
        self.lookups.set(self.lookups.get() + 1);
        let keys = BTreeMap::from([
            (GateKey::new(address_of(FLOATING.into()), 0), ()),
            (GateKey::new(address_of(FLOATING_V6.into()), 0), ()),
            (GateKey::new(address_of(LINK_LOCAL.into()), INTERFACE), ()),
        ]);
        keys.contains_key(key).then_some(self.until_ns)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

fn table(until_ns: u64) -> Table {
    Table { until_ns, now_ns: 1_000, lookups: Cell::new(0) }
}

fn framed(ethertype: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(rest);
    frame
}

fn arp_frame(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut body = ARP_START.to_vec();
    body.extend([0, 1, 2, 0, 0, 0, 0, 1]);
    body.extend(sender);
    body.extend([0; 6]);
    body.extend(target);
    framed(ETHERTYPE_ARP, &body)
}

fn ipv4_frame(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0];
    body.extend(source);
    body.extend(destination);
    framed(ETHERTYPE_IPV4, &body)
}

fn ipv6_frame(source: [u8; 16], destination: [u8; 16], icmp: Option<(u8, [u8; 16])>) -> Vec<u8> {
    let mut body = vec![0x60, 0, 0, 0, 0, 24, if icmp.is_some() { 58 } else { 6 }, 255];
    body.extend(source);
    body.extend(destination);
    if let Some((kind, target)) = icmp {
        body.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(target);
    }
    framed(ETHERTYPE_IPV6, &body)
}

fn vlan(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat()
}

fn passes_when(until_ns: u64, frame: &[u8], way: Way) -> bool {
    passes(&table(until_ns), frame, way, INTERFACE)
}

/// Frames that concern a pre-armed address, on their way.
fn concerning() -> Vec<(&'static str, Vec<u8>, Way)> {
    let solicited = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x10];
    vec![
        ("asked by ARP", arp_frame(OTHER, FLOATING), Way::In),
        ("claimed by ARP", arp_frame(FLOATING, OTHER), Way::Out),
        ("reached", ipv4_frame(OTHER, FLOATING), Way::In),
        ("left", ipv4_frame(FLOATING, OTHER), Way::Out),
        ("reached by IPv6", ipv6_frame(OTHER_V6, FLOATING_V6, None), Way::In),
        ("left by IPv6", ipv6_frame(FLOATING_V6, OTHER_V6, None), Way::Out),
        ("solicited", ipv6_frame(OTHER_V6, solicited, Some((135, FLOATING_V6))), Way::In),
        ("solicited at it", ipv6_frame(OTHER_V6, FLOATING_V6, Some((135, OTHER_V6))), Way::In),
        ("advertised", ipv6_frame(OTHER_V6, OTHER_V6, Some((136, FLOATING_V6))), Way::Out),
    ]
}

#[test]
fn what_concerns_the_address_passes_only_while_its_gate_is_open() {
    for (what, frame, way) in concerning() {
        for frame in [frame.clone(), vlan(&frame)] {
            assert!(!passes_when(0, &frame, way), "{what}: passes a gate that was never opened");
            assert!(!passes_when(1_000, &frame, way), "{what}: passes at the end of the lease");
            assert!(passes_when(1_001, &frame, way), "{what}: is held up by an open gate");
        }
    }
}

#[test]
fn everything_else_is_not_touched() {
    let others = [
        (arp_frame(OTHER, OTHER), Way::In),
        // The owner's announcement arrives here and is nobody's business of the gate but by its target.
        (arp_frame(FLOATING, OTHER), Way::In),
        // A question of this node for the address, with no sender (RFC 5227 2.1.1).
        (arp_frame([0; 4], FLOATING), Way::Out),
        (ipv4_frame(FLOATING, OTHER), Way::In),
        (ipv4_frame(OTHER, FLOATING), Way::Out),
        (ipv6_frame(OTHER_V6, OTHER_V6, Some((136, FLOATING_V6))), Way::In),
        (ipv6_frame([0; 16], OTHER_V6, Some((135, FLOATING_V6))), Way::Out),
        (framed(0x88cc, &[0; 40]), Way::In),
    ];
    for (at, (frame, way)) in others.iter().enumerate() {
        assert!(passes_when(0, frame, *way), "frame {at}");
    }
}

#[test]
fn a_link_local_address_has_its_gate_on_its_own_link() {
    let frame = ipv6_frame(LINK_LOCAL, LINK_LOCAL, None);
    assert!(!passes(&table(0), frame.as_slice(), Way::In, INTERFACE));
    assert!(passes(&table(0), frame.as_slice(), Way::In, INTERFACE + 1));
}

#[test]
fn an_ordinary_packet_costs_one_lookup() {
    let table = table(0);
    assert!(passes(&table, ipv4_frame(OTHER, OTHER).as_slice(), Way::In, INTERFACE));
    assert_eq!(table.lookups.get(), 1);
}

proptest! {
    #[test]
    fn no_input_panics(frame in proptest::collection::vec(any::<u8>(), 0..120), leaves: bool) {
        let way = if leaves { Way::Out } else { Way::In };
        let _ = passes(&table(0), frame.as_slice(), way, INTERFACE);
    }
}
