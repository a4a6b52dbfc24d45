//! Addresses that disappear from this host's interfaces, whoever had the kernel take them off.

use std::io;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use crate::io::netlink::address_of;

/// Listens for them. On a socket of its own: what overflows here takes no answer to a request with it,
/// and is found by the next renewal.
pub(super) struct Removals {
    removed: BoxStream<'static, (IpNet, u32)>,
    /// Keeps the connection open.
    _handle: Handle,
}

impl Removals {
    /// Begins to listen, on the runtime of the caller.
    pub(super) fn open() -> io::Result<Self> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let removed = messages.filter_map(async |(message, _)| {
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) =
                message.payload
            else {
                return None;
            };
            Some((address_of(&message)?, message.header.index))
        });
        Ok(Self { removed: removed.boxed(), _handle: handle })
    }

    /// The next one, with the index of its interface.
    pub(super) async fn next(&mut self) -> (IpNet, u32) {
        match self.removed.next().await {
            Some(removed) => removed,
            // Renewals find out as well, a little later.
            None => std::future::pending().await,
        }
    }
}
