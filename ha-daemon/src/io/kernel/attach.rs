//! Attaching: native XDP, else generic XDP, else TC ingress; and which and why.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use aya::programs::tc::{
    SchedClassifierLink, TcAttachType, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::xdp::{Xdp, XdpLink, XdpMode};
use aya::util::KernelVersion;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::{Kernel, PASS_PROGRAM, TC_PROGRAM, pins};
use crate::config::Receive;
use crate::io::netlink::{RouteSocket, serialized};
use crate::names::InterfaceName;
use crate::snapshot::Via;

/// How long to wait for the kernel to detach after the last reference is gone.
const DETACH_TIME_MAX: Duration = Duration::from_millis(500);

/// What can be attached, the best first.
const WAYS: [Via; 3] = [Via::XdpNative, Via::XdpGeneric, Via::Tc];

/// One attached program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub interface: InterfaceName,
    /// Its index.
    index: u32,
    /// How.
    pub via: Via,
    /// Why no better way is used; empty for the best one.
    pub reason: String,
    /// Why no program beside XDP answers probes at TC ingress; empty when one does, or where
    /// TC receives, which answers all of them.
    pub no_tc_answer: String,
    /// The pin that keeps it; `None` for a TC filter of kernels before 6.6, which needs none.
    pin: Option<PathBuf>,
}

impl Kernel {
    /// Attaches to an interface in the best way that works (or exactly the one that is asked for).
    /// An attachment that an earlier instance left pinned is taken over without a gap.
    ///
    /// # Errors
    /// All ways that were tried, each with its reason.
    pub fn attach(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        receive: Receive,
    ) -> Result<Attachment> {
        let ways: &[Via] = match receive {
            Receive::Auto => &WAYS,
            Receive::XdpNative => &[Via::XdpNative],
            Receive::XdpGeneric => &[Via::XdpGeneric],
            Receive::Tc => &[Via::Tc],
            Receive::Socket => bail!("the socket is configured"),
        };
        for other in WAYS.iter().filter(|via| !ways.contains(via)) {
            unpin(&self.pin_path(index, *other), index)?;
        }
        // The kernel has native or generic XDP on an interface, not both: an earlier instance's
        // generic attachment would have to go before native can be tried, and heartbeats with it.
        if receive == Receive::Auto
            && let Some(pin) =
                self.take_over(&self.pin_path(index, Via::XdpGeneric), Via::XdpGeneric)?
        {
            let reason = "xdp-native: not tried, to keep what an earlier start attached".to_owned();
            return self.attached(interface, index, Via::XdpGeneric, reason, Some(pin));
        }
        let mut reasons = Vec::new();
        for via in ways {
            match self.attach_via(interface, index, *via) {
                Ok(pin) => return self.attached(interface, index, *via, reasons.join("; "), pin),
                Err(error) => reasons.push(format!("{}: {error:#}", *via)),
            }
        }
        bail!("{}", reasons.join("; "))
    }

    /// Remembers an attachment; what an earlier instance attached in other ways goes.
    fn attached(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        via: Via,
        reason: String,
        pin: Option<PathBuf>,
    ) -> Result<Attachment> {
        let no_tc_answer = if via == Via::Tc {
            self.discard_answerer(interface, index)?;
            String::new()
        } else {
            let attached = self.attach_answerer(interface, index);
            attached.err().map(|error| format!("{error:#}")).unwrap_or_default()
        };
        let interface = interface.clone();
        let attachment = Attachment { interface, index, via, reason, no_tc_answer, pin };
        self.attachments.push(attachment.clone());
        for other in WAYS.iter().filter(|other| **other != via) {
            pins::remove(&self.pin_path(index, *other))?;
        }
        Ok(attachment)
    }

