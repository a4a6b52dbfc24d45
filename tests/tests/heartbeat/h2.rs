//! H2: Heartbeat over a serial line only. The line carries 19,200 bits per second and no more, and
//! there is no network path for heartbeats at all.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{End, Status};
use ha_tests::clock::{monotonic_ns, wait_for};

use crate::support::{FLOATING, Times, World, serial_port};

/// As they stand in the file.
const LITERAL: Times = Times {
    keepalive: "1",
    warntime: "5",
    deadtime: "15",
    initdead: "60",
    patience: Duration::from_secs(90),
};
const SHORT: Times = Times {
    keepalive: "250ms",
    warntime: "700ms",
    deadtime: "1500ms",
    initdead: "5",
    patience: Duration::from_secs(30),
};

const NODES: [&str; 2] = ["n1.localdomain", "n2.localdomain"];
const N1: &str = NODES[0];
const N2: &str = NODES[1];
const BAUD: u32 = 19_200;
const KEYS: &str = "auth 1\n1 sha1 key-of-the-serial-line\n";
/// Bytes of a million that are disturbed: about every tenth heartbeat is lost.
const NOISE_PPM: u32 = 1_000;
/// What arrives in the middle of a frame and belongs to none.
const RUBBISH: [u8; 48] = [0xa5; 48];

fn ha_cf(device: &str, times: Times) -> String {
    let Times { keepalive, deadtime, warntime, initdead, .. } = times;
    format!(
        "serial {device}\nbaud {BAUD}\nauto_failback on\nautojoin none\nwarntime {warntime}\n\
         deadtime {deadtime}\ninitdead {initdead}\nkeepalive {keepalive}\n\
         node n1.localdomain\nnode n2.localdomain\n"
    )
}

/// Two machines with a null modem between them, and the files of the scenario; nothing runs.
fn configured(times: Times) -> Result<World> {
    let mut world = World::new(&NODES)?;
    world.lay_serial_line(BAUD)?;
    for name in NODES {
        let device = serial_port(world.node(name)?).display().to_string();
        let resources = format!("n1.localdomain {FLOATING} httpd\n");
        world.configure(name, &ha_cf(&device, times), &resources, KEYS)?;
    }
    Ok(world)
}

/// What that node calls the line: its device, as `/dev/ttyS0` is `ttyS0`.
fn link(world: &World, name: &str) -> Result<String> {
    let status = world.node(name)?.status()?;
    let mut links = status.nodes.iter().flat_map(|node| &node.links).map(|link| &link.name);
    let link = links.next().with_context(|| format!("{name} has no link"))?;
    ensure!(links.next().is_none() && link.ends_with("ttyS0"), "{name}: {:#}", status.raw);
    Ok(link.clone())
}

