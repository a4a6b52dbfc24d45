//! What the daemon tells its keeper: one message per packet of a `SOCK_SEQPACKET` pair.
//!
//! Both ends are the same executable, so the encoding has no version. A length is always checked
//! before what it counts is read.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::{GROUPS_MAX, RESOURCES_MAX};
use crate::names::InterfaceName;

/// Longest message in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Most addresses in one message; more take several.
pub const HELD_PER_MESSAGE_MAX: usize = 256;
/// Most addresses that stay: those of every group.
pub const CUSTODY_HELD_MAX: usize = GROUPS_MAX * RESOURCES_MAX;
/// Most datagrams of an obituary.
pub const DATAGRAMS_MAX: usize = 1024;
/// Longest payload of a datagram: it must not be fragmented on Ethernet.
pub const PAYLOAD_BYTES_MAX: usize = 1400;

/// Longest path of a device, in bytes.
const DEVICE_BYTES_MAX: usize = 4096;

const HOLD: u8 = 1;
const RELEASE: u8 = 2;
const OBITUARY: u8 = 3;
const FAREWELL: u8 = 4;
const NOTICES: u8 = 5;
const CUSTODY: u8 = 6;
const ESTATE: u8 = 7;
const DETACH: u8 = 8;
const RETIRE: u8 = 9;
const FAMILY_IPV4: u8 = 4;
const FAMILY_IPV6: u8 = 6;

/// An address of this node that the keeper has to remove when the daemon dies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Address and prefix length.
    pub address: IpNet,
    /// The interface that carries it.
    pub interface: InterfaceName,
}

/// A UDP datagram that the keeper sends when the daemon has died. Its payload is opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Source. Port 0 takes any free port and is bound beforehand. Another port is bound only
    /// when the daemon is dead: until then that socket would take the daemon's own packets.
    pub local: SocketAddr,
    /// The interface it leaves through.
    pub interface: InterfaceName,
    /// Destination: a host, a multicast group or a broadcast address.
    pub remote: SocketAddr,
    /// TTL or hop limit, for a multicast group.
    pub hops: u8,
    /// At most [`PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// Bytes that the keeper writes on a serial line when the daemon has died. Opaque here, as they go
/// on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The line's device; the daemon has made its settings.
    pub device: PathBuf,
    /// At most [`PAYLOAD_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

/// What the keeper leaves in place when the daemon dies, until the holder's lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Custody {
    /// Groups that wait for the next daemon; of none, nothing waits.
    pub groups: u16,
    /// Their addresses, and those that are told to be held while this is in force.
    pub held: Vec<Held>,
    /// What tells the peers.
    pub datagrams: Vec<Datagram>,
    /// The same for serial lines.
    pub notices: Vec<Notice>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Hold these too.
    Hold(Vec<Held>),
    /// Hold this one no longer.
    Release(Held),
    /// Hold this one, but do not renew it: the daemon is about to remove it.
    Retire(Held),
    /// These datagrams replace all earlier ones.
    Obituary(Vec<Datagram>),
    /// These notices on serial lines replace all earlier ones.
    Notices(Vec<Notice>),
    /// What stays when the daemon is gone, in place of what was told before.
    Custody(Custody),
    /// What the next daemon is to know of this one, in place of what was told before. Opaque here.
    Estate(Vec<u8>),
    /// The daemon ends, and another one comes: everything is to stay when it is gone.
    Detach,
    /// The daemon leaves cleanly: do nothing when it is gone.
    Farewell,
}

/// Why a message cannot be sent or understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Something in it exceeds its limit.
    #[error("{what}: {actual}, at most {max} are allowed")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// How much there is.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// It ends early, or says something that cannot be.
    #[error("malformed message to the keeper: {0}")]
    Malformed(&'static str),
}

