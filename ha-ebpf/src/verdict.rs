//! The one table reason -> action, and what every judged packet has in common.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_log_ebpf::debug;
use ha_common::frame::Source;
use ha_common::judge;
use ha_common::reason::Reason;

use crate::maps::{self, Maps};

/// Judges a frame, counts the outcome and wakes the daemon when something changed.
#[inline(always)]
pub fn judge<S: Source, C: EbpfContext>(frame: &S, context: &C, interface: u32) -> Reason {
    let judgement = judge::judge(&Maps, frame, interface);
    maps::count(judgement.reason);
    if let Some(change) = judgement.change {
        maps::announce(change);
        debug!(context, "slot {}: change {}, value {}", change.slot, change.kind, change.value);
    }
    judgement.reason
}

/// What happens to a packet.
enum Action {
    /// The network stack takes it.
    Pass,
    /// It ends here.
    Drop,
}

#[inline(always)]
fn action(reason: Reason) -> Action {
    match reason {
        Reason::NotOurs | Reason::Control => Action::Pass,
        Reason::Accepted
        | Reason::Greeting
        | Reason::Fragment
        | Reason::Truncated
        | Reason::BadVersion
        | Reason::BadKind
        | Reason::WrongCluster
        | Reason::WrongReceiver
        | Reason::UnknownPeer
        | Reason::WrongInterface
        | Reason::UnknownKey
        | Reason::OldIncarnation
        | Reason::OldSequence
        | Reason::BadTag
        | Reason::NotReady
        | Reason::ForAnother => Action::Drop,
    }
}

/// The action as XDP spells it.
#[inline(always)]
pub fn xdp_action(reason: Reason) -> u32 {
    match action(reason) {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

/// The action as TC spells it. Passing is "no opinion", not "accept": that would hide the packet
/// from the programs and filters of others that come after this one.
#[inline(always)]
pub fn tc_action(reason: Reason) -> i32 {
    match action(reason) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
    }
}
