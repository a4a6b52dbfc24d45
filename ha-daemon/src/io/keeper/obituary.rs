//! The obituary on the network: signed datagrams, and the sockets that they leave through.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::message::Datagram;
use crate::names::InterfaceName;

/// How often every datagram of the obituary is sent: one may be lost.
pub(super) const OBITUARY_ROUNDS: usize = 2;
/// DSCP CS6 (network control, RFC 4594) in the place of the TOS octet.
const TOS_CS6: u32 = 0xc0;

/// The datagrams and the sockets that they leave through, one per source.
#[derive(Default)]
pub(super) struct Obituary {
    sockets: Vec<Source>,
    datagrams: Vec<(usize, SockAddr, Datagram)>,
}

struct Source {
    socket: Socket,
    local: SocketAddr,
    interface: InterfaceName,
    hops: u8,
}

impl Obituary {
    pub(super) fn prepare(datagrams: Vec<Datagram>) -> (Self, Vec<String>) {
        let mut obituary = Self::default();
        let mut warnings = Vec::new();
        for datagram in datagrams {
            match obituary.source(datagram.local, &datagram.interface, datagram.hops) {
                Ok(index) => {
                    obituary.datagrams.push((index, datagram.remote.into(), datagram));
                }
                Err(error) => warnings.push(format!(
                    "cannot open a socket at {} on {} for the obituary, {} will not be told: {error}",
                    datagram.local, datagram.interface, datagram.remote
                )),
            }
        }
        (obituary, warnings)
    }

    fn source(
        &mut self,
        local: SocketAddr,
        interface: &InterfaceName,
        hops: u8,
    ) -> io::Result<usize> {
        let same = |source: &Source| {
            source.local == local && source.interface == *interface && source.hops == hops
        };
        if let Some(index) = self.sockets.iter().position(same) {
            return Ok(index);
        }
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_str().as_bytes()))?;
        match local.ip() {
            IpAddr::V4(_) => {
                socket.set_tos_v4(TOS_CS6)?;
                // The peer may be at a group's or a broadcast address; who sends to one host is not
                // concerned.
                socket.set_broadcast(true)?;
                socket.set_multicast_ttl_v4(u32::from(hops))?;
            }
            IpAddr::V6(_) => {
                socket.set_tclass_v6(TOS_CS6)?;
                socket.set_multicast_hops_v6(u32::from(hops))?;
            }
        }
        socket.set_nonblocking(true)?;
        // A socket on the daemon's own port would take its packets while it lives.
        if local.port() == 0 {
            socket.bind(&local.into())?;
        }
        self.sockets.push(Source { socket, local, interface: interface.clone(), hops });
        Ok(self.sockets.len() - 1)
    }

    /// Sends everything; gives the number of datagrams that went out, and the failures.
    pub(super) fn send(&self) -> (usize, Vec<String>) {
        let mut failures = Vec::new();
        for source in self.sockets.iter().filter(|source| source.local.port() != 0) {
            let any_port = SocketAddr::new(source.local.ip(), 0);
            let bound = source.socket.bind(&source.local.into());
            if let Err(error) = bound.or_else(|_| source.socket.bind(&any_port.into())) {
                failures.push(format!("cannot send from {}: {error}", source.local));
            }
        }
        let mut sent = 0;
        for _ in 0..OBITUARY_ROUNDS {
            for (index, remote, datagram) in &self.datagrams {
                let Some(source) = self.sockets.get(*index) else {
                    continue;
                };
                match source.socket.send_to(&datagram.payload, remote) {
                    Ok(_) => sent += 1,
                    Err(error) => {
                        failures.push(format!("cannot tell {}: {error}", datagram.remote));
                    }
                }
            }
        }
        (sent, failures)
    }
}
