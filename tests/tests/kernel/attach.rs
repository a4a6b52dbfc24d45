//! The chain of ways to attach, on real interfaces of namespaces.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifierLink, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use ha_common::reason::Reason;
use ha_common::vectors::{INTERFACE, PORT, Packet, SLOT_ALPHA, World, world};
use ha_daemon::config::Receive;
use ha_daemon::io::interrupted::uninterrupted;
use ha_daemon::io::kernel::{Attachment, Kernel};
use ha_daemon::names::InterfaceName;
use ha_daemon::snapshot::Via;
use ha_tests::bed::{Bed, Netns};
use ha_tests::bpf::{self, BpfFs, ProgramKind};
use ha_tests::clock::wait_for;

use crate::WAIT;

/// Two hosts on a bridge; beta is the one that listens, on eth0 with 192.0.2.2.
struct Net {
    bed: Bed,
    place: BpfFs,
    beta: Arc<Netns>,
}

impl Net {
    fn new() -> Result<Self> {
        let mut bed = Bed::new()?;
        bed.bridge("hb")?;
        bed.host("alpha")?;
        let beta = bed.host("beta")?;
        bed.plug("alpha", "eth0", "hb", &["192.0.2.1/24", "2001:db8::1/64"])?;
        bed.plug("beta", "eth0", "hb", &["192.0.2.2/24", "2001:db8::2/64"])?;
        Ok(Self { bed, place: BpfFs::mount()?, beta })
    }

    fn index(&self, interface: &str) -> Result<u32> {
        self.beta.run(|| Ok(nix::net::if_::if_nametoindex(interface)?))
    }

    /// The world of the vectors, on eth0 of beta.
    fn world(&self) -> Result<World> {
        let mut world = world();
        let index = self.index("eth0")?;
        for (endpoint, _) in &mut world.endpoints {
            endpoint.interface = index;
        }
        for (path, _) in world.paths.iter_mut().filter(|(path, _)| path.interface == INTERFACE) {
            path.interface = index;
        }
        for (_, record) in &mut world.records {
            record.interface = index;
        }
        Ok(world)
    }

    fn load(&self) -> Result<Kernel> {
        bpf::load(&self.place, &self.world()?)
    }

    fn attach(&self, kernel: &mut Kernel, interface: &str, receive: Receive) -> Result<Attachment> {
        let index = self.index(interface)?;
        let name: InterfaceName = interface.parse()?;
        self.beta.run(|| kernel.attach(&name, index, receive))
    }

    /// What `ip` says of an interface; with an XDP program it says "xdp" and its identifier.
    fn shown(&self, interface: &str) -> Result<String> {
        self.beta.ip(&["link", "show", "dev", interface])
    }

    /// Sends a datagram from alpha to beta.
    fn send(&self, destination: &str, payload: &[u8], zerocopy: bool) -> Result<()> {
        let destination: SocketAddr = format!("{destination}:{PORT}").parse()?;
        let local = if destination.is_ipv4() { "192.0.2.1:0" } else { "[2001:db8::1]:0" };
        let socket = self.bed.netns("alpha")?.run(|| Ok(UdpSocket::bind(local)?))?;
        if !zerocopy {
            socket.send_to(payload, destination)?;
            return Ok(());
        }
        // Not in the linear part of the packet then.
        bpf::send_as_page(&socket, payload, destination)
    }

    /// Sends three heartbeats from number `first` on; all must be accepted.
    fn heartbeats_arrive(&self, kernel: &Kernel, first: u64, zerocopy: bool) -> Result<()> {
        let count = || kernel.counters().get(&Reason::Accepted).copied().unwrap_or(0);
        let before = count();
        for (sequence, destination) in
            [(first, "192.0.2.2"), (first + 1, "[2001:db8::2]"), (first + 2, "192.0.2.2")]
        {
            let payload = Packet::heartbeat(sequence).fixed().to_bytes();
            self.send(destination, &payload, zerocopy)?;
        }
        let arrived = wait_for("three heartbeats", WAIT, || Ok(count() >= before + 3));
        let received = kernel.record(SLOT_ALPHA).context("no record")?.received();
        arrived.with_context(|| format!("{:?}, {received} received", kernel.counters()))?;
        ensure!(count() == before + 3, "{:?}", kernel.counters());
        Ok(())
    }

