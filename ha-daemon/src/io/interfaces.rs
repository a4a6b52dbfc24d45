//! Watches the interfaces that carry floating addresses: an address behind a dead carrier serves
//! nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

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
    let listed = states(&handle).await?;
    for (name, up) in &mut known {
        *up = listed.get(name).copied().unwrap_or(false);
        mailbox.post(Letter::Interface { name: name.clone(), up: *up });
    }
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let told = match told(message.payload) {
                Told::Link(link, exists) => {
                    state(&link).map(|(name, up)| (name, up && exists)).into_iter().collect()
                }
                Told::Lost => match states(&handle).await {
                    // What is not listed is gone.
                    Ok(listed) => known
                        .keys()
                        .map(|name| (name.clone(), listed.get(name).copied().unwrap_or(false)))
                        .collect(),
                    Err(error) => {
                        tracing::error!("changes of interfaces were missed: {error:#}");
                        continue;
                    }
                },
                Told::Else => continue,
            };
            let told: Vec<(InterfaceName, bool)> = told;
            for (name, up) in told {
                let Some(entry) = known.get_mut(&name) else { continue };
                if *entry != up && mailbox.post(Letter::Interface { name, up }) {
                    *entry = up;
                }
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
    for link in list(&handle).await? {
        attach(&gate, &link)?;
    }
    Ok(tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let links = match told(message.payload) {
                Told::Link(link, true) => vec![link],
                Told::Link(link, false) => {
                    if let Some(gate) = gate.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                    {
                        gate.forget(link.header.index);
                    }
                    continue;
                }
                // Those that are gone took the gate with them; only its pins are left.
                Told::Lost => match list(&handle).await {
                    Ok(links) => links,
                    Err(error) => {
                        mailbox.post(Letter::Gate(GateNews::Failed(format!("{error:#}"))));
                        continue;
                    }
                },
                Told::Else => continue,
            };
            for link in links {
                let news = match attach(&gate, &link) {
                    Ok(None) => continue,
                    Ok(Some(name)) => GateNews::Attached(name),
                    Err(error) => GateNews::Failed(format!("{error:#}")),
                };
                mailbox.post(Letter::Gate(news));
            }
        }
    }))
}

/// All interfaces, as they are now.
async fn list(handle: &Handle) -> Result<Vec<LinkMessage>> {
    handle.link().get().execute().try_collect().await.context("cannot list interfaces")
}

/// Which of them are up.
async fn states(handle: &Handle) -> Result<BTreeMap<InterfaceName, bool>> {
    Ok(list(handle).await?.iter().filter_map(state).collect())
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

/// What the kernel tells.
enum Told {
    /// A link, and whether it exists.
    Link(LinkMessage, bool),
    /// It had more to tell than the socket holds (`ENOBUFS`, netlink(7)): what is there now counts.
    Lost,
    /// Nothing of interest.
    Else,
}

fn told(payload: NetlinkPayload<RouteNetlinkMessage>) -> Told {
    if let NetlinkPayload::Overrun(_) = payload {
        Told::Lost
    } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = payload {
        Told::Link(link, true)
    } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = payload {
        Told::Link(link, false)
    } else {
        Told::Else
    }
}
