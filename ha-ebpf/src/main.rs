//! The kernel side: one entry per hook; the path of a heartbeat itself is `ha_common::judge`.

#![no_std]
#![no_main]

mod maps;
mod packet;
mod verdict;
mod watch;

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use ha_common::wire::Way;

/// XDP entry: native or generic.
#[xdp]
pub fn ha_xdp(context: XdpContext) -> u32 {
    let reason = verdict::judge(
        &packet::XdpPacket::new(&context),
        &context,
        context.ingress_ifindex() as u32,
        Way::Xdp,
    );
    verdict::xdp_action(reason)
}

/// Passes everything: stands in for a moment where [`ha_xdp`] is to be attached once more, since the kernel
/// takes it for nothing to do while the same program is there.
#[xdp]
pub fn ha_pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// TC ingress entry, where XDP cannot be attached.
#[classifier]
pub fn ha_tc(context: TcContext) -> i32 {
    let interface = packet::tc_ingress_interface(&context);
    let reason = verdict::judge(&packet::TcPacket::new(&context), &context, interface, Way::Tc);
    verdict::tc_action(reason, interface)
}

/// TC ingress entry beside XDP: answers the probes that ask for it, and touches nothing else.
#[classifier]
pub fn ha_tc_answer(context: TcContext) -> i32 {
    // What is no heartbeat's is mostly shorter or longer: such a packet is not even pulled.
    if !packet::may_be_probe(&context) {
        return TC_ACT_UNSPEC;
    }
    let frame = packet::TcPacket::new(&context);
    if !ha_common::judge::asks(&frame, Way::Tc) {
        return TC_ACT_UNSPEC;
    }
    let interface = packet::tc_ingress_interface(&context);
    let reason = verdict::judge(&frame, &context, interface, Way::Tc);
    verdict::tc_answer_action(reason, interface)
}

/// Arms a path's timer. Attached nowhere: the daemon runs it (`BPF_PROG_TEST_RUN`) with the slot as the first
/// word of the packet, and gets back what became of it, see [`ha_common::watch::Arming`].
#[xdp]
pub fn ha_watch(context: XdpContext) -> u32 {
    watch::arm(&packet::XdpPacket::new(&context))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: no panic path survives the build, or the verifier would refuse the loop.
    loop {}
}

// GPL helpers are not needed by the maps and helpers in use, but aya-log's ring buffer output on
// some kernels is; the kernel treats this combination as GPL compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
