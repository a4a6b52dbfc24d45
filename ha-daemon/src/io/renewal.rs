//! Renewing the lifetime of an address that is there, and never adding one that is not: by the
//! address worker, and by the keeper while the worker does not.
//!
//! RTM_NEWADDR adds what is not there even without NLM_F_CREATE (net/ipv4/devinet.c and
//! net/ipv6/addrconf.c say so themselves). But what is added with IFA_F_MCAUTOJOIN (Linux 4.1) first
//! joins the multicast group of that address, and a unicast address is none: EINVAL. An address that is
//! there only gets its lifetime. So whoever was stopped between its decision to renew and the request
//! brings nothing back that was removed meanwhile. An IPv6 address shows `autojoin` ever after; the kernel
//! looks at that flag nowhere else.

use std::io;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::netlink::{
    AddressDetails, RouteSocket, address_of, new_address, new_armed_address, serialized,
};

/// With which flags a renewal is sent.
pub const FLAGS: u16 = NLM_F_REPLACE;

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The address has its new lifetime.
    Renewed,
    /// There is no such address.
    NotThere,
}

impl Renewed {
    /// What an answer to a renewal means.
    ///
    /// # Errors
    /// The answer is another failure than "not there".
    pub fn from_answer(answer: io::Result<()>) -> io::Result<Self> {
        match answer {
            Ok(()) => Ok(Self::Renewed),
            // EOPNOTSUPP: a kernel without multicast.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                Ok(Self::NotThere)
            }
            Err(error) => Err(error),
        }
    }
}

/// The renewal of what `new` adds, to be sent with [`FLAGS`].
#[must_use]
pub fn renewal(mut new: AddressMessage) -> AddressMessage {
    let mut flags = AddressFlags::Mcautojoin;
    new.attributes.retain(|attribute| {
        if let AddressAttribute::Flags(own) = attribute {
            flags |= *own;
            return false;
        }
        true
    });
    new.attributes.push(AddressAttribute::Flags(flags));
    new
}

/// An address as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    address: IpNet,
    ifindex: u32,
    /// Nothing that this host begins has it as its source: it is pre-armed.
    deprecated: bool,
}

impl Present {
    /// All that have a lifetime.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn list(netlink: &RouteSocket) -> io::Result<Vec<Self>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let listed = netlink.list(&serialized(request, NLM_F_DUMP))?;
        Ok(listed.iter().filter_map(Self::of).collect())
    }

    fn of(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        let flags = message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Flags(it) = attribute { Some(*it) } else { None }
        });
        let flags = flags.unwrap_or(AddressFlags::empty());
        if flags.contains(AddressFlags::Permanent) {
            return None;
        }
        Some(Self {
            address: address_of(message)?,
            ifindex: message.header.index,
            deprecated: flags.contains(AddressFlags::Deprecated),
        })
    }

    /// Whether it is that address on that interface.
    #[must_use]
    pub fn is(&self, address: IpNet, ifindex: u32) -> bool {
        (self.address, self.ifindex) == (address, ifindex)
    }

    /// Gives it a new lifetime, if it is still there. What it has beside stays.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn renew(&self, netlink: &RouteSocket, lifetime: Duration) -> io::Result<Renewed> {
        let new = if self.deprecated { new_armed_address } else { new_address };
        let new = new(self.address, self.ifindex, lifetime, &AddressDetails::default());
        let request = serialized(RouteNetlinkMessage::NewAddress(renewal(new)), FLAGS);
        Renewed::from_answer(netlink.exchange(&request))
    }
}
