//! Link faults by rtnetlink directly: starting `ip` or `bridge` takes milliseconds, this takes
//! microseconds, and the moment of the fault is known.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

const NLMSG_HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_SETLINK: u16 = 19;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
const IFF_UP: u32 = 1;
const IFLA_PROTINFO: u16 = 12;
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_BRPORT_STATE: u16 = 1;
const AF_BRIDGE: u8 = 7;
/// The kernel looks at carriers once a second when many change.
const CARRIER_TIME_MAX: Duration = Duration::from_secs(3);

/// State of a bridge port without spanning tree: all frames pass, or none in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortState {
    /// Nothing passes; the carrier stays.
    Disabled = 0,
    /// Everything passes.
    Forwarding = 3,
}

/// An rtnetlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Rtnetlink {
    socket: OwnedFd,
}

impl Rtnetlink {
    /// Opens one in the calling thread's namespace; `groups` are the multicast groups to hear.
    pub(crate) fn open(groups: u32) -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("cannot open an rtnetlink socket")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))
            .context("cannot bind an rtnetlink socket")?;
        Ok(Self { socket })
    }

    /// Its descriptor, for those who listen.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Takes the interface up or down.
    pub(crate) fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        let body = link_message(0, index_of(interface)?, flags, IFF_UP);
        self.request(RTM_SETLINK, &body)
            .with_context(|| format!("cannot set {interface} {}", if up { "up" } else { "down" }))
    }

    /// Sets the state of a bridge port. A port that has just come up is refused until the kernel
    /// has noticed its carrier, which it does in its own time: tries again for that long.
    pub(crate) fn set_port_state(&self, port: &str, state: PortState) -> Result<()> {
        let mut body = link_message(AF_BRIDGE, index_of(port)?, 0, 0);
        body.extend(12_u16.to_ne_bytes());
        body.extend((IFLA_PROTINFO | NLA_F_NESTED).to_ne_bytes());
        body.extend(5_u16.to_ne_bytes());
        body.extend(IFLA_BRPORT_STATE.to_ne_bytes());
        body.extend([state as u8, 0, 0, 0]);
        let deadline = Instant::now() + CARRIER_TIME_MAX;
        loop {
            match self.request(RTM_SETLINK, &body) {
                Err(error)
                    if error.downcast_ref() == Some(&Errno::ENETDOWN)
                        && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(1));
                }
                result => {
                    return result
                        .with_context(|| format!("cannot set bridge port {port} {state:?}"));
                }
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&self, kind: u16, body: &[u8]) -> Result<()> {
        let length = u32::try_from(NLMSG_HEADER_LEN + body.len())?;
        let mut message = Vec::with_capacity(NLMSG_HEADER_LEN + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0_u8; 1024];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        acknowledged(answer.get(..length).unwrap_or_default())
    }
}

/// `struct ifinfomsg`.
fn link_message(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    body
}

fn acknowledged(answer: &[u8]) -> Result<()> {
    let kind = u16_at(answer, 4);
    let error = u32_at(answer, NLMSG_HEADER_LEN).map(u32::cast_signed);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw(error.wrapping_neg()).into()),
        (kind, _) => bail!("unexpected answer of rtnetlink (message {kind:?})"),
    }
}

fn index_of(interface: &str) -> Result<u32> {
    if_nametoindex(interface).with_context(|| format!("there is no interface {interface}"))
}

/// The native-endian u16 at `offset`, if the bytes reach that far.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The native-endian u32 at `offset`, if the bytes reach that far.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_short_or_of_another_kind_is_an_error() {
        assert!(acknowledged(&[]).is_err());
        assert!(acknowledged(&[0; 64]).is_err());
        let mut ack = [0_u8; 36];
        ack[4] = 2;
        assert!(acknowledged(&ack).is_ok());
        ack[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        let refused = acknowledged(&ack).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|text| text.contains("EPERM")));
    }
}
