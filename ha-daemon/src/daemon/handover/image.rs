//! What one program of this process leaves to the next, in memory that ends with them: a sealed
//! memfd. It holds keys, so it never is a file, and nothing of it is printed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::config::HolderMemory;
use crate::control::backend::Cause;
use crate::core::resume::Memory;
use crate::io::address::HeldAddress;
use crate::io::arrivals::ArrivalsMemory;
use crate::io::records::RecordMemory;
use crate::names::{InterfaceName, LinkName, NodeName};
use crate::snapshot::Event;

/// Version of what is handed over. Another one is refused before anything is given up.
pub const FORMAT: u32 = 1;
/// What it begins with: "HAHO" and the version.
const MAGIC: u32 = 0x4841_484f;
/// Longest image that is read: the events are most of it.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// One path.
#[derive(Debug, Serialize, Deserialize)]
pub struct PathImage {
    /// The peer.
    pub peer: NodeName,
    /// The link.
    pub link: LinkName,
    /// Number of the last control message.
    pub control_sequence: u64,
    /// Number of the last probe.
    #[serde(default)]
    pub probe_sequence: u64,
    /// What its heartbeats echo.
    pub echo: u64,
    /// Whether the peer is heard there.
    pub hears: bool,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats that the kernel refused to send.
    pub errors: u64,
    /// The record in use.
    pub record: RecordMemory,
    /// The daemon's own record, with the second control window.
    pub own: RecordMemory,
    /// How its heartbeats arrived.
    #[serde(default)]
    pub arrivals: ArrivalsMemory,
    /// Introductions that were seen: incarnation and clock of the latest.
    pub introduced: (u64, u64),
}

/// A UDP socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct SocketImage {
    /// Its descriptor.
    pub fd: RawFd,
    /// Where it is bound.
    pub local: SocketAddr,
    /// The interface that it is bound to.
    pub interface: InterfaceName,
    /// Index of that interface.
    pub interface_index: u32,
}

/// A control connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConnectionImage {
    /// Its descriptor.
    pub fd: RawFd,
    /// The peer.
    pub peer: NodeName,
    /// The link.
    pub link: LinkName,
    /// Incarnation at its other end.
    pub incarnation: u64,
}

/// The keeper.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeeperImage {
    /// Descriptor of its socket.
    pub fd: RawFd,
    /// Its process.
    pub pid: u32,
    /// Addresses that it holds, with their interfaces.
    pub held: Vec<(String, InterfaceName)>,
    /// The memory of the lease; a program that did not know it has none.
    #[serde(default)]
    pub lease: Option<RawFd>,
}

/// Key words are in it.
#[derive(Serialize, Deserialize)]
pub struct KeysImage(pub Vec<u8>);

impl std::fmt::Debug for KeysImage {
    // A key never appears in a log or an error.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeysImage(hidden)")
    }
}

/// Everything but what is known only when the last heartbeat has left.
#[derive(Debug, Serialize, Deserialize)]
pub struct Image {
    /// Version of the program that wrote it.
    pub version: String,
    /// Why.
    pub cause: Cause,
    /// Where the program was when it was started first.
    pub executable: PathBuf,
    /// When it was asked for, `CLOCK_MONOTONIC`.
    pub asked_ns: u64,
    /// What the core knows.
    pub core: Memory,
    /// Its paths.
    pub paths: Vec<PathImage>,
    /// Its sockets.
    pub sockets: Vec<SocketImage>,
    /// Its control connections.
    pub connections: Vec<ConnectionImage>,
    /// Its keeper.
    pub keeper: KeeperImage,
    /// Its addresses.
    pub addresses: Vec<HeldAddress>,
    /// The control socket.
    pub control: RawFd,
    /// The lock of the run directory.
    pub lock: RawFd,
    /// What happened.
    pub events: Vec<Event>,
    /// Number of the newest event.
    pub last_event: u64,
    /// Events that are no longer held.
    pub events_dropped: u64,
    /// How many there were of each kind.
    #[serde(default)]
    pub events_by_kind: BTreeMap<String, u64>,
    /// Number of the last event that was logged.
    pub logged: u64,
    /// Lines that the log lost.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// Limits of the process before the daemon changed them, for services.
    #[serde(default)]
    pub limits: Vec<(u64, u64)>,
    /// The keys that were in force: peers use them until they have the new ones.
    pub keys: KeysImage,
    /// How long nodes hold and wait; earlier versions did not tell.
    #[serde(default)]
    pub times: Option<HolderMemory>,
    /// The configuration was read again without a change.
    #[serde(default)]
    pub unchanged: bool,
}

impl Image {
    /// Every descriptor that it names.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let sockets = self.sockets.iter().map(|it| it.fd);
        let connections = self.connections.iter().map(|it| it.fd);
        let rest = [self.keeper.fd, self.control, self.lock];
        sockets.chain(connections).chain(rest).chain(self.keeper.lease).collect()
    }
}

/// The rest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tail {
    /// Numbers of the last heartbeats, by path.
    pub sequences: Vec<u64>,
    /// When it left.
    pub stopped_ns: u64,
    /// A signal to leave came meanwhile.
    pub leave: bool,
}

/// Writes the image; the tail follows with [`seal`].
///
/// # Errors
/// No memory, or no descriptor.
pub fn write(image: &Image) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = memfd_create(c"ha-hand-over", flags).context("no memory for the hand-over")?;
    let mut file = File::from(memory);
    let body = serde_json::to_vec(image).context("cannot write down what is handed over")?;
    let mut head = Vec::with_capacity(16);
    head.extend(MAGIC.to_be_bytes());
    head.extend(FORMAT.to_be_bytes());
    head.extend((body.len() as u64).to_be_bytes());
    file.write_all(&head).and_then(|()| file.write_all(&body)).context("no memory is left")?;
    Ok(file)
}

/// Completes an image; from here on nobody changes it.
///
/// # Errors
/// No memory is left.
pub fn seal(mut file: File, tail: &Tail) -> Result<OwnedFd> {
    let body = serde_json::to_vec(tail).context("cannot write down what is handed over")?;
    file.write_all(&body).context("no memory is left for the hand-over")?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).context("cannot seal the hand-over")?;
    Ok(file.into())
}

/// Reads what [`fn@write`] and [`seal`] wrote.
///
/// # Errors
/// It is of another version, or damaged.
pub fn read(fd: OwnedFd) -> Result<(Image, Tail)> {
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0)).context("what was handed over cannot be read")?;
    let mut bytes = Vec::new();
    file.take(IMAGE_BYTES_MAX).read_to_end(&mut bytes).context("cannot read the hand-over")?;
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_be_bytes);
    ensure!(word(0) == Some(MAGIC), "what was handed over is no hand-over");
    ensure!(
        word(4) == Some(FORMAT),
        "what was handed over has format {}, this version reads {FORMAT}",
        word(4).unwrap_or(0)
    );
    let length = word(12).unwrap_or(0) as usize;
    let body = bytes.get(16..16 + length).context("what was handed over is cut off")?;
    // What serde says might quote a key.
    let image = serde_json::from_slice(body).map_err(|error| {
        anyhow::anyhow!("what was handed over is damaged at column {}", error.column())
    })?;
    let tail = serde_json::from_slice(&bytes[16 + length..]).context("its end is missing")?;
    Ok((image, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_refused() {
        for bytes in [&b""[..], b"HAHO", b"HAHO\0\0\0\x02\0\0\0\0\0\0\0\0", b"HAHO\0\0\0\x01\xff"] {
            let mut file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
            file.write_all(bytes).unwrap();
            assert!(read(file.into()).is_err());
        }
    }
}
