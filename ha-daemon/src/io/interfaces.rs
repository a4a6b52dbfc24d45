//! Watches the interfaces that carry floating addresses: an address behind a dead carrier serves
//! nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt as _;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use tokio::task::JoinHandle;

use super::kernel::gate::GateKernel;
use super::mailbox::{GateNews, Letter, Mailbox};
use crate::names::InterfaceName;

/// Between two attempts to list interfaces that the kernel does not list.
const LIST_PAUSE: Duration = Duration::from_secs(1);

/// The gate, until whoever takes it down has it.
pub type SharedGate = Arc<Mutex<Option<GateKernel>>>;

/// Watches `interfaces` until the runtime ends. The first report of each comes before this returns.
///
/// # Errors
/// Netlink is not available.
pub async fn watch(interfaces: Vec<InterfaceName>, mailbox: Mailbox) -> Result<()> {
    let mut links = Links::listen()?;
    let mut known: BTreeMap<InterfaceName, bool> =
        interfaces.into_iter().map(|interface| (interface, false)).collect();
    let listed = states(&links.list().await?);
    for (name, up) in &mut known {
        *up = listed.get(name).copied().unwrap_or(false);
        mailbox.post(Letter::Interface { name: name.clone(), up: *up });
    }
    tokio::spawn(async move {
        while let Some(told) = links.told.next().await {
            let told = match told {
                Told::Link(link, exists) => {
                    state(&link).map(|(name, up)| (name, up && exists)).into_iter().collect()
                }
                Told::Lost => {
                    let listed = states(&links.list_anew().await);
                    // What is not listed is gone.
                    let state = |name: &InterfaceName| listed.get(name).copied().unwrap_or(false);
                    known.keys().map(|name| (name.clone(), state(name))).collect()
                }
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
    let mut links = Links::listen()?;
    for link in links.list().await? {
        attach(&gate, &link)?;
    }
    Ok(tokio::spawn(async move {
        while let Some(told) = links.told.next().await {
            let there = match told {
                Told::Link(link, true) => vec![link],
                Told::Link(link, false) => {
                    keep_only(&gate, |index| index != link.header.index);
                    continue;
                }
                Told::Lost => {
                    let listed = links.list_anew().await;
                    keep_only(&gate, |index| listed.iter().any(|it| it.header.index == index));
                    listed
                }
            };
            for link in there {
                let news = match attach(&gate, &link) {
                    Ok(None) => continue,
                    Ok(Some(name)) => GateNews::Attached(name),
                    Err(_) if is_gone(&link) => continue,
                    Err(error) => GateNews::Failed(format!("{error:#}")),
                };
                mailbox.post(Letter::Gate(news));
            }
        }
    }))
}

fn keep_only(gate: &SharedGate, is_there: impl Fn(u32) -> bool) {
    if let Some(gate) = gate.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        gate.keep_only(is_there);
    }
}

/// Whether an interface does not exist any more: the kernel has not got round to telling.
fn is_gone(link: &LinkMessage) -> bool {
    let index = state(link).and_then(|(name, _)| nix::net::if_::if_nametoindex(name.as_str()).ok());
    index != Some(link.header.index)
}

/// The interfaces of this network namespace, and what the kernel tells of them.
struct Links {
    handle: Handle,
    told: BoxStream<'static, Told>,
}

impl Links {
    /// Begins to listen, on the runtime of the caller.
    fn listen() -> Result<Self> {
        let (connection, handle, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).context("cannot watch interfaces")?;
        tokio::spawn(connection);
        let told = messages.filter_map(async |(message, _)| told(message.payload));
        Ok(Self { handle, told: told.boxed() })
    }

    /// All, as they are now.
    async fn list(&mut self) -> Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.context("cannot list interfaces")
    }

    /// The same after messages were lost. Of what is queued some is older than that: the kernel tells of
    /// the loss first. It has all been read when a list is there, and is dropped before the next one.
    async fn list_anew(&mut self) -> Vec<LinkMessage> {
        loop {
            let barrier = self.list().await;
            while self.told.next().now_or_never().flatten().is_some() {}
            match (barrier, self.list().await) {
                (Ok(_), Ok(listed)) => return listed,
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!("changes of interfaces were missed: {error:#}");
                    tokio::time::sleep(LIST_PAUSE).await;
                }
            }
        }
    }
}

/// Which of them are up.
fn states(links: &[LinkMessage]) -> BTreeMap<InterfaceName, bool> {
    links.iter().filter_map(state).collect()
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
}

fn told(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Told> {
    if let NetlinkPayload::Overrun(_) = payload {
        Some(Told::Lost)
    } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = payload {
        Some(Told::Link(link, true))
    } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = payload {
        Some(Told::Link(link, false))
    } else {
        None
    }
}