    /// Puts native XDP programs into their attachments once more, for when the machine was suspended:
    /// virtio_net (Linux 6.1, 6.12) makes its queues anew then and leaves the program out, while the
    /// kernel calls it attached. The kernel does nothing for the program that is there already, so
    /// another one passes everything on for a moment.
    ///
    /// # Errors
    /// The kernel refuses, on which of them; the others are in their place.
    pub fn attach_again(&mut self) -> Result<()> {
        let native = self.attachments.iter().filter(|it| it.via == Via::XdpNative);
        let pins: Vec<PathBuf> = native.filter_map(|it| it.pin.clone()).collect();
        let mut failures = Vec::new();
        for pin in pins {
            // Half of it done would be worse than nothing.
            let outcome = self.swap(&pin).or_else(|_| self.swap(&pin));
            if let Err(error) = outcome {
                failures.push(format!("{}: {error:#}", pin.display()));
            }
        }
        if failures.is_empty() { Ok(()) } else { bail!(failures.join("; ")) }
    }

    /// Another program and ours again in an attachment; its pin and the descriptor that is held stay.
    fn swap(&mut self, pin: &Path) -> Result<()> {
        let open = || -> Result<XdpLink> {
            let link =
                PinnedLink::from_pin(pin).context("the attachment is not pinned any more")?;
            Ok(XdpLink::try_from(FdLink::from(link))?)
        };
        let pass: &mut Xdp =
            self.ebpf.program_mut(PASS_PROGRAM).context("no such program")?.try_into()?;
        let id = pass.attach_to_link(open()?)?;
        pass.take_link(id)?;
        let program = self.xdp()?;
        let id = program.attach_to_link(open()?)?;
        program.take_link(id)?;
        Ok(())
    }

    fn pin_path(&self, index: u32, via: Via) -> PathBuf {
        // Names on a bpf file system have no dots, those of interfaces may.
        self.directory.join(format!("{}{index}-{}", pins::LINK_PREFIX, via))
    }

    fn attach_via(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        via: Via,
    ) -> Result<Option<PathBuf>> {
        let pin = self.pin_path(index, via);
        if let Some(pin) = self.take_over(&pin, via)? {
            return Ok(Some(pin));
        }
        match via {
            Via::XdpNative => self.attach_xdp(interface, index, XdpMode::Driver, &pin),
            Via::XdpGeneric => self.attach_xdp(interface, index, XdpMode::Skb, &pin),
            Via::Tc => self.attach_tc(interface, &pin),
            Via::Socket | Via::Serial => bail!("nothing is attached for this way"),
        }
    }

    /// Puts this instance's program into the attachment that an earlier one left at `pin`. `None`
    /// when there is none, or its interface is gone.
    fn take_over(&mut self, pin: &Path, via: Via) -> Result<Option<PathBuf>> {
        let Some(left) = left_by_earlier_instance(pin)? else { return Ok(None) };
        if via == Via::Tc {
            let program = self.tc()?;
            let left = SchedClassifierLink::try_from(left).ok();
            let Some(id) = left.and_then(|left| program.attach_to_link(left).ok()) else {
                return Ok(None);
            };
            let link = FdLink::try_from(program.take_link(id)?).ok();
            return self.hold(link, pin);
        }
        let program = self.xdp()?;
        let left = XdpLink::try_from(left).ok();
        let Some(id) = left.and_then(|left| program.attach_to_link(left).ok()) else {
            return Ok(None);
        };
        let link = FdLink::try_from(program.take_link(id)?).ok();
        self.hold(link, pin)
    }

    fn attach_xdp(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        mode: XdpMode,
        pin: &Path,
    ) -> Result<Option<PathBuf>> {
        let program = self.xdp()?;
        let id = program
            .attach_to_if_index(index, mode)
            .map_err(|error| explain(&error, interface, index))?;
        let link = program.take_link(id)?;
        match FdLink::try_from(link) {
            Ok(link) => self.hold(Some(link), pin),
            Err(error) => bail!("kernels before 5.9 cannot pin an XDP attachment: {error}"),
        }
    }

    fn attach_tc(&mut self, interface: &InterfaceName, pin: &Path) -> Result<Option<PathBuf>> {
        if !has_tcx() {
            // The filter hangs on this qdisc, which stays: others may use it by the time that we
            // stop. A filter of an earlier instance is replaced.
            let _ = qdisc_add_clsact(interface.as_str());
            let _ = qdisc_detach_program(interface.as_str(), TcAttachType::Ingress, TC_PROGRAM);
        }
        let program = self.tc()?;
        let id = program
            .attach(interface.as_str(), TcAttachType::Ingress)
            .map_err(|error| anyhow!("{error} on {interface}"))?;
        let link = program.take_link(id)?;
        // A filter of the classic kind is no descriptor and stays attached by itself.
        self.hold(FdLink::try_from(link).ok(), pin)
    }