impl Message {
    /// The message in bytes.
    ///
    /// # Errors
    /// A limit is exceeded.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut bytes = Vec::new();
        match self {
            Self::Hold(held) => {
                bytes.push(HOLD);
                put_count(&mut bytes, "addresses", held.len(), HELD_PER_MESSAGE_MAX)?;
                held.iter().for_each(|held| put_held(&mut bytes, held));
            }
            Self::Release(held) => {
                bytes.push(RELEASE);
                put_held(&mut bytes, held);
            }
            Self::Retire(held) => {
                bytes.push(RETIRE);
                put_held(&mut bytes, held);
            }
            Self::Obituary(datagrams) => {
                bytes.push(OBITUARY);
                put_datagrams(&mut bytes, datagrams)?;
            }
            Self::Notices(notices) => {
                bytes.push(NOTICES);
                put_notices(&mut bytes, notices)?;
            }
            Self::Custody(Custody { groups, held, datagrams, notices }) => {
                bytes.push(CUSTODY);
                bytes.extend(groups.to_be_bytes());
                put_count(&mut bytes, "addresses", held.len(), CUSTODY_HELD_MAX)?;
                held.iter().for_each(|held| put_held(&mut bytes, held));
                put_datagrams(&mut bytes, datagrams)?;
                put_notices(&mut bytes, notices)?;
            }
            Self::Estate(estate) => {
                bytes.push(ESTATE);
                bytes.extend(estate);
            }
            Self::Detach => bytes.push(DETACH),
            Self::Farewell => bytes.push(FAREWELL),
        }
        match limit("bytes", bytes.len(), MESSAGE_BYTES_MAX) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(error),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// It is cut, too long, or contains what [`Message::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(bytes);
        let message = match reader.byte()? {
            HOLD => {
                let count = reader.count("addresses", HELD_PER_MESSAGE_MAX)?;
                Self::Hold((0..count).map(|_| reader.held()).collect::<Result<_, _>>()?)
            }
            RELEASE => Self::Release(reader.held()?),
            RETIRE => Self::Retire(reader.held()?),
            OBITUARY => Self::Obituary(reader.datagrams()?),
            NOTICES => Self::Notices(reader.notices()?),
            CUSTODY => {
                let groups = u16::from_be_bytes(reader.array()?);
                let count = reader.count("addresses", CUSTODY_HELD_MAX)?;
                let held = (0..count).map(|_| reader.held()).collect::<Result<_, _>>()?;
                let (datagrams, notices) = (reader.datagrams()?, reader.notices()?);
                Self::Custody(Custody { groups, held, datagrams, notices })
            }
            ESTATE => Self::Estate(reader.rest().to_vec()),
            DETACH => Self::Detach,
            FAREWELL => Self::Farewell,
            _ => return Err(MessageError::Malformed("unknown kind")),
        };
        if reader.0.is_empty() {
            Ok(message)
        } else {
            Err(MessageError::Malformed("bytes after its end"))
        }
    }
}

fn limit(what: &'static str, actual: usize, max: usize) -> Result<(), MessageError> {
    if actual > max { Err(MessageError::TooMuch { what, actual, max }) } else { Ok(()) }
}

fn put_count(
    bytes: &mut Vec<u8>,
    what: &'static str,
    count: usize,
    max: usize,
) -> Result<(), MessageError> {
    limit(what, count, max)?;
    bytes.extend((count as u16).to_be_bytes());
    Ok(())
}

fn put_ip(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            bytes.push(FAMILY_IPV4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(FAMILY_IPV6);
            bytes.extend(address.octets());
        }
    }
}

fn put_interface(bytes: &mut Vec<u8>, interface: &InterfaceName) {
    // At most 15 bytes: checked when the name entered.
    bytes.push(interface.as_str().len() as u8);
    bytes.extend(interface.as_str().as_bytes());
}

fn put_held(bytes: &mut Vec<u8>, held: &Held) {
    put_ip(bytes, held.address.addr());
    bytes.push(held.address.prefix_len());
    put_interface(bytes, &held.interface);
}

fn put_socket(bytes: &mut Vec<u8>, address: SocketAddr) {
    put_ip(bytes, address.ip());
    bytes.extend(address.port().to_be_bytes());
    let scope = match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    bytes.extend(scope.to_be_bytes());
}

