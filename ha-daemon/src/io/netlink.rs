//! Addresses by netlink: the messages that every caller shares, and a small blocking socket for
//! callers that want no runtime: the keeper, and the daemon before it starts.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily as SocketFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::io::interrupted::uninterrupted;
use crate::names::InterfaceName;

/// Longest answer that is read: an error echoes the request, whose size is fixed; a description of
/// an interface takes less than 2 KiB without its virtual functions, which nobody asks for.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Prefixes from this length on have no broadcast address (RFC 3021).
const PREFIX_WITHOUT_BROADCAST: u8 = 31;

/// What removing an address did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The address was there and is gone.
    Removed,
    /// There was nothing to remove: no such address, or no such interface.
    NotThere,
}

impl Removal {
    /// What an answer to RTM_DELADDR means.
    ///
    /// # Errors
    /// The answer is another failure than "not there".
    pub fn from_answer(answer: io::Result<()>) -> io::Result<Self> {
        match answer {
            Ok(()) => Ok(Self::Removed),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) =>
            {
                Ok(Self::NotThere)
            }
            Err(error) => Err(error),
        }
    }
}

/// What an IPv4 address may have beside its prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct AddressDetails {
    /// Its label; `None`: the interface's name.
    pub label: Option<String>,
    /// Its broadcast address; `None`: that of its prefix.
    pub broadcast: Option<Ipv4Addr>,
}

/// RTM_NEWADDR for an address with a lifetime.
///
/// Unless `details` say otherwise it has no label, and an IPv4 address has the broadcast address of
/// its prefix, as `ip addr add ADDRESS brd +` gives it; an IPv6 address skips duplicate address detection, which would keep
/// it unusable for a second or more. The kernel makes the route of its prefix.
#[must_use]
pub fn new_address(
    address: IpNet,
    ifindex: u32,
    lifetime: Duration,
    details: &AddressDetails,
) -> AddressMessage {
    let mut message = address_message(address, ifindex);
    if let IpNet::V4(network) = address
        && let Some(broadcast) = details.broadcast.or_else(|| broadcast(network))
    {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if let (IpNet::V4(_), Some(label)) = (address, &details.label) {
        message.attributes.push(AddressAttribute::Label(label.clone()));
    }
    if let IpNet::V6(_) = address {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1);
    let mut cache_info = CacheInfo::default();
    cache_info.ifa_valid = seconds;
    cache_info.ifa_preferred = seconds;
    message.attributes.push(AddressAttribute::CacheInfo(cache_info));
    message
}

/// RTM_NEWADDR for an address that is there before this node owns it. Its lifetime has
/// passed its preferred part: nothing that this host begins has it as its source. It makes no route of its
/// prefix, which would have it as source too.
#[must_use]
pub fn new_armed_address(
    address: IpNet,
    ifindex: u32,
    lifetime: Duration,
    details: &AddressDetails,
) -> AddressMessage {
    let mut message = new_address(address, ifindex, lifetime, details);
    let flags = match address {
        IpNet::V4(_) => AddressFlags::Noprefixroute,
        IpNet::V6(_) => AddressFlags::Noprefixroute | AddressFlags::Nodad,
    };
    let replaced = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(_));
    message.attributes.retain(|attribute| !replaced(attribute));
    message.attributes.push(AddressAttribute::Flags(flags));
    for attribute in &mut message.attributes {
        if let AddressAttribute::CacheInfo(cache_info) = attribute {
            cache_info.ifa_preferred = 0;
        }
    }
    message
}