    /// Pins an attachment, so that it outlives this process, and keeps it open, so that it does not
    /// go while this process runs when somebody removes the pin.
    pub(super) fn hold(&mut self, link: Option<FdLink>, pin: &Path) -> Result<Option<PathBuf>> {
        let Some(link) = link else { return Ok(None) };
        let held = link.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        self.held.push(held);
        Ok(Some(pin.to_path_buf()))
    }
}

impl Attachment {
    /// Detaches. The pin holds the last reference once the kernel's owner has let go of its own, unless
    /// the interface is gone already.
    pub(super) fn detach(self) -> Result<()> {
        match self.pin {
            Some(pin) => unpin(&pin, self.index),
            None => {
                qdisc_detach_program(self.interface.as_str(), TcAttachType::Ingress, TC_PROGRAM)
                    .with_context(|| {
                        format!("cannot detach the TC program from {}", self.interface)
                    })
            }
        }
    }
}

/// Removes the pin that holds an attachment, and waits until the kernel has let the interface go,
/// which it does a little later: whoever attaches next would find it taken.
fn unpin(pin: &Path, index: u32) -> Result<()> {
    if !pin.exists() {
        return Ok(());
    }
    // With TC, the XDP program there is somebody else's and stays.
    let is_tc = pin.to_string_lossy().ends_with(&Via::Tc.to_string());
    let attached = xdp_program_id(index).filter(|_| !is_tc);
    pins::remove(pin)?;
    let deadline = Instant::now() + DETACH_TIME_MAX;
    // Another program than before is none of ours.
    while attached.is_some() && xdp_program_id(index) == attached && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Whether attachments to TC are links of the kernel.
pub(super) fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|it| it >= KernelVersion::new(6, 6, 0))
}

pub(super) fn left_by_earlier_instance(pin: &Path) -> Result<Option<FdLink>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link =
        PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    // Unpinned here, pinned again by the caller: the descriptor keeps it attached in between.
    Ok(Some(link.unpin().with_context(|| format!("cannot remove {}", pin.display()))?))
}

fn explain(
    error: &aya::programs::ProgramError,
    interface: &InterfaceName,
    index: u32,
) -> anyhow::Error {
    use aya::programs::ProgramError;
    let errno = if let ProgramError::SyscallError(syscall) = error {
        syscall.io_error.raw_os_error()
    } else {
        None
    };
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => {
            anyhow!("another program{} is attached to {interface}", attached_to(index))
        }
        Some(libc::EOPNOTSUPP) => anyhow!("the driver of {interface} does not support it"),
        _ => anyhow!("{error} on {interface}"),
    }
}

/// Identifier and name of the XDP program on an interface, for messages; empty when the kernel does
/// not tell.
fn attached_to(index: u32) -> String {
    let Some(id) = xdp_program_id(index) else { return String::new() };
    let info = loaded_programs().filter_map(std::result::Result::ok).find(|info| info.id() == id);
    let name = info.and_then(|info| info.name_as_str().map(str::to_owned)).unwrap_or_default();
    format!(" (id {id}, {name:?})")
}

fn xdp_program_id(index: u32) -> Option<u32> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let request = serialized(RouteNetlinkMessage::GetLink(message), 0);
    let answer = RouteSocket::open().and_then(|socket| socket.ask(&request)).ok()?;
    let RouteNetlinkMessage::NewLink(link) = answer else { return None };
    let attributes = link.attributes.into_iter().filter_map(|attribute| {
        if let LinkAttribute::Xdp(attributes) = attribute { Some(attributes) } else { None }
    });
    attributes.flatten().find_map(|attribute| {
        if let LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) = attribute {
            Some(id).filter(|id| *id != 0)
        } else {
            None
        }
    })
}

/// Whether that is the name of a way that attaches something.
pub(super) fn is_way(text: &str) -> bool {
    text == super::answer::PIN_SUFFIX || WAYS.iter().any(|via| via.to_string() == text)
}
