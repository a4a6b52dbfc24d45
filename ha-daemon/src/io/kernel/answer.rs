//! The program beside XDP: it answers, at TC ingress, the probes of peers that found out that what
//! XDP sends back does not reach them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::programs::links::FdLink;
use aya::programs::tc::{
    SchedClassifierLink, TcAttachType, qdisc_add_clsact, qdisc_detach_program,
};

use super::attach::{has_tcx, left_by_earlier_instance};
use super::{Kernel, TC_ANSWER_PROGRAM, pins};
use crate::names::InterfaceName;

/// What its pin ends with, in the place of a way to receive.
pub(super) const PIN_SUFFIX: &str = "tc-answer";

/// One attachment of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answerer {
    interface: InterfaceName,
    /// `None` for a TC filter of kernels before 6.6, which needs none.
    pin: Option<PathBuf>,
}

impl Kernel {
    /// Attaches it to an interface, or takes over what an earlier instance left.
    ///
    /// # Errors
    /// The kernel refused it; nothing but these answers is missing then.
    pub(super) fn attach_answerer(&mut self, interface: &InterfaceName, index: u32) -> Result<()> {
        let pin = self.answerer_pin(index);
        let pinned = match self.take_answerer_over(&pin)? {
            Some(link) => self.hold(Some(link), &pin)?,
            None => {
                let link = self.new_answerer(interface)?;
                self.hold(link, &pin)?
            }
        };
        self.answerers.push(Answerer { interface: interface.clone(), pin: pinned });
        Ok(())
    }

    /// Removes what an earlier instance left of it.
    pub(super) fn discard_answerer(&self, interface: &InterfaceName, index: u32) -> Result<()> {
        if !has_tcx() {
            let _ =
                qdisc_detach_program(interface.as_str(), TcAttachType::Ingress, TC_ANSWER_PROGRAM);
        }
        pins::remove(&self.answerer_pin(index))
    }

    fn answerer_pin(&self, index: u32) -> PathBuf {
        self.directory.join(format!("{}{index}-{PIN_SUFFIX}", pins::LINK_PREFIX))
    }

    fn take_answerer_over(&mut self, pin: &Path) -> Result<Option<FdLink>> {
        let Some(left) = left_by_earlier_instance(pin)? else { return Ok(None) };
        let program = self.tc_answer()?;
        let left = SchedClassifierLink::try_from(left).ok();
        let Some(id) = left.and_then(|left| program.attach_to_link(left).ok()) else {
            return Ok(None);
        };
        Ok(FdLink::try_from(program.take_link(id)?).ok())
    }

    fn new_answerer(&mut self, interface: &InterfaceName) -> Result<Option<FdLink>> {
        if !has_tcx() {
            let _ = qdisc_add_clsact(interface.as_str());
            let _ =
                qdisc_detach_program(interface.as_str(), TcAttachType::Ingress, TC_ANSWER_PROGRAM);
        }
        let program = self.tc_answer()?;
        let id = program
            .attach(interface.as_str(), TcAttachType::Ingress)
            .with_context(|| format!("cannot attach to TC ingress of {interface}"))?;
        // A filter of the classic kind is no descriptor and stays attached by itself.
        Ok(FdLink::try_from(program.take_link(id)?).ok())
    }

    /// The TC program beside XDP, for measuring and testing it.
    ///
    /// # Errors
    /// Never after a successful load.
    pub fn tc_answer(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(TC_ANSWER_PROGRAM);
        Ok(program.context("no answering TC program in the object")?.try_into()?)
    }
}

impl Answerer {
    /// Detaches; the pin holds the last reference once the kernel's owner has let go of its own.
    pub(super) fn detach(self) -> Result<()> {
        match self.pin {
            Some(pin) => pins::remove(&pin),
            None => {
                let interface = &self.interface;
                let ingress = TcAttachType::Ingress;
                qdisc_detach_program(interface.as_str(), ingress, TC_ANSWER_PROGRAM).with_context(
                    || format!("cannot detach the answering TC program from {interface}"),
                )
            }
        }
    }
}
