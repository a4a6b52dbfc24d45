//! The bed proves itself: it leaves nothing behind, and its observers tell the truth about faults
//! that the test makes by hand. No daemon takes part.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{panic, thread};

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Bed, CLIENT, Cut, Netns, Node, turn};
use ha_tests::clock::{MS_NS, monotonic_ns, wait_for};
use ha_tests::observe::{
    AddressMonitor, AnnouncementKind, Client, ClientOptions, Sniffer, StallRecorder, both_held_ns,
};
use ha_tests::web::Web;

const FLOATING: &str = "198.51.100.10";
const WAIT: Duration = Duration::from_secs(10);

/// Two hosts and a client on one bridge.
fn small_bed() -> Result<Bed> {
    let mut bed = Bed::new()?;
    bed.bridge("svc")?;
    for (host, number) in [("alpha", 1), ("beta", 2), (CLIENT, 100)] {
        bed.host(host)?;
        let v4 = format!("198.51.100.{number}/24");
        let v6 = format!("2001:db8:1::{number}/64");
        bed.plug(host, "eth0", "svc", &[&v4, &v6])?;
    }
    Ok(bed)
}

fn webs(bed: &Bed) -> Result<Vec<Web>> {
    ["alpha", "beta"]
        .iter()
        .map(|host| {
            Web::start(&*bed.netns(host)?, &bed.directory().join(format!("{host}-web")), host)
        })
        .collect()
}

fn put(netns: &Netns) -> Result<()> {
    netns.ip(&["address", "add", &format!("{FLOATING}/24"), "dev", "eth0"]).map(drop)
}

fn take(netns: &Netns) -> Result<()> {
    netns.ip(&["address", "del", &format!("{FLOATING}/24"), "dev", "eth0"]).map(drop)
}

fn floating() -> Result<IpAddr> {
    Ok(FLOATING.parse()?)
}

/// A gratuitous ARP request for `FLOATING`, sent from inside of `netns` by a packet socket.
fn announce(netns: &Netns, mac: &str) -> Result<()> {
    use socket2::{Domain, Socket, Type};
    let mac: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let mut frame = vec![0xff; 6];
    frame.extend(&mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(&mac);
    frame.extend([198, 51, 100, 10, 0, 0, 0, 0, 0, 0, 198, 51, 100, 10]);
    netns.run(|| {
        // Bound to its interface by hand: socket2 has no address type for packets.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &eth0_address()?)?;
        socket.send(&frame)?;
        Ok(())
    })
}

/// The link address of eth0 in the calling thread's namespace.
fn eth0_address() -> Result<nix::sys::socket::LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == "eth0")
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .context("eth0 has no link address")
}

