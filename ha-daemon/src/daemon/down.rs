//! The end of a daemon: everything taken down, or left in place for the next one.

use anyhow::{Context as _, Result};

use super::Options;
use super::gate::GateSide;
use crate::driver::Parts;
use crate::io::address::{AddressCommand, AddressWorker, HeldAddress};
use crate::io::kernel::Kernel;
use crate::io::ping::Pinger;
use crate::io::sender::Sender;

/// Ends this daemon and leaves everything in place: a daemon that is started within the holder's lease
/// goes on with it. The last heartbeat leaves last.
pub(super) fn detach(
    mut parts: Parts,
    sender: Sender,
    worker: AddressWorker,
    pinger: Option<Pinger>,
) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(pinger) = pinger {
        pinger.stop();
    }
    failures.extend(end_worker(worker, &parts).err().map(|error| format!("{error:#}")));
    failures.extend(parts.lines.stop());
    // Pins and attachments stay: the kernel side goes on stamping and answering.
    drop(parts.kernel.take());
    sender.stop();
    let Parts { keeper, sockets, resumption, .. } = parts;
    // The keeper tells the peers from their ports.
    drop(sockets);
    let custody = resumption.and_then(|it| it.custody).unwrap_or_default();
    failures.extend(keeper.detach(custody).err().map(|error| error.to_string()));
    failures
}

/// Takes everything down that this node put up; goes on past failures and returns all of them.
pub(super) fn take_down(
    parts: Parts,
    sender: Sender,
    worker: AddressWorker,
    pinger: Option<Pinger>,
    gates: GateSide,
) -> Vec<String> {
    let mut failures = Vec::new();
    sender.stop();
    if let Some(pinger) = pinger {
        pinger.stop();
    }
    if let Err(error) = worker.sender().send(AddressCommand::Shutdown) {
        failures.push(error.to_string());
    }
    // Its thread ends with the last sender, should the command have found no room.
    drop(parts.addresses);
    worker.join();
    // What stays behind a gate is the keeper's, too.
    let still_armed = gates.take_down();
    let all_released = parts.all_released && still_armed.is_empty();
    failures.extend(still_armed);
    failures.extend(parts.lines.stop());
    if let Some(kernel) = parts.kernel {
        failures.extend(kernel.teardown());
    }
    // Whatever could not be stopped is still held: then the keeper's work begins here.
    if all_released {
        failures.extend(parts.keeper.farewell().err().map(|error| error.to_string()));
    }
    failures
}

/// Ends the address worker; its addresses stay, and are what it gives back.
pub(super) fn end_worker(worker: AddressWorker, parts: &Parts) -> Result<Vec<HeldAddress>> {
    parts
        .addresses
        .send(AddressCommand::Shutdown)
        .context("the address worker is not to be ended")?;
    Ok(worker.join())
}

/// Detaches what a start or a driver that failed left attached: no daemon runs that would judge by
/// it. (A daemon that is killed leaves it to the next one.)
pub(super) fn discard(options: &Options) {
    if let Err(error) = Kernel::discard(&options.bpf_directory) {
        tracing::error!("not taken down: {error:#}");
    }
}
