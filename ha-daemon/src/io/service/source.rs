//! The source address: what this host sends to other networks comes from a floating address
//! (Heartbeat's `IPsrcaddr`).
//!
//! Nothing that is there is changed. For each route to other networks that leaves through the
//! interface which has the address, a second one is put before it, with the source address and a
//! protocol number of its own ([`PROTOCOL`]; `ip route show proto 94`). When the address goes,
//! whoever removes it (this daemon, its keeper, the kernel at the end of its lifetime), the kernel
//! itself drops the IPv4 route and leaves the host's own behind it; it takes the source out of the
//! IPv6 route, which then says the same as the host's own, until the next start removes it.

use std::io;
use std::net::IpAddr;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;

use crate::core::io::Presence;
use crate::io::address::link::acknowledged;

/// Marks the routes that this daemon adds; unassigned in linux/rtnetlink.h.
pub const PROTOCOL: u8 = 94;
/// Metric of an IPv6 route that has none of its own (IP6_RT_PRIO_USER, linux/ipv6_route.h).
const METRIC_V6: u32 = 1024;

pub(super) async fn probe(address: IpAddr) -> Presence {
    match routes(address).await {
        Ok((_, routes)) if routes.iter().any(|route| is_ours(route, address)) => Presence::Here,
        Ok(_) => Presence::Absent,
        Err(error) => Presence::Unclear { cause: format!("cannot list the routes: {error}") },
    }
}

pub(super) async fn start(address: IpAddr) -> Result<(), String> {
    let refused = |error: io::Error| format!("cannot make {address} the source address: {error}");
    let (mut handle, routes) = routes(address).await.map_err(refused)?;
    let interfaces = interfaces(&handle, address).await.map_err(refused)?;
    if interfaces.is_empty() {
        return Err(format!(
            "{address} is on no interface: put it before the source address as an address of the \
             same group"
        ));
    }
    let leads_out = |route: &&RouteMessage| {
        leads_elsewhere(route) && oif(route).is_some_and(|index| interfaces.contains(&index))
    };
    let wanted: Vec<_> = routes.iter().filter(leads_out).map(|it| before(it, address)).collect();
    if wanted.is_empty() {
        return Err(format!(
            "no route to other networks leaves through the interface of {address}: add one (ip \
             route add default via ...), or remove the source address"
        ));
    }
    for route in wanted {
        let Some(route) = route else {
            return Err(format!(
                "no route can come before one of metric 1: give the routes to other networks of \
                 the interface that has {address} a higher metric"
            ));
        };
        // Without NLM_F_EXCL and NLM_F_APPEND: before those that are as specific, `ip route prepend`.
        let message = RouteNetlinkMessage::NewRoute(route);
        match acknowledged(&mut handle, message, NLM_F_CREATE).await {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                let undone = stop(address).await;
                return Err(undone.err().map_or_else(
                    || refused(io::Error::other(error.to_string())),
                    |rest| format!("{}; {rest}", refused(io::Error::other(error.to_string()))),
                ));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

pub(super) async fn stop(address: IpAddr) -> Result<(), String> {
    let refused = |error: io::Error| {
        format!("cannot remove the routes with source address {address}: {error}")
    };
    let (mut handle, routes) = routes(address).await.map_err(refused)?;
    for route in routes.into_iter().filter(|route| is_ours(route, address)) {
        let message = RouteNetlinkMessage::DelRoute(without_state(route));
        match acknowledged(&mut handle, message, 0).await {
            // Gone meanwhile, with its address.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            outcome => outcome.map_err(refused)?,
        }
    }
    Ok(())
}

/// All unicast routes of the address's family in the main table.
async fn routes(address: IpAddr) -> io::Result<(Handle, Vec<RouteMessage>)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut request = RouteMessage::default();
    request.header.address_family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let mut answers = pin!(handle.route().get(request).execute());
    let mut routes = Vec::new();
    while let Some(route) = answers.try_next().await.map_err(io::Error::other)? {
        if route.header.table == RouteHeader::RT_TABLE_MAIN
            && route.header.kind == RouteType::Unicast
        {
            routes.push(route);
        }
    }
    Ok((handle, routes))
}

/// Indices of the interfaces that have the address.
async fn interfaces(handle: &Handle, address: IpAddr) -> io::Result<Vec<u32>> {
    let mut answers = pin!(handle.address().get().execute());
    let mut interfaces = Vec::new();
    while let Some(message) = answers.try_next().await.map_err(io::Error::other)? {
        // IPv6 has no `Local`; of IPv4 with a peer, `Address` is the peer's.
        let attributes = &message.attributes;
        let local = attributes.iter().find_map(|it| {
            if let AddressAttribute::Local(local) = it { Some(*local) } else { None }
        });
        let own = attributes
            .iter()
            .find_map(|it| if let AddressAttribute::Address(own) = it { Some(*own) } else { None });
        if local.or(own) == Some(address) {
            interfaces.push(message.header.index);
        }
    }
    Ok(interfaces)
}

/// Whether it is a route of this module for that address. One without a source is an IPv6 one whose
/// address went away.
fn is_ours(route: &RouteMessage, address: IpAddr) -> bool {
    route.header.protocol == RouteProtocol::from(PROTOCOL)
        && source(route).is_none_or(|source| source == address)
}

/// Whether it leads to other networks than the interface's own, by one way.
fn leads_elsewhere(route: &RouteMessage) -> bool {
    let gateway = route
        .attributes
        .iter()
        .any(|it| matches!(it, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)));
    route.header.protocol != RouteProtocol::from(PROTOCOL)
        && (gateway || route.header.destination_prefix_length == 0)
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|it| if let RouteAttribute::Oif(index) = it { Some(*index) } else { None })
}

fn source(route: &RouteMessage) -> Option<IpAddr> {
    let source = route.attributes.iter().find_map(|it| {
        if let RouteAttribute::PrefSource(source) = it { Some(source) } else { None }
    })?;
    match source {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        RouteAddress::Mpls(_) | RouteAddress::Other(_) | _ => None,
    }
}

/// The same route with the source address, to come before it; `None` if there is no place there.
/// IPv4 looks at routes of one metric in their order. IPv6 would spread over them: there it takes a
/// lower metric.
fn before(route: &RouteMessage, address: IpAddr) -> Option<RouteMessage> {
    let mut route = without_state(route.clone());
    route.header.protocol = RouteProtocol::from(PROTOCOL);
    let metric = route.attributes.iter().find_map(|it| {
        if let RouteAttribute::Priority(metric) = it { Some(*metric) } else { None }
    });
    route.attributes.retain(|it| !matches!(it, RouteAttribute::PrefSource(_)));
    match address {
        IpAddr::V4(own) => {
            route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(own)));
        }
        IpAddr::V6(own) => {
            let lower = metric.unwrap_or(METRIC_V6).checked_sub(1).filter(|metric| *metric > 0)?;
            route.attributes.retain(|it| !matches!(it, RouteAttribute::Priority(_)));
            route.attributes.push(RouteAttribute::Priority(lower));
            route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet6(own)));
        }
    }
    Some(route)
}

/// Without what the kernel only tells.
fn without_state(mut route: RouteMessage) -> RouteMessage {
    route.header.flags &= RouteFlags::Onlink;
    let told = |it: &RouteAttribute| {
        matches!(it, RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_))
    };
    route.attributes.retain(|it| !told(it));
    route
}
