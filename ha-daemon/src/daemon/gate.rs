//! The kernel side of pre-armed addresses, from the start of a daemon to its end.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use ha_common::gate::{GateKey, address_of};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use tokio::task::JoinHandle;

use super::handover::Handed;
use super::node::Node;
use crate::io::address::{self, HeldAddress};
use crate::io::gate::{self, Gates, Wanted};
use crate::io::interfaces::{self, SharedGate};
use crate::io::keeper::Lease;
use crate::io::kernel::gate::{GateKernel, discard};
use crate::io::mailbox::Mailbox;
use crate::names::InterfaceName;

/// What holds the gates in the kernel. Dropped, it removes the addresses behind them, then itself: whoever
/// does not want that ends it.
#[derive(Default)]
pub(super) struct GateSide {
    kernel: SharedGate,
    guard: Option<JoinHandle<()>>,
    addresses: Vec<(IpNet, InterfaceName)>,
}

/// What a start finds.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// The addresses that it goes on with: the program's before it, or a dead daemon's.
    held: &'a [HeldAddress],
    /// Until when those may be answered for, `CLOCK_BOOTTIME`.
    until_ns: u64,
    /// The gates are a dead daemon's. What it had and this one does not go on with may be a peer's by
    /// now: every gate is closed first.
    fresh: bool,
}

impl<'a> Before<'a> {
    /// `handed`: of the program before, whose lease goes on; otherwise `inherited`, by a lease that
    /// nobody renews before every peer knows of this daemon.
    pub(super) fn of(
        handed: Option<&'a Handed>,
        inherited: &'a [HeldAddress],
        lease: &Lease,
    ) -> Self {
        let until_ns = lease.ends_at_ns().unwrap_or(0);
        match handed {
            Some(handed) => Self { held: &handed.image.addresses, until_ns, fresh: false },
            None => Self { held: inherited, until_ns, fresh: true },
        }
    }
}

impl Node {
    /// The gates of this node's pre-armed addresses: closed, but for those that it goes on with.
    pub(super) async fn gates(
        &self,
        directory: &Path,
        before: Before<'_>,
        mailbox: &Mailbox,
    ) -> (Gates, GateSide) {
        let wanted = gate::wanted(&self.config, self.own);
        if wanted.is_empty() {
            return (Gates::default(), GateSide::default());
        }
        match self.try_gates(directory, before, mailbox, &wanted).await {
            Ok(it) => it,
            Err(error) => {
                let reason = format!("{error:#}");
                (Gates::refused(wanted, &reason), GateSide::default())
            }
        }
    }

    async fn try_gates(
        &self,
        directory: &Path,
        before: Before<'_>,
        mailbox: &Mailbox,
        wanted: &[Wanted],
    ) -> Result<(Gates, GateSide)> {
        let mut kernel = GateKernel::load(directory)?;
        let mut keys = Vec::new();
        for it in wanted {
            // An address that runs in the ordinary way goes on while it gets a gate; so does an
            // inherited one, which nobody would open otherwise: it is started already.
            let runs = before.held.iter().any(|held| is_at(held, it) && held.is_owned());
            keys.push((key(it)?, if runs { before.until_ns } else { 0 }));
        }
        let entries = kernel.configure(&keys, before.fresh)?;
        let words = kernel.words();
        let mut side = GateSide {
            kernel: Arc::new(Mutex::new(Some(kernel))),
            guard: None,
            addresses: wanted.iter().map(|it| (it.address, it.interface.clone())).collect(),
        };
        side.guard = Some(interfaces::guard(Arc::clone(&side.kernel), mailbox.clone()).await?);
        let wanted = wanted.iter().cloned().zip(entries).collect();
        Ok((Gates::new(words, wanted, before.held), side))
    }
}

fn is_at(held: &HeldAddress, wanted: &Wanted) -> bool {
    held.interface == wanted.interface && held.address == wanted.address.to_string()
}

fn key(wanted: &Wanted) -> Result<GateKey> {
    let interface = wanted.interface.as_str();
    let index =
        if_nametoindex(interface).with_context(|| format!("there is no interface {interface}"))?;
    Ok(GateKey::new(address_of(wanted.address.addr()), index))
}

impl GateSide {
    /// Leaves everything as it is, for the next program.
    pub(super) fn hand_over(mut self) {
        drop(self.end());
    }

    /// Removes the gates of an earlier configuration, whose addresses have to be removed before.
    pub(super) fn discard_earlier(&self, directory: &Path) {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let discarded = match &mut *kernel {
            Some(kernel) => kernel.forget_others(),
            None => discard(directory),
        };
        if let Err(error) = discarded {
            tracing::error!("{error:#}");
        }
    }

    fn end(&mut self) -> Option<GateKernel> {
        if let Some(guard) = self.guard.take() {
            guard.abort();
        }
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Removes the addresses, then what holds them back. Gives what could not be removed; the gates of
    /// addresses that stay do so too.
    pub(super) fn take_down(mut self) -> Vec<String> {
        self.remove()
    }

    fn remove(&mut self) -> Vec<String> {
        let Some(kernel) = self.end() else { return Vec::new() };
        match address::purge(&self.addresses) {
            Ok(_) => kernel.teardown(),
            Err(error) => error.failures,
        }
    }
}

impl Drop for GateSide {
    fn drop(&mut self) {
        for failure in self.remove() {
            tracing::error!("not taken down: {failure}");
        }
    }
}
