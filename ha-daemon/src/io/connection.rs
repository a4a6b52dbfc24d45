//! Control connections: a TCP connection between two daemons that carries nothing but its own end.
//!
//! When a daemon dies, its kernel closes its sockets, and the peer learns of it at once instead of
//! after deadtime. Only the peer's kernel can say so: a connection that times out (a cut link) is
//! not reported, and one that closes while heartbeats go on leads to nothing (the core waits for
//! their absence), so that forged resets cause no failover. Whether anybody listens there any more is
//! tried at once, and reported, too.
//!
//! Of two nodes the one with the smaller name connects. Both sides first show a signed header that
//! echoes the other's incarnation, so that a recording of an earlier start opens nothing. Nor does
//! one of this start: the connecting side's header carries its clock, which must be later than in
//! any header that was seen before, and the answer repeats it. Its sequence number is zero and
//! it has no body, so that no datagram passes for it, nor it for a datagram that is fresh.

mod knock;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use ha_common::wire::{FIXED_BYTES, Fixed, Header, Kind, Phase};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::clock::monotonic_ns;
use super::keys::{Keys, Signer};
use super::mailbox::{Letter, Mailbox};
use super::paths::{Ends, Network, Path};
use super::sender;
use super::socket::scoped;
use crate::config::NodeIndex;
use crate::names::InterfaceName;
use knock::is_deserted;

/// Longest wait for the other side's header.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// Pause after an attempt that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Unanswered data ends a connection after this time (without a report).
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Most connections that were accepted and have not shown a header yet.
const STRANGERS_MAX: usize = 64;

/// What every task of this module needs.
struct Shared {
    paths: Vec<Path>,
    own: NodeIndex,
    header: Header,
    receivers: Vec<u32>,
    keys: Arc<Keys>,
    words: Arc<sender::Shared>,
    /// Introductions that were made.
    introductions: AtomicU64,
    heard: watch::Receiver<Vec<u64>>,
    mailbox: Mailbox,
    strangers: AtomicUsize,
    open: Arc<OpenConnections>,
}

impl Shared {
    /// The other paths to the same peer on which there are control connections.
    fn others(&self, slot: usize) -> Vec<usize> {
        let peer = self.paths[slot].peer;
        let is_other = |other: &usize| {
            let path = &self.paths[*other];
            *other != slot && path.peer == peer && ends(path).is_some()
        };
        (0..self.paths.len()).filter(is_other).collect()
    }
}

/// The connections that are open, and what introduced itself: what the next program of this process
/// goes on with. A connection stays open while a descriptor of it is here, so the peer notices
/// nothing.
#[derive(Debug, Default)]
pub struct OpenConnections {
    open: Mutex<Vec<Connection>>,
    /// By path: incarnation and clock of the peer's latest header that echoed this start.
    seen: Mutex<Vec<(u64, u64)>>,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    /// Its path.
    pub slot: usize,
    /// Incarnation at its other end.
    pub incarnation: u64,
    /// A descriptor of it.
    pub fd: OwnedFd,
}

