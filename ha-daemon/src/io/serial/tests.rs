//! A line against the master of a pseudo-terminal, which stands for the other end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use ha_common::maps::Path as PathKey;
use ha_common::wire::FIXED_BYTES;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use super::*;
use crate::config::NodeIndex;
use crate::io::mailbox::{Inbox, Letter, mailbox};
use crate::io::paths::Serial;

const STEP: Duration = Duration::from_secs(20);

/// A configuration with one serial link, and the path on it.
fn plan(device: &std::path::Path) -> (Config, Vec<Path>) {
    let directory = device.parent().unwrap();
    let key_file = directory.join("authkeys");
    std::fs::write(&key_file, "auth 1\n1 siphash a-word-that-is-long-enough\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[cluster]\nname = \"shop\"\nkeepalive = \"1s\"\ndeadtime = \"15s\"\n\
         auth = {{ file = \"authkeys\" }}\n[links.tty]\nkind = \"serial\"\nbaud = 115200\n\
         device = \"{}\"\n[nodes.alpha]\n[nodes.beta]\n",
        device.display()
    );
    let config = crate::config::parse(&text, &directory.join("ha.toml")).unwrap();
    let path = Path {
        peer: NodeIndex(1),
        link: LinkIndex(0),
        key: PathKey::new(2, config.links[0].id, 1 << 31),
        silence_ns: 0,
        carrier: Carrier::Serial(Serial { device: device.to_owned() }),
    };
    (config, vec![path])
}

/// Plugs a new device in under that path.
fn plug(path: &std::path::Path) -> File {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    symlink(name, path).unwrap();
    File::from(master)
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + STEP;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn news(inbox: &mut Inbox) -> LineNews {
    wait(|| if let Letter::Serial(news) = inbox.take()? { Some(news) } else { None })
}

#[test]
fn heartbeats_messages_and_datagrams_pass_and_a_lost_device_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let device = place.path().join("tty");
    let mut other_end = plug(&device);
    let (config, paths) = plan(&device);
    let (mailbox, mut inbox) = mailbox().unwrap();
    let mut lines = Lines::start(&config, &paths, &mailbox).unwrap();
    let mut beat = lines.take_beat(0).unwrap();

    beat.offer(&[7; FIXED_BYTES]);
    let mut frame = vec![0; framing::HEARTBEAT_FRAME_BYTES];
    other_end.read_exact(&mut frame).unwrap();
    assert_eq!(framing::datagrams_in(&frame), [[7; FIXED_BYTES]]);

    wait(|| lines.get(0).unwrap().counters.open.load(Relaxed).then_some(()));
    let message = vec![9; 200];
    assert!(lines.of_slot(0).unwrap().send(0, b"body", message.clone()));
    let frames = framing::frames(&message, 1);
    let mut stream = vec![0; frames.iter().map(Vec::len).sum()];
    other_end.read_exact(&mut stream).unwrap();
    assert_eq!(framing::datagrams_in(&stream), [message]);

    other_end.write_all(b"noise").unwrap();
    other_end.write_all(&framing::whole(b"datagram").unwrap()).unwrap();
    let arrival = wait(|| lines.arrival());
    assert_eq!((arrival.line, &arrival.datagram[..]), (0, &b"datagram"[..]));
    wait(|| (lines.get(0).unwrap().counters.noise_bytes.load(Relaxed) == 5).then_some(()));

    std::fs::remove_file(&device).unwrap();
    drop(other_end);
    assert!(news(&mut inbox).lost.is_some());
    assert!(!lines.of_slot(0).unwrap().send(0, b"body", vec![1]), "nothing waits for its return");
    let mut other_end = plug(&device);
    assert_eq!(news(&mut inbox), LineNews { line: 0, lost: None });
    beat.offer(&[8; FIXED_BYTES]);
    other_end.read_exact(&mut frame).unwrap();
    assert_eq!(framing::datagrams_in(&frame), [[8; FIXED_BYTES]]);
    assert_eq!(lines.stop(), [""; 0]);
}

#[test]
fn what_waits_is_written_before_a_line_stops() {
    let place = tempfile::tempdir().unwrap();
    let device = place.path().join("tty");
    let mut other_end = plug(&device);
    let (config, paths) = plan(&device);
    let (mailbox, _inbox) = mailbox().unwrap();
    let lines = Lines::start(&config, &paths, &mailbox).unwrap();
    wait(|| lines.get(0).unwrap().counters.open.load(Relaxed).then_some(()));
    let message = vec![9; 1_000];
    assert!(lines.of_slot(0).unwrap().send(0, b"body", message.clone()));
    assert_eq!(lines.stop(), [""; 0]);
    let mut stream = vec![0; framing::frames(&message, 1).iter().map(Vec::len).sum()];
    other_end.read_exact(&mut stream).unwrap();
    assert_eq!(framing::datagrams_in(&stream), [message]);
}

#[test]
fn a_device_that_is_not_there_is_waited_for_unless_it_is_the_only_path() {
    let place = tempfile::tempdir().unwrap();
    let device = place.path().join("tty");
    let (config, mut paths) = plan(&device);
    let (mailbox, mut inbox) = mailbox().unwrap();
    let error = format!("{:#}", Lines::start(&config, &paths, &mailbox).unwrap_err());
    assert!(error.contains("no other path") && error.contains("is not there"), "{error}");

    let mut network = paths[0].clone();
    network.carrier = Carrier::Network(crate::io::paths::Network {
        interface: "lo".parse().unwrap(),
        interface_index: 1,
        entrances: Vec::new(),
        remotes: vec!["127.0.0.2:694".parse().unwrap()],
        own: Vec::new(),
        mac: None,
        ends: None,
    });
    paths.push(network);
    let lines = Lines::start(&config, &paths, &mailbox).unwrap();
    assert!(news(&mut inbox).lost.is_some_and(|cause| cause.contains("is not there")));
    let _other_end = plug(&device);
    assert_eq!(news(&mut inbox).lost, None);
    assert_eq!(lines.stop(), [""; 0]);
}
