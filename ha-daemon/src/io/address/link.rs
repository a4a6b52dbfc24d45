//! What the worker has to know of an interface, and its requests to rtnetlink.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkExtentMask, LinkFlags, LinkLayerType, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Error, Handle};
use tokio::time::timeout;

use crate::io::frames::{Mac, NeighbourRole};
use crate::names::InterfaceName;

/// Longest wait for an answer. The kernel answers before the request returns; this only keeps a
/// lost answer (its socket buffer was full) from stopping the worker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// What is left for the answer after it. A request holds up this very thread as long as others hold the
/// kernel's network lock, for seconds beside real-time spinners: then the time is over before the task that
/// reads answers has had its turn.
const ANSWER_GRACE: Duration = Duration::from_millis(100);

/// An interface as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) state: LinkState,
    /// Its MAC address; `None` when it knows neither ARP nor neighbour discovery.
    pub(super) mac: Option<Mac>,
    /// Whether the host forwards IPv6 that arrives there.
    pub(super) role: NeighbourRole,
}

/// Whether an interface is administratively up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    Up,
    Down,
}

/// Looks an interface up. `ENODEV`: there is none of that name.
pub(super) async fn link_named(handle: &Handle, interface: &InterfaceName) -> io::Result<Link> {
    let request = handle
        .link()
        .get()
        .match_name(interface.as_str())
        .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
        .execute();
    let mut answers = std::pin::pin!(request);
    match within(answers.next()).await? {
        Some(answer) => answer.map(|message| parse(&message)).map_err(to_io),
        None => Err(io::Error::from_raw_os_error(libc::ENODEV)),
    }
}

/// The MAC addresses of all interfaces of this host.
pub(super) async fn local_macs(handle: &Handle) -> io::Result<Vec<Mac>> {
    let request = handle.link().get().execute();
    let mut answers = std::pin::pin!(request);
    let mut macs = Vec::new();
    while let Some(answer) = within(answers.next()).await? {
        macs.extend(mac_of(&answer.map_err(to_io)?));
    }
    Ok(macs)
}

/// Sends a request and waits for its acknowledgement.
pub(crate) async fn acknowledged(
    handle: &mut Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.request(request).map_err(to_io)?;
    while let Some(answer) = within(answers.next()).await? {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

async fn within<T>(answer: impl Future<Output = T>) -> io::Result<T> {
    let mut answer = std::pin::pin!(answer);
    if let Ok(answer) = timeout(ANSWER_TIMEOUT, answer.as_mut()).await {
        return Ok(answer);
    }
    let late = timeout(ANSWER_GRACE, answer).await;
    late.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"))
}

fn to_io(error: Error) -> io::Error {
    if let Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error.to_string())
    }
}

fn parse(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let speaks = message.header.link_layer_type == LinkLayerType::Ether
        && !flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
    Link {
        index: message.header.index,
        state: if flags.contains(LinkFlags::Up) { LinkState::Up } else { LinkState::Down },
        mac: mac_of(message).filter(|_| speaks),
        role: role_of(message),
    }
}

fn mac_of(message: &LinkMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Address(bytes) = attribute {
            Mac::try_from(bytes.as_slice()).ok()
        } else {
            None
        }
    })
}

fn role_of(message: &LinkMessage) -> NeighbourRole {
    let families = message.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::AfSpecUnspec(families) = attribute { Some(families) } else { None }
    });
    let forwards = families.flatten().any(|family| {
        if let AfSpecUnspec::Inet6(settings) = family {
            settings.iter().any(
                |setting| matches!(setting, AfSpecInet6::DevConf(conf) if conf.forwarding != 0),
            )
        } else {
            false
        }
    });
    if forwards { NeighbourRole::Router } else { NeighbourRole::Host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(layer: LinkLayerType, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.header.link_layer_type = layer;
        message.header.flags = flags;
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        message
    }

    #[test]
    fn only_ethernet_with_arp_has_neighbours_to_tell() {
        let up = LinkFlags::Up;
        let mac = |layer, flags| parse(&message(layer, flags)).mac;
        assert_eq!(mac(LinkLayerType::Ether, up), Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(mac(LinkLayerType::Ether, up | LinkFlags::Noarp), None);
        assert_eq!(mac(LinkLayerType::Loopback, up | LinkFlags::Loopback), None);
        assert_eq!(mac(LinkLayerType::Infiniband, up), None);
    }

    /// As rtnetlink does: its task sends, which holds up the thread, and reads in a later turn.
    #[tokio::test]
    async fn an_answer_to_a_request_that_held_up_the_thread_is_not_missed() -> io::Result<()> {
        let (answered, answer) = tokio::sync::oneshot::channel();
        let kernel = tokio::spawn(async {
            std::thread::sleep(ANSWER_TIMEOUT + ANSWER_GRACE);
            tokio::task::yield_now().await;
            answered.send(())
        });
        within(answer).await?.map_err(io::Error::other)?;
        assert_eq!(kernel.await?, Ok(()));
        Ok(())
    }

    #[test]
    fn administrative_state_is_read() {
        assert_eq!(parse(&message(LinkLayerType::Ether, LinkFlags::Up)).state, LinkState::Up);
        let down = parse(&message(LinkLayerType::Ether, LinkFlags::empty()));
        assert_eq!(down.state, LinkState::Down);
    }
}
