//! The sender's path asks the allocator for nothing: counted by an allocator that counts for the
//! sender's thread alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ha_common::maps::Audience;
use ha_common::wire::{FIXED_BYTES, Header, Kind, Phase, Way};
use ha_daemon::config::{AuthKey, AuthMethod, KeyRing, LinkIndex, Realtime};
use ha_daemon::io::interrupted::uninterrupted;
use ha_daemon::io::keys::Keys;
use ha_daemon::io::paths::{Cast, Entrance, Network};
use ha_daemon::io::sender::{Exit, Plan, Sender, Shared, Target};
use ha_daemon::io::socket::LinkSocket;

struct Counting;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        REQUESTS.fetch_add(1, Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Beats before counting: the thread has begun by then.
const BEFORE: u64 = 10;
/// Beats that are counted.
const COUNTED_BEATS: u64 = 200;
/// For a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn until_sent(shared: &Shared, beats: u64) {
    let start = Instant::now();
    while shared.paths[0].sent.load(Relaxed) < beats {
        assert!(start.elapsed() < PATIENCE, "the sender does not send");
        std::thread::yield_now();
    }
}

fn exit(receiver: SocketAddr) -> anyhow::Result<Exit> {
    let network = Network {
        interface: "lo".parse()?,
        interface_index: 1,
        entrances: Vec::new(),
        remotes: vec![receiver],
        own: Vec::new(),
        mac: None,
        ends: None,
    };
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let entrance = Entrance { address: local, cast: Cast::Unicast, audience: Audience::One };
    let socket = LinkSocket::bind(LinkIndex(0), &network, &entrance)?;
    Ok(Exit::Network { socket, remotes: vec![receiver.into()] })
}

fn header() -> Header {
    Header {
        kind: Kind::Heartbeat,
        cluster: 1,
        sender: 2,
        receiver: 3,
        link: 4,
        key: 0,
        way: Way::None,
        body_bytes: 0,
        incarnation: 5,
        echo: 0,
        sequence: 0,
        sent_ns: 0,
        keepalive_us: 1_000,
        generation: 0,
        phase: Phase::Active,
        layers: 0,
        lease_age_ms: 0,
        key_offered: 0,
    }
}

#[test]
fn a_heartbeat_is_sent_without_the_allocator_whatever_signs_it() {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    for method in [AuthMethod::SipHash24, AuthMethod::Sha256, AuthMethod::Md5] {
        let key = AuthKey { number: 1, method, word: b"sixteen bytes...".to_vec() };
        let keys = Arc::new(Keys::new(&KeyRing::new(1, vec![key])).unwrap());
        let plan = Plan {
            idle: Duration::from_millis(1),
            pause: Duration::from_secs(1),
            keys,
            realtime: Realtime { enabled: true },
        };
        let keepalive = Duration::from_millis(1);
        let exit = exit(receiver.local_addr().unwrap()).unwrap();
        let target = Target { slot: 0, exit, header: header(), keepalive };
        let shared = Arc::new(Shared::new(1));
        let counted = move |_| COUNTED.set(true);
        let sender = Sender::start(plan, vec![target], Arc::clone(&shared), counted).unwrap();
        until_sent(&shared, BEFORE);
        let before = REQUESTS.load(Relaxed);
        assert_ne!(before, 0, "the counter does not count");
        until_sent(&shared, BEFORE + COUNTED_BEATS);
        assert_eq!(REQUESTS.load(Relaxed), before, "{method:?}");
        assert!(shared.sender_late.status().count >= BEFORE + COUNTED_BEATS);
        sender.stop();
        // What was sent is a heartbeat.
        let mut datagram = [0; 256];
        assert_eq!(uninterrupted(|| receiver.recv(&mut datagram)).unwrap(), FIXED_BYTES);
        assert_eq!(shared.paths[0].errors.load(Relaxed), 0);
    }
}
