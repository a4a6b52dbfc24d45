//! Attaching: native XDP, else generic XDP, else TC ingress; and which and why.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    SchedClassifierLink, TcAttachType, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::util::KernelVersion;

use super::{Kernel, TC_PROGRAM, pins};
use crate::config::Receive;
use crate::names::InterfaceName;
use crate::snapshot::Via;

/// One attached program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub interface: InterfaceName,
    /// How.
    pub via: Via,
    /// Why no better way is used; empty for the best one.
    pub reason: String,
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
            Receive::Auto => &[Via::XdpNative, Via::XdpGeneric, Via::Tc],
            Receive::XdpNative => &[Via::XdpNative],
            Receive::XdpGeneric => &[Via::XdpGeneric],
            Receive::Tc => &[Via::Tc],
            Receive::Socket => bail!("the socket is configured"),
        };
        for other in [Via::XdpNative, Via::XdpGeneric, Via::Tc] {
            if !ways.contains(&other) {
                pins::remove(&self.pin_path(index, other))?;
            }
        }
        let mut reasons = Vec::new();
        // An interface takes one XDP program: the generic one of an earlier instance keeps the
        // native one out, and is better taken over than called a stranger.
        let goes_on =
            ways.contains(&Via::XdpGeneric) && self.pin_path(index, Via::XdpGeneric).exists();
        for via in ways {
            if goes_on && *via == Via::XdpNative {
                let generic = name(Via::XdpGeneric);
                reasons.push(format!(
                    "{}: goes on with {generic}, as its last instance was received",
                    name(*via)
                ));
                continue;
            }
            match self.attach_via(interface, index, *via) {
                Ok(pin) => {
                    let reason = reasons.join("; ");
                    let attachment =
                        Attachment { interface: interface.clone(), via: *via, reason, pin };
                    self.attachments.push(attachment.clone());
                    return Ok(attachment);
                }
                Err(error) => reasons.push(format!("{}: {error:#}", name(*via))),
            }
        }
        bail!("{}", reasons.join("; "))
    }

    fn pin_path(&self, index: u32, via: Via) -> PathBuf {
        // Names on a bpf file system have no dots, those of interfaces may.
        self.directory.join(format!("{}{index}-{}", pins::LINK_PREFIX, name(via)))
    }

    fn attach_via(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        via: Via,
    ) -> Result<Option<PathBuf>> {
        let pin = self.pin_path(index, via);
        let left = left_by_earlier_instance(&pin)?;
        match via {
            Via::XdpNative => self.attach_xdp(interface, index, XdpMode::Driver, left, &pin),
            Via::XdpGeneric => self.attach_xdp(interface, index, XdpMode::Skb, left, &pin),
            Via::Tc => self.attach_tc(interface, left, &pin),
            Via::Socket | Via::Serial => bail!("nothing is attached for this way"),
        }
    }

    fn attach_xdp(
        &mut self,
        interface: &InterfaceName,
        index: u32,
        mode: XdpMode,
        left: Option<FdLink>,
        pin: &Path,
    ) -> Result<Option<PathBuf>> {
        let program = self.xdp()?;
        let taken_over = left
            .and_then(|left| XdpLink::try_from(left).ok())
            .and_then(|left| program.attach_to_link(left).ok());
        let id = match taken_over {
            Some(id) => id,
            None => program
                .attach_to_if_index(index, mode)
                .map_err(|error| explain(&error, interface))?,
        };
        let link = program.take_link(id)?;
        match FdLink::try_from(link) {
            Ok(link) => link.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?,
            Err(error) => bail!("kernels before 5.9 cannot pin an XDP attachment: {error}"),
        };
        Ok(Some(pin.to_path_buf()))
    }

    fn attach_tc(
        &mut self,
        interface: &InterfaceName,
        left: Option<FdLink>,
        pin: &Path,
    ) -> Result<Option<PathBuf>> {
        let program = self.ebpf.program_mut(TC_PROGRAM).context("no TC program in the object")?;
        let program: &mut SchedClassifier = program.try_into()?;
        let taken_over = left
            .and_then(|left| SchedClassifierLink::try_from(left).ok())
            .and_then(|left| program.attach_to_link(left).ok());
        let id = match taken_over {
            Some(id) => id,
            None => {
                if !has_tcx() {
                    // They need the qdisc, and keep the filter of an earlier instance.
                    let _ = qdisc_add_clsact(interface.as_str());
                    let _ =
                        qdisc_detach_program(interface.as_str(), TcAttachType::Ingress, TC_PROGRAM);
                }
                program
                    .attach(interface.as_str(), TcAttachType::Ingress)
                    .map_err(|error| explain(&error, interface))?
            }
        };
        let link = program.take_link(id)?;
        match FdLink::try_from(link) {
            Ok(link) => {
                link.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?;
                Ok(Some(pin.to_path_buf()))
            }
            // A filter of the classic kind stays attached by itself.
            Err(_) => Ok(None),
        }
    }
}

impl Attachment {
    /// Detaches. The pin held the last reference, unless the interface is gone already.
    pub(super) fn detach(self) -> Result<()> {
        match self.pin {
            Some(pin) => pins::remove(&pin),
            None => {
                qdisc_detach_program(self.interface.as_str(), TcAttachType::Ingress, TC_PROGRAM)
                    .with_context(|| {
                        format!("cannot detach the TC program from {}", self.interface)
                    })
            }
        }
    }
}

/// Kernels from 6.6 on attach TC programs by links, without a queueing discipline, which would stay
/// behind. aya decides in the same way.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

fn left_by_earlier_instance(pin: &Path) -> Result<Option<FdLink>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link =
        PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    // Unpinned here, pinned again by the caller: the descriptor keeps it attached in between.
    Ok(Some(link.unpin().with_context(|| format!("cannot remove {}", pin.display()))?))
}

fn explain(error: &aya::programs::ProgramError, interface: &InterfaceName) -> anyhow::Error {
    use aya::programs::ProgramError;
    let errno = if let ProgramError::SyscallError(syscall) = error {
        syscall.io_error.raw_os_error()
    } else {
        None
    };
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => anyhow!(
            "another program is attached to {interface} (`bpftool net show dev {interface}` names it)"
        ),
        Some(libc::EOPNOTSUPP) => anyhow!("the driver of {interface} does not support it"),
        _ => anyhow!("{error} on {interface}"),
    }
}

fn name(via: Via) -> &'static str {
    match via {
        Via::XdpNative => "xdp-native",
        Via::XdpGeneric => "xdp-generic",
        Via::Tc => "tc",
        Via::Socket => "socket",
        Via::Serial => "serial",
    }
}