impl OpenConnections {
    /// What is open, and by path what was seen; here nothing is known of them any more.
    #[must_use]
    pub fn hand_over(&self) -> (Vec<Connection>, Vec<(u64, u64)>) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        (open, self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn add(&self, slot: usize, incarnation: u64, stream: &TcpStream) {
        // Without a descriptor to spare, the peer sees it close, and hears this node go on.
        if let Ok(fd) = stream.as_fd().try_clone_to_owned() {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push(Connection { slot, incarnation, fd });
        }
    }

    /// Of two connections of a path the older one ends first.
    fn remove(&self, slot: usize, incarnation: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = |it: &Connection| (it.slot, it.incarnation) == (slot, incarnation);
        if let Some(position) = open.iter().position(ended) {
            open.swap_remove(position);
        }
    }
}

/// How control connections are made.
pub struct Connections {
    /// All paths of this node.
    pub paths: Vec<Path>,
    /// This node.
    pub own: NodeIndex,
    /// Cluster, sender, key number and incarnation of this node's datagrams.
    pub header: Header,
    /// Identifiers of the peers, by path.
    pub receivers: Vec<u32>,
    /// The keys.
    pub keys: Arc<Keys>,
    /// Which of them sign, by path.
    pub words: Arc<sender::Shared>,
    /// Incarnations of the peers as last heard, by path.
    pub heard: watch::Receiver<Vec<u64>>,
    /// Where ends are reported.
    pub mailbox: Mailbox,
    /// Those of the program before.
    pub resumed: Vec<Connection>,
    /// By path, what it had seen.
    pub seen: Vec<(u64, u64)>,
}

impl Connections {
    /// Listens on every local endpoint and connects to every peer with a greater name. The tasks
    /// run on the current runtime until it ends.
    ///
    /// # Errors
    /// An endpoint that cannot be bound.
    pub fn start(self) -> Result<Arc<OpenConnections>> {
        let Self { paths, own, header, receivers, keys, words, heard, mailbox, .. } = self;
        let strangers = AtomicUsize::new(0);
        let mut seen = self.seen;
        seen.resize(paths.len(), (0, 0));
        let open = Arc::new(OpenConnections { open: Mutex::default(), seen: Mutex::new(seen) });
        let mut resumed: BTreeMap<usize, (u64, TcpStream)> = BTreeMap::new();
        for Connection { slot, incarnation, fd } in self.resumed {
            let stream = std::net::TcpStream::from(fd);
            resumed.insert(slot, (incarnation, TcpStream::from_std(stream)?));
        }
        let context = Arc::new(Shared {
            paths,
            own,
            header,
            receivers,
            keys,
            words,
            introductions: AtomicU64::new(0),
            heard,
            mailbox,
            strangers,
            open: Arc::clone(&open),
        });
        let mut bound: Vec<(u32, SocketAddr)> = Vec::new();
        for (slot, path) in context.paths.iter().enumerate() {
            let Some((network, _)) = path.network().zip(ends(path)) else { continue };
            for entrance in &network.entrances {
                let place = (network.interface_index, entrance.address);
                if !bound.contains(&place) {
                    bound.push(place);
                    let listener = listen(network, entrance.address)?;
                    tokio::spawn(accept(Arc::clone(&context), listener, network.interface_index));
                }
            }
            if context.own < path.peer {
                tokio::spawn(connect(Arc::clone(&context), slot, resumed.remove(&slot)));
            } else if let Some((incarnation, stream)) = resumed.remove(&slot) {
                let context = Arc::clone(&context);
                tokio::spawn(async move { watch_end(&context, slot, incarnation, stream).await });
            }
        }
        Ok(open)
    }
}

fn socket(domain: SocketAddr, interface: &InterfaceName) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(domain), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(interface.as_str().as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    let keepalive =
        TcpKeepalive::new().with_time(SILENCE_MAX).with_interval(Duration::from_secs(2));
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(socket)
}

/// Both ends of a path's control connection: it has one where the peer's address is known.
fn ends(path: &Path) -> Option<Ends> {
    path.network().and_then(|network| network.ends)
}

fn listen(network: &Network, local: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = socket(local, &network.interface)?;
        // A restarted daemon must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&scoped(local, network.interface_index).into())?;
        socket.listen(128)?;
        TcpListener::from_std(socket.into())
    };
    bind().with_context(|| format!("cannot listen on TCP {local} of {}", network.interface))
}

async fn accept(context: Arc<Shared>, listener: TcpListener, interface_index: u32) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY_PAUSE).await;
            continue;
        };
        if context.strangers.fetch_add(1, Relaxed) >= STRANGERS_MAX {
            context.strangers.fetch_sub(1, Relaxed);
            continue;
        }
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let accepted = welcome(&context, stream, interface_index).await;
            context.strangers.fetch_sub(1, Relaxed);
            if let Some((slot, incarnation, stream)) = accepted {
                watch_end(&context, slot, incarnation, stream).await;
            }
        });
    }
}