    fn finish(self) -> Result<()> {
        drop(self.place);
        self.bed.finish()
    }
}

fn foreign_xdp(net: &Net, interface: &str, mode: XdpMode) -> Result<(Xdp, XdpLink)> {
    let path = net.place.root().join("foreign_xdp");
    bpf::pin(&bpf::constant_program(ProgramKind::Xdp, "xdp_foreign", 2)?, &path)?;
    let mut program = Xdp::from_pin(&path, XdpAttachType::Interface)?;
    let index = net.index(interface)?;
    let id = net.beta.run(|| Ok(program.attach_to_if_index(index, mode)?))?;
    let link = program.take_link(id)?;
    Ok((program, link))
}

fn foreign_tc(
    net: &Net,
    interface: &str,
    verdict: i32,
) -> Result<(SchedClassifier, SchedClassifierLink)> {
    let path = net.place.root().join("foreign_tc");
    bpf::pin(&bpf::constant_program(ProgramKind::Classifier, "tc_foreign", verdict)?, &path)?;
    let mut program = SchedClassifier::from_pin(&path)?;
    let id = net.beta.run(|| Ok(program.attach(interface, TcAttachType::Ingress)?))?;
    let link = program.take_link(id)?;
    Ok((program, link))
}

fn torn_down(net: &Net, kernel: Kernel) -> Result<()> {
    let failures = net.beta.run(|| Ok(kernel.teardown()))?;
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}