fn put_datagram(bytes: &mut Vec<u8>, datagram: &Datagram) -> Result<(), MessageError> {
    put_socket(bytes, datagram.local);
    put_interface(bytes, &datagram.interface);
    put_socket(bytes, datagram.remote);
    bytes.push(datagram.hops);
    put_count(bytes, "bytes of payload", datagram.payload.len(), PAYLOAD_BYTES_MAX)?;
    bytes.extend(&datagram.payload);
    Ok(())
}

fn put_bytes(bytes: &mut Vec<u8>, part: &[u8], max: usize) -> Result<(), MessageError> {
    put_count(bytes, "bytes of a notice", part.len(), max)?;
    bytes.extend(part);
    Ok(())
}

fn put_datagrams(bytes: &mut Vec<u8>, datagrams: &[Datagram]) -> Result<(), MessageError> {
    put_count(bytes, "datagrams", datagrams.len(), DATAGRAMS_MAX)?;
    datagrams.iter().try_for_each(|datagram| put_datagram(bytes, datagram))
}

fn put_notices(bytes: &mut Vec<u8>, notices: &[Notice]) -> Result<(), MessageError> {
    put_count(bytes, "notices", notices.len(), DATAGRAMS_MAX)?;
    notices.iter().try_for_each(|Notice { device, bytes: notice }| {
        put_bytes(bytes, device.as_os_str().as_bytes(), DEVICE_BYTES_MAX)?;
        put_bytes(bytes, notice, PAYLOAD_BYTES_MAX)
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], MessageError> {
        let Some((head, tail)) = self.0.split_at_checked(count) else {
            return Err(MessageError::Malformed("it ends early"));
        };
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let malformed = |_| MessageError::Malformed("it ends early");
        self.bytes(N)?.try_into().map_err(malformed)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        self.array().map(|[byte]| byte)
    }

    fn count(&mut self, what: &'static str, max: usize) -> Result<usize, MessageError> {
        let count = usize::from(u16::from_be_bytes(self.array()?));
        limit(what, count, max).map(|()| count)
    }

    fn ip(&mut self) -> Result<IpAddr, MessageError> {
        match self.byte()? {
            FAMILY_IPV4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            FAMILY_IPV6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(MessageError::Malformed("unknown address family")),
        }
    }

    fn interface(&mut self) -> Result<InterfaceName, MessageError> {
        let length = usize::from(self.byte()?);
        std::str::from_utf8(self.bytes(length)?)
            .ok()
            .and_then(|name| name.parse().ok())
            .ok_or(MessageError::Malformed("not the name of an interface"))
    }

    fn held(&mut self) -> Result<Held, MessageError> {
        let (address, prefix) = (self.ip()?, self.byte()?);
        let malformed = |_| MessageError::Malformed("prefix longer than its address");
        let address = IpNet::new(address, prefix).map_err(malformed)?;
        Ok(Held { address, interface: self.interface()? })
    }

    fn socket(&mut self) -> Result<SocketAddr, MessageError> {
        let (address, port) = (self.ip()?, u16::from_be_bytes(self.array()?));
        let scope = u32::from_be_bytes(self.array()?);
        Ok(match address {
            IpAddr::V4(_) => SocketAddr::new(address, port),
            IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
        })
    }

    fn datagram(&mut self) -> Result<Datagram, MessageError> {
        let (local, interface, remote) = (self.socket()?, self.interface()?, self.socket()?);
        let hops = self.byte()?;
        let length = self.count("bytes of payload", PAYLOAD_BYTES_MAX)?;
        Ok(Datagram { local, interface, remote, hops, payload: self.bytes(length)?.to_vec() })
    }

    fn datagrams(&mut self) -> Result<Vec<Datagram>, MessageError> {
        let count = self.count("datagrams", DATAGRAMS_MAX)?;
        (0..count).map(|_| self.datagram()).collect()
    }

    fn notices(&mut self) -> Result<Vec<Notice>, MessageError> {
        let count = self.count("notices", DATAGRAMS_MAX)?;
        (0..count).map(|_| self.notice()).collect()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn notice(&mut self) -> Result<Notice, MessageError> {
        let length = self.count("bytes of a notice", DEVICE_BYTES_MAX)?;
        let device = PathBuf::from(OsStr::from_bytes(self.bytes(length)?));
        let length = self.count("bytes of a notice", PAYLOAD_BYTES_MAX)?;
        Ok(Notice { device, bytes: self.bytes(length)?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(address: &str) -> Held {
        Held { address: address.parse().unwrap(), interface: "eth0".parse().unwrap() }
    }

    fn datagram(local: &str, remote: &str, bytes: usize) -> Datagram {
        Datagram {
            local: local.parse().unwrap(),
            interface: "eth1".parse().unwrap(),
            remote: remote.parse().unwrap(),
            hops: 1,
            payload: vec![7; bytes],
        }
    }

    fn samples() -> Vec<Message> {
        vec![
            Message::Hold(vec![held("192.0.2.10/24"), held("2001:db8::10/64")]),
            Message::Hold(vec![]),
            Message::Release(held("192.0.2.10/32")),
            Message::Retire(held("192.0.2.10/32")),
            Message::Obituary(vec![
                datagram("192.0.2.1:0", "192.0.2.2:694", 0),
                datagram("[2001:db8::1%4]:694", "[2001:db8::2%4]:694", PAYLOAD_BYTES_MAX),
            ]),
            Message::Notices(vec![
                Notice { device: "/dev/ttyS0".into(), bytes: vec![0, 3, 1, 0] },
                Notice { device: "/dev/ttyUSB1".into(), bytes: vec![7; PAYLOAD_BYTES_MAX] },
            ]),
            Message::Custody(Custody::default()),
            Message::Custody(Custody {
                groups: 3,
                held: vec![held("192.0.2.10/24")],
                datagrams: vec![datagram("192.0.2.1:0", "192.0.2.2:694", 9)],
                notices: vec![Notice { device: "/dev/ttyS0".into(), bytes: vec![0, 3] }],
            }),
            Message::Detach,
            Message::Farewell,
        ]
    }

    #[test]
    fn hold_has_these_bytes() {
        let bytes = Message::Hold(vec![held("192.0.2.10/24")]).encode().unwrap();
        assert_eq!(bytes, [&[1, 0, 1, 4, 192, 0, 2, 10, 24, 4], b"eth0".as_slice()].concat());
    }

    #[test]
    fn every_message_is_read_back() {
        for message in samples() {
            assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        }
    }

    #[test]
    fn no_cut_or_prolonged_message_is_accepted() {
        for message in samples() {
            let mut bytes = message.encode().unwrap();
            for length in 0..bytes.len() {
                assert!(Message::decode(&bytes[..length]).is_err(), "{length} of {message:?}");
            }
            bytes.push(0);
            assert!(Message::decode(&bytes).is_err());
        }
    }

    #[test]
    fn an_estate_is_passed_on_as_it_is() {
        for bytes in [vec![], vec![7; 1_000]] {
            let message = Message::Estate(bytes);
            assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        }
    }

    #[test]
    fn limits_hold() {
        let long = datagram("192.0.2.1:0", "192.0.2.2:694", PAYLOAD_BYTES_MAX + 1);
        assert!(Message::Obituary(vec![long]).encode().is_err());
        let many = vec![held("192.0.2.10/24"); HELD_PER_MESSAGE_MAX + 1];
        assert!(Message::Hold(many).encode().is_err());
        let big = datagram("192.0.2.1:0", "192.0.2.2:694", PAYLOAD_BYTES_MAX);
        assert!(Message::Obituary(vec![big; DATAGRAMS_MAX]).encode().is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(message) = Message::decode(&bytes) {
                proptest::prop_assert_eq!(message.encode().unwrap(), bytes);
            }
        }
    }
}
