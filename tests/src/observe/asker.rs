//! Asks who has an address, by ARP or neighbour discovery, and records every answer: what a kernel
//! says, whatever its daemon does.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::MsgFlags;
use socket2::Socket;

use super::{STOP_CHECK_INTERVAL, Watcher, locked, stamped};
use crate::bed::Netns;
use crate::clock::{as_ns, monotonic_ns};
use crate::sys;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_START: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TELLINGS_MAX: usize = 1_000_000;
/// Above daemons and what keeps them busy.
const PRIORITY: u8 = 90;

/// An answer: who claims to have the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// When the asker's kernel received it.
    pub at_ns: u64,
    /// Whose it is.
    pub mac: [u8; 6],
}

impl Told {
    /// The MAC address as [`crate::bed::Bed::mac`] writes it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        super::mac_text(self.mac)
    }
}

/// Asks until it is dropped.
#[derive(Debug)]
pub struct Asker {
    told: Arc<Mutex<Vec<Told>>>,
    _watchers: [Watcher; 2],
}

impl Asker {
    /// Asks for `address` out of an interface of that namespace.
    ///
    /// # Errors
    /// There is no such interface, or it has no address of that family.
    pub fn start(
        netns: &Netns,
        interface: &str,
        address: IpAddr,
        interval: Duration,
    ) -> Result<Self> {
        let own = Own::of(netns, interface, address)?;
        let question = question(&own, address)?;
        let ethertype = if address.is_ipv4() { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 };
        let socket = netns.run(|| open(ethertype, own.index))?;
        let sending = socket.try_clone()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let records = Arc::clone(&told);
        let asking = Watcher::start("asker", Some(PRIORITY), move |stop| {
            while !stop.load(Ordering::Relaxed) {
                // A cable that is cut is no reason to ask no more.
                let _ = sending.send(&question);
                thread::sleep(interval);
            }
        })?;
        let hearing = Watcher::start("answers", Some(PRIORITY), move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if let Some(heard) = hear(&socket, address, own.mac) {
                    let mut records = locked(&records);
                    if records.len() < TELLINGS_MAX {
                        records.push(heard);
                    }
                }
            }
        })?;
        Ok(Self { told, _watchers: [asking, hearing] })
    }

    /// The answers since `after_ns`, oldest first.
    #[must_use]
    pub fn answers(&self, after_ns: u64) -> Vec<Told> {
        locked(&self.told).iter().filter(|it| it.at_ns >= after_ns).copied().collect()
    }

    /// The answers of one MAC address since `after_ns`.
    #[must_use]
    pub fn answers_of(&self, mac: &str, after_ns: u64) -> Vec<Told> {
        let mut answers = self.answers(after_ns);
        answers.retain(|it| it.mac_text() == mac);
        answers
    }

    /// Waits for an answer of that MAC address from after `after_ns`.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait_answer(&self, mac: &str, after_ns: u64, time_max: Duration) -> Result<Told> {
        let end_ns = monotonic_ns() + as_ns(time_max);
        loop {
            if let Some(told) = self.answers_of(mac, after_ns).first() {
                return Ok(*told);
            }
            if monotonic_ns() > end_ns {
                bail!("{mac} does not answer within {time_max:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The asker's own side.
struct Own {
    index: u32,
    mac: [u8; 6],
    address: IpAddr,
}

impl Own {
    fn of(netns: &Netns, interface: &str, wanted: IpAddr) -> Result<Self> {
        let text = netns.ip(&["-j", "address", "show", "dev", interface])?;
        let listed: serde_json::Value = serde_json::from_str(&text)?;
        let link = listed.get(0).context("no such interface")?;
        let mac = link["address"].as_str().context("it has no MAC address")?;
        let bytes: Vec<u8> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        let address = addresses
            .filter_map(|it| it["local"].as_str()?.parse::<IpAddr>().ok())
            .find(|it| it.is_ipv4() == wanted.is_ipv4())
            .with_context(|| format!("{interface} has no address to ask from"))?;
        let index = link["ifindex"].as_u64().context("it has no index")?;
        let mac = bytes.try_into().ok().context("its MAC address has another length")?;
        Ok(Self { index: u32::try_from(index)?, mac, address })
    }
}

fn open(ethertype: u16, index: u32) -> Result<Socket> {
    let socket = stamped::open(ethertype)?;
    sys::bind_packet(&socket, index, ethertype)?;
    socket.set_read_timeout(Some(STOP_CHECK_INTERVAL))?;
    Ok(socket)
}

fn question(own: &Own, wanted: IpAddr) -> Result<Vec<u8>> {
    match (own.address, wanted) {
        (IpAddr::V4(source), IpAddr::V4(wanted)) => {
            let mut frame = vec![0xff; 6];
            frame.extend(own.mac);
            frame.extend(ETHERTYPE_ARP.to_be_bytes());
            frame.extend(ARP_START);
            frame.extend([0, 1]);
            frame.extend(own.mac);
            frame.extend(source.octets());
            frame.extend([0; 6]);
            frame.extend(wanted.octets());
            Ok(frame)
        }
        (IpAddr::V6(source), IpAddr::V6(wanted)) => {
            let target = wanted.octets();
            let [.., x, y, z] = target;
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z];
            let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend(target);
            // Source link-layer address (RFC 4861 4.6.1).
            message.extend([1, 1]);
            message.extend(own.mac);
            let sum = checksum(&source.octets(), &group, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut frame = vec![0x33, 0x33, 0xff, x, y, z];
            frame.extend(own.mac);
            frame.extend(ETHERTYPE_IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
            frame.extend(source.octets());
            frame.extend(group);
            frame.extend(message);
            Ok(frame)
        }
        (source, wanted) => bail!("{source} cannot ask for {wanted}"),
    }
}

/// RFC 4443 2.3.
fn checksum(source: &[u8; 16], destination: &[u8; 16], message: &[u8]) -> u16 {
    let length = [0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6];
    let all = source.iter().chain(destination).chain(&length).chain(message).copied();
    let bytes: Vec<u8> = all.collect();
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn hear(socket: &Socket, address: IpAddr, own: [u8; 6]) -> Option<Told> {
    let mut frame = [0_u8; 256];
    let stamped = stamped::receive(socket, &mut frame, MsgFlags::empty())?;
    let mac = answer(frame.get(..stamped.bytes)?, address, own)?;
    Some(Told { at_ns: stamped.at_ns.unwrap_or_else(monotonic_ns), mac })
}

/// The sender of an answer to this asker.
fn answer(frame: &[u8], address: IpAddr, own: [u8; 6]) -> Option<[u8; 6]> {
    let (to, mac): ([u8; 6], [u8; 6]) = (*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?);
    let body = frame.get(14..)?;
    let is_answer = match address {
        IpAddr::V4(wanted) => {
            body.get(..8)? == [0, 1, 8, 0, 6, 4, 0, 2] && body.get(14..18)? == wanted.octets()
        }
        IpAddr::V6(wanted) => {
            *body.get(6)? == ICMPV6
                && *body.get(40)? == ADVERTISEMENT
                && body.get(48..64)? == wanted.octets()
        }
    };
    (is_answer && to == own).then_some(mac)
}

/// Fails unless nobody but `mac` answered since `after_ns`, and it did.
///
/// # Errors
/// Says who answered.
pub fn expect_only(asker: &Asker, mac: &str, after_ns: u64) -> Result<()> {
    let answers = asker.answers(after_ns);
    let others: Vec<String> =
        answers.iter().map(Told::mac_text).filter(|other| *other != mac).collect();
    ensure!(others.is_empty(), "{} answers came from others: {:?}", others.len(), others.first());
    ensure!(!answers.is_empty(), "{mac} does not answer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_this_asker_counts() {
        let (own, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame =
            [&own[..], &other, &ETHERTYPE_ARP.to_be_bytes(), &ARP_START, &[0, 2]].concat();
        frame.extend(other);
        frame.extend([198, 51, 100, 10]);
        let wanted = "198.51.100.10".parse().unwrap();
        assert_eq!(answer(&frame, wanted, own), Some(other));
        assert_eq!(answer(&frame, "198.51.100.11".parse().unwrap(), own), None);
        assert_eq!(answer(&frame, wanted, other), None);
        frame[21] = 1;
        assert_eq!(answer(&frame, wanted, own), None);
    }
}