fn link_pins(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("link-") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Beside XDP, TC answers probes.
fn pins_of(via: Via) -> usize {
    if via == Via::Tc { 1 } else { 2 }
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn a_veth_is_taken_native_and_let_go() -> Result<()> {
    let net = Net::new()?;
    let mut kernel = net.load()?;
    let attachment = net.attach(&mut kernel, "eth0", Receive::Auto)?;
    ensure!((attachment.via, attachment.reason.as_str()) == (Via::XdpNative, ""), "{attachment:?}");
    ensure!(net.shown("eth0")?.contains(" xdp "), "{}", net.shown("eth0")?);
    net.heartbeats_arrive(&kernel, 1, false)?;
    torn_down(&net, kernel)?;
    ensure!(!net.shown("eth0")?.contains("xdp"), "{}", net.shown("eth0")?);
    net.finish()
}

/// The same program, and not the one that stands in for a moment.
#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn a_native_program_that_is_attached_again_receives_and_is_let_go() -> Result<()> {
    let net = Net::new()?;
    let mut kernel = net.load()?;
    net.attach(&mut kernel, "eth0", Receive::Auto)?;
    let before = net.shown("eth0")?;
    for first in [1, 11, 21] {
        kernel.attach_again()?;
        ensure!(net.shown("eth0")? == before, "{before} became {}", net.shown("eth0")?);
        net.heartbeats_arrive(&kernel, first, false)?;
    }
    torn_down(&net, kernel)?;
    ensure!(!net.shown("eth0")?.contains("xdp"), "{}", net.shown("eth0")?);
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn every_explicit_way_receives_heartbeats_whole_or_in_pages() -> Result<()> {
    let net = Net::new()?;
    let ways = [
        (Receive::XdpNative, Via::XdpNative),
        (Receive::XdpGeneric, Via::XdpGeneric),
        (Receive::Tc, Via::Tc),
    ];
    for (receive, via) in ways {
        let mut kernel = net.load()?;
        let attachment = net.attach(&mut kernel, "eth0", receive)?;
        ensure!(attachment.via == via, "{attachment:?}");
        net.heartbeats_arrive(&kernel, 1, false).with_context(|| format!("{via:?}"))?;
        net.heartbeats_arrive(&kernel, 4, true).with_context(|| format!("{via:?}, pages"))?;
        torn_down(&net, kernel)?;
    }
    let qdiscs = net.beta.command("tc")?.args(["qdisc", "show", "dev", "eth0"]).output()?;
    let qdiscs = String::from_utf8_lossy(&qdiscs.stdout).into_owned();
    ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
    net.finish()
}

fn falls_back_to_tc(mode: XdpMode) -> Result<()> {
    let net = Net::new()?;
    let (program, link) = foreign_xdp(&net, "eth0", mode)?;
    let mut kernel = net.load()?;
    let attachment = net.attach(&mut kernel, "eth0", Receive::Auto)?;
    ensure!(attachment.via == Via::Tc, "{attachment:?}");
    let named = format!("(id {}, \"xdp_foreign\")", program.info()?.id());
    ensure!(attachment.reason.contains(&named), "{named}: {attachment:?}");
    net.heartbeats_arrive(&kernel, 1, false)?;
    torn_down(&net, kernel)?;
    let shown = net.shown("eth0")?;
    ensure!(shown.contains(&format!("prog/xdp id {}", program.info()?.id())), "{shown}");
    drop(link);
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn beside_a_foreign_native_program_tc_is_used_and_the_other_stays() -> Result<()> {
    falls_back_to_tc(XdpMode::Driver)
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn beside_a_foreign_generic_program_tc_is_used_and_the_other_stays() -> Result<()> {
    falls_back_to_tc(XdpMode::Skb)
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn a_device_without_native_support_is_taken_generic() -> Result<()> {
    let net = Net::new()?;
    net.beta.ip(&["link", "add", "bridge0", "up", "type", "bridge"])?;
    let mut kernel = net.load()?;
    for interface in ["bridge0", "lo"] {
        let attachment = net.attach(&mut kernel, interface, Receive::Auto)?;
        ensure!(attachment.via == Via::XdpGeneric, "{attachment:?}");
        ensure!(attachment.reason.contains("does not support"), "{attachment:?}");
    }
    torn_down(&net, kernel)?;
    for interface in ["bridge0", "lo"] {
        ensure!(!net.shown(interface)?.contains("xdp"), "{}", net.shown(interface)?);
    }
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn a_way_that_is_asked_for_and_cannot_be_had_is_an_error() -> Result<()> {
    let net = Net::new()?;
    net.beta.ip(&["link", "add", "bridge0", "up", "type", "bridge"])?;
    let (_program, _link) = foreign_xdp(&net, "eth0", XdpMode::Driver)?;
    let mut kernel = net.load()?;
    for (interface, receive, cause) in [
        ("bridge0", Receive::XdpNative, "does not support"),
        ("eth0", Receive::XdpNative, "xdp_foreign"),
        ("eth0", Receive::XdpGeneric, "xdp_foreign"),
    ] {
        let Err(error) = net.attach(&mut kernel, interface, receive) else {
            anyhow::bail!("{interface} {receive:?} was had");
        };
        ensure!(format!("{error:#}").contains(cause), "{interface} {receive:?}: {error:#}");
    }
    ensure!(link_pins(&net.place.directory())?.is_empty());
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn the_next_instance_takes_every_way_over() -> Result<()> {
    let net = Net::new()?;
    for (receive, via) in [
        (Receive::XdpNative, Via::XdpNative),
        (Receive::XdpGeneric, Via::XdpGeneric),
        (Receive::Tc, Via::Tc),
    ] {
        let mut first = net.load()?;
        net.attach(&mut first, "eth0", receive)?;
        net.heartbeats_arrive(&first, 1, false)?;
        drop(first);
        let mut second = net.load()?;
        net.heartbeats_arrive(&second, 4, false).context("between the instances")?;
        let attachment = net.attach(&mut second, "eth0", receive)?;
        ensure!(attachment.via == via, "{attachment:?}");
        net.heartbeats_arrive(&second, 7, false)?;
        ensure!(link_pins(&net.place.directory())?.len() == pins_of(via));
        let lost = second.record(SLOT_ALPHA).context("no record")?.lost();
        ensure!(lost == 0, "{lost} lost");
        torn_down(&net, second)?;
    }
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn a_way_that_is_asked_for_replaces_that_of_the_earlier_instance() -> Result<()> {
    let net = Net::new()?;
    let ways = [Receive::XdpGeneric, Receive::XdpNative, Receive::Tc, Receive::XdpGeneric];
    for receive in ways {
        let mut kernel = net.load()?;
        let attachment = net.attach(&mut kernel, "eth0", receive);
        let via = attachment.with_context(|| format!("{receive:?}"))?.via;
        let pins = link_pins(&net.place.directory())?;
        ensure!(pins.len() == pins_of(via), "{receive:?}: {pins:?}");
    }
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn auto_keeps_generic_and_leaves_tc_for_native() -> Result<()> {
    let net = Net::new()?;
    for (earlier, now) in [(Receive::XdpGeneric, Via::XdpGeneric), (Receive::Tc, Via::XdpNative)] {
        let mut first = net.load()?;
        net.attach(&mut first, "eth0", earlier)?;
        drop(first);
        let mut second = net.load()?;
        let attachment = net.attach(&mut second, "eth0", Receive::Auto)?;
        ensure!(attachment.via == now, "{attachment:?}");
        let pins = link_pins(&net.place.directory())?;
        ensure!(pins.len() == pins_of(now), "{pins:?}");
        net.heartbeats_arrive(&second, 1, false)?;
        torn_down(&net, second)?;
    }
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn attachments_outlive_new_maps() -> Result<()> {
    let net = Net::new()?;
    let mut first = net.load()?;
    net.attach(&mut first, "eth0", Receive::Auto)?;
    drop(first);
    let other = bpf::create_map(bpf::MapKind::Array, 8, 1)?;
    std::fs::remove_file(net.place.directory().join("links"))?;
    bpf::pin(&other, &net.place.directory().join("links"))?;
    let mut second = net.load()?;
    ensure!(net.shown("eth0")?.contains(" xdp "), "{}", net.shown("eth0")?);
    let attachment = net.attach(&mut second, "eth0", Receive::Auto)?;
    ensure!(attachment.via == Via::XdpNative, "{attachment:?}");
    net.heartbeats_arrive(&second, 1, false)?;
    torn_down(&net, second)?;
    net.finish()
}

#[test]
#[ignore = "needs root: network namespaces, loads BPF programs"]
fn what_passes_in_tc_reaches_the_programs_of_others() -> Result<()> {
    /// TC_ACT_SHOT.
    const DROP: i32 = 2;
    let net = Net::new()?;
    let mut kernel = net.load()?;
    net.attach(&mut kernel, "eth0", Receive::Tc)?;
    let heard = net.beta.run(|| Ok(UdpSocket::bind("192.0.2.2:7000")?))?;
    heard.set_read_timeout(Some(Duration::from_millis(300)))?;
    let sender = net.bed.netns("alpha")?.run(|| Ok(UdpSocket::bind("192.0.2.1:0")?))?;
    let arrives = || -> Result<bool> {
        sender.send_to(b"x", "192.0.2.2:7000")?;
        Ok(uninterrupted(|| heard.recv(&mut [0; 8])).is_ok())
    };
    net.heartbeats_arrive(&kernel, 1, false)?;
    ensure!(arrives()?, "our program drops what is not ours");
    let (_program, link) = foreign_tc(&net, "eth0", DROP)?;
    ensure!(!arrives()?, "the program after ours never saw the packet");
    net.heartbeats_arrive(&kernel, 4, false)?;
    // A process that another test is about to start has the descriptor as well, until it executes.
    drop(FdLink::try_from(link)?);
    wait_for("the foreign program to be gone", WAIT, arrives)?;
    torn_down(&net, kernel)?;
    net.finish()
}