/// The accepting side of the handshake: reads a header, answers with one.
async fn welcome(
    context: &Shared,
    mut stream: TcpStream,
    interface_index: u32,
) -> Option<(usize, u64, TcpStream)> {
    let shown = timeout(HANDSHAKE_MAX, read_header(context, &mut stream)).await.ok()?;
    let (header, signer) = shown?;
    let slot = context.paths.iter().position(|path| {
        path.key.sender == header.sender
            && path.key.link == header.link
            && path.interface_index() == interface_index
            && path.peer < context.own
    })?;
    // It echoes this node's incarnation: it was made after this daemon started.
    if header.echo != context.header.incarnation {
        return None;
    }
    // Seen is seen, also when it comes too early to be welcomed: its peer tries again with a later
    // clock, and who recorded it must not have what is left of it.
    let new = is_new(&context.open.seen, slot, &header);
    let known = context.heard.borrow()[slot] == header.incarnation;
    if !new || !known {
        return None;
    }
    // Signed with the key that the peer has just used: it has that one.
    let echo = header.incarnation;
    send_header(context, &mut stream, slot, echo, header.sent_ns, &signer).await.ok()?;
    Some((slot, header.incarnation, stream))
}

/// Whether no header of this start of the peer with this or a later clock was seen before; from here
/// on it was.
fn is_new(seen: &Mutex<Vec<(u64, u64)>>, slot: usize, header: &Header) -> bool {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(last) = seen.get_mut(slot) else { return false };
    let this = (header.incarnation, header.sent_ns);
    let new = this > *last;
    if new {
        *last = this;
    }
    new
}

async fn connect(context: Arc<Shared>, slot: usize, resumed: Option<(u64, TcpStream)>) {
    let mut heard = context.heard.clone();
    if let Some((incarnation, stream)) = resumed {
        watch_end(&context, slot, incarnation, stream).await;
        sleep(RETRY_PAUSE).await;
    }
    loop {
        let incarnation = heard.borrow_and_update()[slot];
        if incarnation == 0 {
            if heard.changed().await.is_err() {
                return;
            }
            continue;
        }
        if let Some(stream) = introduce(&context, slot, incarnation).await {
            watch_end(&context, slot, incarnation, stream).await;
        }
        // After a failure, and after an end: whoever restarts takes a moment.
        sleep(RETRY_PAUSE).await;
    }
}

/// The connecting side of the handshake: sends a header, reads one.
async fn introduce(context: &Shared, slot: usize, incarnation: u64) -> Option<TcpStream> {
    let path = &context.paths[slot];
    let attempt = async {
        let mut stream = dial(path).await.ok()?;
        let clock = monotonic_ns();
        let signing = context.words.paths.get(slot)?.signing.get();
        let turn = context.introductions.fetch_add(1, Relaxed);
        let signer = context.keys.signer(signing, turn);
        send_header(context, &mut stream, slot, incarnation, clock, signer).await.ok()?;
        let (header, _) = read_header(context, &mut stream).await?;
        let right = header.sender == path.key.sender
            && header.link == path.key.link
            && header.incarnation == incarnation
            && header.echo == context.header.incarnation
            && header.sent_ns == clock;
        right.then_some(stream)
    };
    timeout(HANDSHAKE_MAX, attempt).await.ok()?
}

/// A connection to a path's other end.
async fn dial(path: &Path) -> io::Result<TcpStream> {
    let ends = path.network().zip(ends(path));
    let (network, Ends { local, remote }) = ends.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = socket(local, &network.interface)?;
    let local = SocketAddr::new(local.ip(), 0);
    socket.bind(&scoped(local, network.interface_index).into())?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(scoped(remote, network.interface_index)).await
}

