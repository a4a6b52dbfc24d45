//! Watches the interfaces that carry floating addresses: an address behind a dead carrier serves
//! nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use tokio::task::JoinHandle;

use super::kernel::gate::GateKernel;
use super::mailbox::{GateNews, Letter, Mailbox};
use crate::names::InterfaceName;

/// The gate, until whoever takes it down has it.
pub type SharedGate = Arc<Mutex<Option<GateKernel>>>;

/// Watches `interfaces` until the runtime ends. The first report of each comes before this returns.
///
/// # Errors
/// Netlink is not available.
pub async fn watch(interfaces: Vec<InterfaceName>, mailbox: Mailbox) -> Result<()> {
    let (connection, handle, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("cannot watch interfaces")?;
    tokio::spawn(connection);
    let mut known: BTreeMap<InterfaceName, bool> =
        interfaces.into_iter().map(|interface| (interface, false)).collect();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("cannot list interfaces")? {
        if let Some((name, up)) = state(&link)
            && let Some(entry) = known.get_mut(&name)
        {
            *entry = up;
        }
    }
    for (name, up) in &known {
        mailbox.post(Letter::Interface { name: name.clone(), up: *up });
    }
    tokio::spawn(async move {
        // The handle keeps the connection alive.
        let _handle = handle;
        while let Some((message, _)) = messages.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            let Some((link, exists)) = link_change(message) else { continue };
            let Some((name, up)) = state(&link) else { continue };
            let Some(entry) = known.get_mut(&name) else { continue };
            let up = up && exists;
            if *entry != up && mailbox.post(Letter::Interface { name, up }) {
                *entry = up;
            }
        }
    });
    Ok(())
}

/// Keeps the gate on every interface with neighbours, and on the loopback interface, until it is ended:
/// this host answers for an address on whatever interface it is asked. What is there now is attached
/// when this returns.
///
/// # Errors
/// Netlink is not available, or one interface refuses the gate.
pub async fn guard(gate: SharedGate, mailbox: Mailbox) -> Result<JoinHandle<()>> {
    let (connection, handle, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("cannot watch interfaces")?;
    tokio::spawn(connection);
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("cannot list interfaces")? {
        attach(&gate, &link)?;
    }
    drop(links);
    Ok(tokio::spawn(async move {
        // The handle keeps the connection alive.
        let _handle = handle;
        while let Some((message, _)) = messages.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match link_change(message) {
                None => {}
                Some((link, false)) => {
                    if let Some(gate) = gate.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                    {
                        gate.forget(link.header.index);
                    }
                }
                Some((link, true)) => {
                    let news = match attach(&gate, &link) {
                        Ok(None) => continue,
                        Ok(Some(name)) => GateNews::Attached(name),
                        Err(error) => GateNews::Failed(format!("{error:#}")),
                    };
                    mailbox.post(Letter::Gate(news));
                }
            }
        }
    }))
}

/// Attaches the gate to an interface; gives its name if it can be asked for addresses and is up.
fn attach(gate: &SharedGate, link: &LinkMessage) -> Result<Option<InterfaceName>> {
    let speaks =
        matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(gate) = gate.as_mut().filter(|_| speaks) else { return Ok(None) };
    let (name, _) = state(link).context("an interface has no name that this node understands")?;
    gate.attach(&name, link.header.index)?;
    Ok(link.header.flags.contains(LinkFlags::Up).then_some(name))
}

/// Name of an interface, and whether it is up with a carrier (`IFF_RUNNING`, RFC 2863 `ifOperStatus`).
fn state(link: &LinkMessage) -> Option<(InterfaceName, bool)> {
    let name = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute { name.parse().ok() } else { None }
    })?;
    let up = LinkFlags::Up | LinkFlags::Running;
    Some((name, link.header.flags.contains(up)))
}

/// The link that a message is about, and whether it exists.
fn link_change(message: RouteNetlinkMessage) -> Option<(LinkMessage, bool)> {
    if let RouteNetlinkMessage::NewLink(link) = message {
        Some((link, true))
    } else if let RouteNetlinkMessage::DelLink(link) = message {
        Some((link, false))
    } else {
        None
    }
}