fn names_with(prefix: &str) -> Vec<String> {
    ["/run/netns", &std::env::temp_dir().to_string_lossy()]
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn is_mounted_below(directory: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.contains(&directory.display().to_string()))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_dropped_bed_leaves_nothing() -> Result<()> {
    let bed = small_bed()?;
    let webs = webs(&bed)?;
    let node = Node::new(&bed, "alpha")?;
    node.configure("", "auth 1\n1 siphash secret\n")?;
    let (prefix, directory) = (bed.prefix().to_owned(), bed.directory().to_owned());
    ensure!(is_mounted_below(&directory)?, "bpffs is not mounted");
    let pids: Vec<u32> = webs.iter().map(Web::pid).collect();
    // The wrong order on purpose: the world goes first.
    bed.finish()?;
    drop((webs, node));
    ensure!(names_with(&prefix).is_empty(), "left: {:?}", names_with(&prefix));
    ensure!(!is_mounted_below(&directory)?, "bpffs is still mounted");
    for pid in pids {
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "nginx {pid} lives");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_panicking_test_leaves_nothing() -> Result<()> {
    let bed = small_bed()?;
    let prefix = bed.prefix().to_owned();
    let result = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        let _webs = webs(&bed);
        let _bed = bed;
        panic::resume_unwind(Box::new("on purpose"));
    }));
    ensure!(result.is_err());
    ensure!(names_with(&prefix).is_empty(), "left: {:?}", names_with(&prefix));
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_bed_of_a_killed_process_is_removed_by_the_next() -> Result<()> {
    // A process id that was there and is not any more.
    let mut gone = Command::new("true").spawn()?;
    let pid = gone.id();
    gone.wait()?;
    let name = format!("ha{pid}-0-alpha");
    ensure!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    let directory = std::env::temp_dir().join(format!("ha{pid}-0-x"));
    std::fs::create_dir(&directory)?;
    // Stale beds are looked for once per process: this needs one that has not done so yet.
    let harness = std::env::current_exe()?;
    let status = Command::new(harness)
        .args(["--ignored", "--exact", "a_panicking_test_leaves_nothing"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    ensure!(status.success());
    let left = names_with(&format!("ha{pid}-"));
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_interrupted_process_leaves_nothing() -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    let mut other = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "a_client_measures_the_gap_of_a_switch_by_hand"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let prefix = format!("ha{}-", other.id());
    let deadline = monotonic_ns() + 10_000 * MS_NS;
    while names_with(&prefix).len() < 4 && monotonic_ns() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    kill(nix::unistd::Pid::from_raw(other.id().cast_signed()), Signal::SIGINT)?;
    let status = other.wait()?;
    ensure!(status.code() == Some(130), "it ended with {status}");
    ensure!(names_with(&prefix).is_empty(), "left: {:?}", names_with(&prefix));
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_client_measures_the_gap_of_a_switch_by_hand() -> Result<()> {
    let _turn = turn();
    const SILENCE: Duration = Duration::from_millis(300);
    let bed = small_bed()?;
    let _webs = webs(&bed)?;
    let (alpha, beta) = (bed.netns("alpha")?, bed.netns("beta")?);
    let monitors = AddressMonitor::start_pair(&alpha, &beta)?;
    put(&alpha)?;
    let client = Client::start(&bed.netns(CLIENT)?, floating()?, ClientOptions::default())?;
    client.wait_answer("alpha", 0, WAIT)?;
    wait_for("answers", WAIT, || Ok(client.counts().answered > 150))?;
    let start_ns = monotonic_ns();
    take(&alpha)?;
    thread::sleep(SILENCE);
    put(&beta)?;
    announce(&beta, bed.mac("beta", "eth0")?)?;
    let first = client.wait_answer("beta", start_ns, WAIT)?;
    wait_for("more answers", WAIT, || Ok(client.counts().answered > 300))?;
    let gap = client.gap_in(start_ns, monotonic_ns());

    let removed_ns = monitors[0].first_removed(floating()?, start_ns).context("not removed")?;
    let added_ns = monitors[1].first_added(floating()?, start_ns).context("not added")?;
    println!(
        "gap {} ms, removed +{}, added +{}, first answer +{}, {:?}, {} and {}",
        gap.length_ns() / MS_NS,
        (removed_ns - start_ns) / MS_NS,
        (added_ns - start_ns) / MS_NS,
        (first.answered_ns - start_ns) / MS_NS,
        client.counts(),
        client.scheduling(),
        monitors[0].scheduling(),
    );
    ensure!(gap.ended && gap.to_ns == first.answered_ns, "{gap:?} {first:?}");
    ensure!(gap.length_ns() >= added_ns - removed_ns, "shorter than the silence: {gap:?}");
    ensure!(gap.length_ns() < added_ns - removed_ns + 500 * MS_NS, "far too long: {gap:?}");
    ensure!(both_held_ns(&monitors[0], &monitors[1], floating()?, 0, u64::MAX) == 0);
    let counts = client.counts();
    ensure!(counts.timed_out > 100, "requests into the silence time out: {counts:?}");
    bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_client_asks_by_ipv6_too() -> Result<()> {
    let bed = small_bed()?;
    let _webs = webs(&bed)?;
    let address = "2001:db8:1::2".parse()?;
    let client = Client::start(&bed.netns(CLIENT)?, address, ClientOptions::default())?;
    client.wait_answer("beta", 0, WAIT)?;
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_sniffer_sees_announcements_with_sender_and_time() -> Result<()> {
    let bed = small_bed()?;
    let sniffer = Sniffer::start(&*bed.netns(CLIENT)?)?;
    let mac = bed.mac("beta", "eth0")?;
    let before_ns = monotonic_ns();
    announce(&*bed.netns("beta")?, mac)?;
    let after_ns = monotonic_ns();
    wait_for("it", WAIT, || Ok(sniffer.first(floating()?, mac, 0).is_some()))?;
    thread::sleep(Duration::from_millis(200));
    let seen = sniffer.announcements(floating()?, 0);
    ensure!(seen.len() == 1, "{seen:?}");
    ensure!(seen[0].kind == AnnouncementKind::ArpRequest && seen[0].mac_text() == mac);
    // The two clocks are read one after the other: allow for a stop between them.
    let slack_ns = 500 * MS_NS;
    ensure!(seen[0].at_ns + slack_ns >= before_ns && seen[0].at_ns <= after_ns + slack_ns);
    ensure!(sniffer.first(floating()?, bed.mac("alpha", "eth0")?, 0).is_none());
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn every_cut_silences_the_path_and_heals() -> Result<()> {
    let bed = small_bed()?;
    let client = bed.netns(CLIENT)?;
    let alpha = bed.netns("alpha")?;
    for cut in [Cut::Middle, Cut::Cable, Cut::AtNode] {
        for target in ["198.51.100.1", "2001:db8:1::1"] {
            ensure!(reaches_within(&client, target, WAIT)?, "before {cut:?}");
            bed.cut("alpha", "eth0", cut)?;
            ensure!(!reaches(&client, target)?, "{cut:?} lets frames pass");
            let flags = alpha.ip(&["-o", "link", "show", "eth0"])?;
            ensure!(flags.contains("LOWER_UP") == (cut == Cut::Middle), "{cut:?}: {flags}");
            ensure!(flags.contains(",UP") == (cut != Cut::AtNode), "{cut:?}: {flags}");
            bed.heal_all("alpha")?;
            ensure!(reaches_within(&client, target, WAIT)?, "{cut:?} of {target} did not heal");
        }
    }
    bed.finish()
}

/// Whether a TCP connection is answered, be it with a refusal, within half a second.
fn reaches(netns: &Arc<Netns>, target: &str) -> Result<bool> {
    let address = std::net::SocketAddr::new(target.parse()?, 9);
    netns.run(|| {
        let timeout = Duration::from_millis(500);
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        Ok(std::net::TcpStream::connect_timeout(&address, timeout).map_or_else(refused, |_| true))
    })
}

fn reaches_within(netns: &Arc<Netns>, target: &str, time_max: Duration) -> Result<bool> {
    let deadline = monotonic_ns() + u64::try_from(time_max.as_nanos())?;
    while monotonic_ns() < deadline {
        if reaches(netns, target)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
#[ignore = "needs root: real-time priority"]
fn the_stall_recorder_ticks_on_every_cpu() -> Result<()> {
    let recorder = StallRecorder::start()?;
    let start_ns = monotonic_ns();
    thread::sleep(Duration::from_millis(500));
    let end_ns = monotonic_ns();
    let stalls = recorder.stalls_in(start_ns, end_ns, 0);
    println!("{} ticks, {}, {stalls:?}", recorder.ticks(), recorder.scheduling());
    let stalled_ns: u64 = stalls.iter().map(|stall| stall.length_ns).sum();
    // Every millisecond of every CPU is a tick or part of a recorded stall.
    let covered = recorder.ticks() + stalled_ns / MS_NS;
    let expected = recorder.cpus() as u64 * 500;
    ensure!(covered * 10 >= expected * 8, "{covered} of {expected}");
    ensure!(recorder.stalls_in(0, start_ns.saturating_sub(1_000 * MS_NS), 0).is_empty());
    Ok(())
}