async fn send_header(
    context: &Shared,
    stream: &mut TcpStream,
    slot: usize,
    echo: u64,
    clock: u64,
    signer: &Signer,
) -> io::Result<()> {
    let header = Header {
        kind: Kind::Control,
        receiver: context.receivers[slot],
        link: context.paths[slot].key.link,
        key: signer.number,
        echo,
        sent_ns: clock,
        phase: Phase::Starting,
        ..context.header
    };
    let mut fixed = header.encode();
    signer.key.sign(&mut fixed);
    stream.write_all(&fixed.to_bytes()).await
}

async fn read_header(context: &Shared, stream: &mut TcpStream) -> Option<(Header, Signer)> {
    let mut bytes = [0; FIXED_BYTES];
    stream.read_exact(&mut bytes).await.ok()?;
    let fixed = Fixed::read(&bytes[..], 0)?;
    let header = Header::decode(&fixed).ok()?;
    let ours = header.cluster == context.header.cluster && header.receiver == context.header.sender;
    let control = header.kind == Kind::Control && header.sequence == 0 && header.body_bytes == 0;
    let signer = context.keys.signer_of(header.key, &fixed).filter(|_| ours && control)?;
    Some((header, signer))
}

/// Waits until the connection ends; reports it when it was the peer's kernel that ended it, and
/// gives it up when the peer has started anew.
async fn watch_end(context: &Shared, slot: usize, incarnation: u64, stream: TcpStream) {
    context.open.add(slot, incarnation, &stream);
    let ended = wait_for_end(context, slot, incarnation, stream).await;
    context.open.remove(slot, incarnation);
    if ended {
        let peer = context.paths[slot].peer;
        context.mailbox.post(Letter::ConnectionClosed { peer, incarnation });
        let dial = |slot: usize| move || dial(&context.paths[slot]);
        if is_deserted(dial(slot), context.others(slot).into_iter().map(dial)).await {
            context.mailbox.post(Letter::ConnectionRefused { peer, incarnation });
        }
    }
}

/// Whether it was the peer's kernel that ended it.
async fn wait_for_end(
    context: &Shared,
    slot: usize,
    incarnation: u64,
    mut stream: TcpStream,
) -> bool {
    let mut heard = context.heard.clone();
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            read = stream.read(&mut rest) => match read {
                // Newer versions may say something here; this one has nothing to read.
                Ok(1..) => {}
                Ok(0) => return true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
                Err(_) => return false,
            },
            changed = heard.changed() => {
                if changed.is_err() || heard.borrow()[slot] != incarnation {
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::wire::Way;

    fn header(incarnation: u64, sent_ns: u64) -> Header {
        Header {
            kind: Kind::Control,
            cluster: 0,
            sender: 0,
            receiver: 0,
            link: 0,
            key: 0,
            way: Way::None,
            body_bytes: 0,
            incarnation,
            echo: 0,
            sequence: 0,
            sent_ns,
            keepalive_us: 0,
            generation: 0,
            phase: Phase::Starting,
            layers: 0,
            lease_age_ms: 0,
            key_offered: 0,
        }
    }

    #[test]
    fn an_introduction_is_new_once_and_only_when_it_is_later() {
        let seen = Mutex::new(vec![(0, 0); 2]);
        assert!(is_new(&seen, 0, &header(5, 100)));
        assert!(!is_new(&seen, 0, &header(5, 100)));
        assert!(!is_new(&seen, 0, &header(5, 99)));
        assert!(is_new(&seen, 0, &header(5, 101)));
        // The clock of a restarted machine begins anew.
        assert!(is_new(&seen, 0, &header(6, 1)));
        assert!(!is_new(&seen, 0, &header(5, 200)));
        assert!(is_new(&seen, 1, &header(5, 100)), "each path has its own");
    }
}