/// Kill one machine, the page moves; start it again, the page moves back; the log tells why.
fn procedure(times: Times) -> Result<()> {
    let mut world = configured(times)?;
    world.start()?;
    world.expect_page(N1, times.patience)?;
    for name in NODES {
        let story = ["Local status now set to: 'active'", "Initial resource acquisition complete"];
        world.expect_log(name, 0, &story)?;
    }
    let [at_n1, at_n2] = [link(&world, N1)?, link(&world, N2)?];
    let from = world.log_length(N2)?;
    world.power_off(N1)?;
    world.expect_page(N2, times.patience)?;
    let story = [
        &format!("Link n1.localdomain:{at_n2} dead."),
        "node n1.localdomain: is dead",
        "Resources being acquired from n1.localdomain.",
        "mach_down takeover complete",
    ];
    world.expect_log(N2, from, &story)?;

    let [from_n1, from_n2] = [world.log_length(N1)?, world.log_length(N2)?];
    world.power_on(N1)?;
    world.expect_page(N1, times.patience)?;
    let story = [
        "Heartbeat restart on node n1.localdomain",
        &format!("Link n1.localdomain:{at_n2} up."),
        "Status update for node n1.localdomain: status up",
        "Status update for node n1.localdomain: status active",
        "back to n1.localdomain",
        "Local resources released",
        "remote resource transition completed.",
    ];
    world.expect_log(N2, from_n2, &story)?;
    let story = [
        &format!("Link n2.localdomain:{at_n1} up."),
        "Local status now set to: 'active'",
        "Resources being acquired from n2.localdomain.",
        "Local Resource acquisition completed.",
    ];
    world.expect_log(N1, from_n1, &story)?;
    world.expect_never_double()?;
    world.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn killed_and_started_again_with_the_literal_times() -> Result<()> {
    procedure(LITERAL)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn killed_and_started_again() -> Result<()> {
    procedure(SHORT)
}

/// A figure of the serial line as `name` shows it.
fn figure(world: &World, name: &str, figure: &str) -> Result<u64> {
    let status = world.node(name)?.status()?;
    let peer = status.nodes.iter().position(|node| node.name != name).context("no peer")?;
    let figures = &status.raw["nodes"][peer]["links"][0]["serial"];
    figures[figure].as_u64().with_context(|| format!("{name} has no {figure}: {:#}", status.raw))
}

fn wait_figure(
    world: &World,
    name: &str,
    what: &str,
    least: u64,
    patience: Duration,
) -> Result<()> {
    let wanted = format!("{what} of {name} at {least}");
    wait_for(&wanted, patience, || Ok(figure(world, name, what)? >= least))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn noise_on_the_line_causes_no_verdict() -> Result<()> {
    let mut world = configured(SHORT)?;
    world.start()?;
    world.expect_page(N1, SHORT.patience)?;
    let both_up =
        |it: &Status| NODES.iter().all(|name| *name == it.node || it.node_state(name) == "up");
    for name in NODES {
        world.node(name)?.wait_until("both up", SHORT.patience, both_up)?;
    }
    let at_ns = monotonic_ns();
    for end in [End::First, End::Second] {
        world.modem()?.set_noise(end, NOISE_PPM);
        world.modem()?.inject(end, &RUBBISH);
    }
    for name in NODES {
        let (bad, frames) = (figure(&world, name, "bad_frames")?, figure(&world, name, "frames")?);
        wait_figure(&world, name, "bad_frames", bad + 3, SHORT.patience)?;
        wait_figure(&world, name, "frames", frames + 20, SHORT.patience)?;
    }
    world.expect_page(N1, SHORT.patience)?;
    for name in NODES {
        let verdicts = ["node-dead", "daemon-gone", "node-left", "node-restarted", "takeover"];
        let events = world.node(name)?.events()?;
        let mut since = events.iter().filter(|event| event.monotonic_ns >= at_ns);
        let verdict = since.find(|event| verdicts.contains(&event.kind.as_str()));
        ensure!(verdict.is_none(), "{name}: {verdict:?}");
    }
    for end in [End::First, End::Second] {
        world.modem()?.set_noise(end, 0);
    }
    world.expect_never_double()?;
    world.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn authkeys_readable_by_others_are_refused() -> Result<()> {
    let mut world = configured(SHORT)?;
    let node = world.node_mut(N1)?;
    let keys = node.config_path().join("authkeys");
    for mode in [0o644, 0o640, 0o604] {
        set_permissions(&keys, Permissions::from_mode(mode))?;
        node.start()?;
        let status = node.wait_exit(Duration::from_secs(10))?;
        ensure!(!status.success(), "mode {mode:o}: the daemon started");
        let log = node.log_tail(20);
        let (mode, remedy) = (format!("{mode:o}"), format!("chmod 600 {}", keys.display()));
        ensure!(log.contains(&mode) && log.contains(&remedy), "{log}");
        ensure!(!log.contains("key-of-the-serial-line"), "the key is in the log: {log}");
    }
    set_permissions(&keys, Permissions::from_mode(0o600))?;
    world.start()?;
    world.expect_page(N1, SHORT.patience)?;
    world.finish()
}
