//! The one table reason -> action, and what every judged packet has in common.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_log_ebpf::debug;
use ha_common::frame;
use ha_common::judge;
use ha_common::maps::Slate;
use ha_common::reason::Reason;
use ha_common::reply::{Reply, Sink};
use ha_common::wire::Way;

use crate::maps::{self, Maps};
use crate::packet;

/// Judges a frame, counts the outcome, turns a probe into its answer and wakes the daemon when
/// something changed.
#[inline(always)]
pub fn judge<S: Sink, C: EbpfContext>(frame: &S, context: &C, interface: u32, way: Way) -> Reason {
    let maps = Maps { way };
    let write = |slate: &Slate| write(frame, slate);
    let judgement = judge::judge_and_reply(&maps, frame, interface, maps::slate, write);
    maps::count(judgement.reason);
    if let Some(change) = judgement.change() {
        maps::announce(change);
        debug!(context, "slot {}: change {}, value {}", change.slot, change.kind, change.value);
    }
    judgement.reason
}

/// Turns the frame of a probe into one that carries the answer back. A function of its own, since its
/// stack would be too much beside that of the hashes. The frame is parsed anew: the verifier would
/// carry every combination of headers through the hashes.
#[inline(never)]
fn write<S: Sink>(frame: &S, slate: &Slate) -> bool {
    let reply = Reply::on(slate);
    frame::parse(frame).is_some_and(|datagram| reply.write(frame, &datagram).is_some())
}

/// What happens to a packet.
enum Action {
    /// The network stack takes it.
    Pass,
    /// It ends here.
    Drop,
    /// It goes back where it came from.
    Return,
}

#[inline(always)]
fn action(reason: Reason) -> Action {
    match reason {
        Reason::NotOurs | Reason::Control | Reason::ProbePassed => Action::Pass,
        Reason::Probe => Action::Return,
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
        | Reason::ForAnother
        | Reason::ProbeLimit
        | Reason::Answer
        | Reason::UnexpectedAnswer => Action::Drop,
    }
}

/// The action as XDP spells it.
#[inline(always)]
pub fn xdp_action(reason: Reason) -> u32 {
    match action(reason) {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Return => xdp_action::XDP_TX,
    }
}

/// The action as TC spells it. Passing is "no opinion", not "accept": that would hide the packet
/// from the programs and filters of others that come after this one.
#[inline(always)]
pub fn tc_action(reason: Reason, interface: u32) -> i32 {
    match action(reason) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Return => packet::redirect(interface),
    }
}

/// The action of the program beside XDP. What passes there would come up to the socket, which does not
/// take it: it ends here. What is nobody's stays untouched.
#[inline(always)]
pub fn tc_answer_action(reason: Reason, interface: u32) -> i32 {
    match action(reason) {
        Action::Return => packet::redirect(interface),
        Action::Pass if matches!(reason, Reason::NotOurs) => TC_ACT_UNSPEC,
        Action::Pass | Action::Drop => TC_ACT_SHOT,
    }
}