/// An address with its prefix length, as the kernel lists it.
#[must_use]
pub fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(it) = attribute {
            local = Some(*it);
        } else if let AddressAttribute::Address(it) = attribute {
            address = Some(*it);
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

/// RTM_DELADDR for exactly this address, prefix and interface.
#[must_use]
pub fn delete_address(address: IpNet, ifindex: u32) -> AddressMessage {
    address_message(address, ifindex)
}

fn address_message(address: IpNet, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    let own: IpAddr = address.addr();
    message.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    message
}

fn broadcast(network: Ipv4Net) -> Option<Ipv4Addr> {
    (network.prefix_len() < PREFIX_WITHOUT_BROADCAST).then(|| network.broadcast())
}

/// The bytes of a request that asks for an acknowledgement; made beforehand by whoever has to be
/// quick later.
#[must_use]
pub fn serialized(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    header.sequence_number = 1;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}

/// A blocking rtnetlink socket for one request at a time.
#[derive(Debug)]
pub struct RouteSocket(OwnedFd);

impl RouteSocket {
    /// Opens it, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(SocketFamily::Netlink, SockType::Raw, flags, protocol)?))
    }

    /// Sends a request made by [`serialized`] and waits for its acknowledgement. The kernel
    /// carries a request out within send(2), so this does not sleep.
    ///
    /// # Errors
    /// What the kernel answered, as an OS error.
    pub fn exchange(&self, request: &[u8]) -> io::Result<()> {
        self.answer(request).map(drop)
    }

    /// Sends a request for one object, made by [`serialized`], and returns the object.
    ///
    /// # Errors
    /// What the kernel answered, as an OS error.
    pub fn ask(&self, request: &[u8]) -> io::Result<RouteNetlinkMessage> {
        if let NetlinkPayload::InnerMessage(message) = self.answer(request)? {
            return Ok(message);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without an object"))
    }

    /// Sends a request for a list of objects, made by [`serialized`] with `NLM_F_DUMP`, and returns them.
    ///
    /// # Errors
    /// What the kernel answered, as an OS error.
    pub fn list(&self, request: &[u8]) -> io::Result<Vec<RouteNetlinkMessage>> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())?;
        let mut listed = Vec::new();
        let mut buffer = [0; ANSWER_BYTES_MAX];
        loop {
            let length = self.receive(&mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                // Each message begins at a multiple of four bytes (netlink(7)).
                let length = (message.header.length as usize).next_multiple_of(4).max(4);
                match message.payload {
                    NetlinkPayload::InnerMessage(object) => listed.push(object),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Done(_) => return Ok(listed),
                    NetlinkPayload::Error(_)
                    | NetlinkPayload::Noop
                    | NetlinkPayload::Overrun(_)
                    | _ => {}
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(uninterrupted(|| recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()))?)
    }

    fn answer(&self, request: &[u8]) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let length = self.receive(&mut answer)?;
        let answer = answer.get(..length).unwrap_or_default();
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if let NetlinkPayload::Error(error) = &message.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
        Ok(message.payload)
    }

    /// Removes an address, looking its interface up by name.
    ///
    /// # Errors
    /// The kernel refused for another reason than that it is not there.
    pub fn remove(&self, address: IpNet, interface: &InterfaceName) -> io::Result<Removal> {
        let Ok(ifindex) = if_nametoindex(interface.as_str()) else {
            return Ok(Removal::NotThere);
        };
        let message = RouteNetlinkMessage::DelAddress(delete_address(address, ifindex));
        Removal::from_answer(self.exchange(&serialized(message, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(address: &str) -> Vec<u8> {
        golden_with(address, &AddressDetails::default())
    }

    fn golden_with(address: &str, details: &AddressDetails) -> Vec<u8> {
        let message = new_address(address.parse().unwrap(), 7, Duration::from_secs(5), details);
        serialized(RouteNetlinkMessage::NewAddress(message), 0x500)
    }

    #[test]
    fn ipv4_request_has_broadcast_and_lifetime_and_no_label() {
        let expected: &[&[u8]] = &[
            &[64, 0, 0, 0, 20, 0, 5, 5, 1, 0, 0, 0, 0, 0, 0, 0],
            &[2, 24, 0, 0, 7, 0, 0, 0],
            &[8, 0, 2, 0, 192, 0, 2, 10],
            &[8, 0, 1, 0, 192, 0, 2, 10],
            &[8, 0, 4, 0, 192, 0, 2, 255],
            &[20, 0, 6, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        let mut expected = expected.concat();
        expected[0] = expected.len() as u8;
        assert_eq!(golden("192.0.2.10/24"), expected);
    }

    #[test]
    fn label_and_broadcast_are_told_of_ipv4_only() {
        let details = AddressDetails {
            label: Some("eth0:0".to_owned()),
            broadcast: Some(Ipv4Addr::new(192, 0, 2, 127)),
        };
        let request = golden_with("192.0.2.10/24", &details);
        let has = |request: &[u8], bytes: &[u8]| request.windows(bytes.len()).any(|it| it == bytes);
        assert!(has(&request, &[8, 0, 4, 0, 192, 0, 2, 127]));
        assert!(has(&request, b"\x0b\0\x03\0eth0:0\0"));
        assert_eq!(golden_with("2001:db8::10/64", &details), golden("2001:db8::10/64"));
    }

    #[test]
    fn host_and_point_to_point_prefixes_have_no_broadcast() {
        let length = golden("192.0.2.10/30").len();
        assert_eq!(golden("192.0.2.10/31").len(), length - 8);
        assert_eq!(golden("192.0.2.10/32").len(), length - 8);
    }

    #[test]
    fn ipv6_request_skips_duplicate_address_detection() {
        let request = golden("2001:db8::10/64");
        assert_eq!(request[16..20], [10, 64, 2, 0]);
        let flags = [8, 0, 8, 0, 2, 0, 0, 0];
        assert!(request.windows(8).any(|window| window == flags));
    }

    #[test]
    fn an_armed_address_is_deprecated_and_makes_no_route() {
        for (address, flags) in [("192.0.2.10/24", 0x200_u32), ("2001:db8::10/64", 0x202)] {
            let address = address.parse().unwrap();
            let details = AddressDetails::default();
            let message = new_armed_address(address, 7, Duration::from_secs(5), &details);
            let request = serialized(RouteNetlinkMessage::NewAddress(message), 0x500);
            let has = |bytes: &[u8]| request.windows(bytes.len()).any(|it| it == bytes);
            assert!(has(&[&[8, 0, 8, 0][..], &flags.to_ne_bytes()[..]].concat()));
            // Preferred for no time, valid for five seconds.
            assert!(has(&[20, 0, 6, 0, 0, 0, 0, 0, 5, 0, 0, 0]));
        }
    }

    #[test]
    fn what_is_not_there_counts_as_removed() {
        let answer = |code: i32| Removal::from_answer(Err(io::Error::from_raw_os_error(code)));
        assert_eq!(answer(libc::EADDRNOTAVAIL).unwrap(), Removal::NotThere);
        assert_eq!(answer(libc::ENODEV).unwrap(), Removal::NotThere);
        assert!(answer(libc::EPERM).is_err());
    }
}
