//! Who answers probes, in namespaces with real daemons: what each node finds out about the ways of its
//! peer, and the kernel of a peer whose daemon is stopped (SIGSTOP), which goes on answering;
//! that nobody is asked while all is well; and a crowd that asks one node at once.

#[path = "probes/calm.rs"]
mod calm;
#[path = "probes/crowd.rs"]
mod crowd;

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::wire::{Fixed, Header, Kind, Phase, Way, layers, name_id};
use ha_daemon::io::interrupted::uninterrupted;
use ha_tests::bed::{Cluster, Plan, Status, turn_with_others};
use ha_tests::bpf::{self, BpfFs, ProgramKind};
use ha_tests::clock::monotonic_ns;
use ha_tests::rogue::{cluster_key, signed};
use nix::sys::signal::Signal;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
/// How long anything may take before the scenario has failed.
const STEP: Duration = Duration::from_secs(20);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const PORT: u16 = 694;

const UCAST: &str = "";
const MCAST: &str = "[links.one]\nkind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"225.0.0.1\"\n";
const MCAST_V6: &str =
    "[links.one]\nkind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"ff12::694\"\n";
const BCAST: &str = "[links.one]\nkind = \"bcast\"\ninterface = \"hb0\"\n";

/// Two nodes on one link: unicast on hb0, or what `link` says.
fn plan(receive: &str, link: &str, v6: bool) -> Plan {
    let receive = format!("receive = \"{receive}\"");
    let more = link.replace("interface", &format!("{receive}\ninterface"));
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(200),
        link_hb: link.is_empty(),
        link_svc: false,
        links_v6: v6,
        web: false,
        link_lines: vec![receive],
        more: format!("\n{more}"),
        ..Plan::default()
    }
}

fn answers_via(status: &Status, peer: &str) -> Vec<String> {
    let nodes = status.raw["nodes"].as_array().into_iter().flatten();
    let links = nodes.filter(|node| node["name"] == peer).filter_map(|it| it["links"].as_array());
    let ways = links.flatten().filter_map(|link| link["answers_via"].as_array()).flatten();
    ways.filter_map(|way| way.as_str().map(str::to_owned)).collect()
}

/// Native XDP sends a packet back through a veth only if the other end has a program too.
fn let_xdp_through(cluster: &Cluster, place: &BpfFs) -> Result<()> {
    /// XDP_PASS.
    const PASS: i32 = 2;
    let path = place.root().join("pass");
    bpf::pin(&bpf::constant_program(ProgramKind::Xdp, "pass", PASS)?, &path)?;
    let path = path.display().to_string();
    let switch = cluster.bed.switch();
    let ports = switch.ip(&["-o", "link", "show", "type", "veth"])?;
    for line in ports.lines() {
        let name = line.split_whitespace().nth(1).unwrap_or_default();
        let port = name.split(['@', ':']).next().unwrap_or_default();
        switch.ip(&["link", "set", "dev", port, "xdpdrv", "pinned", &path])?;
    }
    Ok(())
}

fn expect_ways(cluster: &Cluster, expected: &[&str]) -> Result<()> {
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let node = cluster.node(node)?;
        let found = node.wait_until("the ways of its peer", STEP, |status| {
            answers_via(status, peer) == expected
        });
        let status = node.status()?;
        found.with_context(|| format!("{:?} is not {expected:?}", answers_via(&status, peer)))?;
        for reason in ["bad-tag", "bad-kind", "unknown-peer", "old-sequence"] {
            ensure!(status.packets(reason) == 0, "{reason}: {:#}", status.raw);
        }
    }
    Ok(())
}

/// Asks beta as alpha would, from another port: the answer comes back there.
fn ask(cluster: &Cluster, way: Way, link: &str, v6: bool) -> Result<Option<Header>> {
    let alpha = cluster.node(ALPHA)?;
    let status = alpha.status()?;
    let own = status.nodes.iter().find(|it| it.name == ALPHA).context("no alpha")?.incarnation;
    let header = Header {
        kind: Kind::Probe,
        cluster: name_id("bed"),
        sender: name_id(ALPHA),
        receiver: name_id(BETA),
        link: name_id(link),
        key: 1,
        way,
        body_bytes: 0,
        incarnation: own,
        echo: status.nodes.iter().find(|it| it.name == BETA).context("no beta")?.incarnation,
        // Beyond alpha's own.
        sequence: monotonic_ns(),
        sent_ns: monotonic_ns(),
        keepalive_us: 0,
        generation: 0,
        phase: Phase::Active,
        layers: 0,
        lease_age_ms: 0,
        key_offered: 0,
    };
    let (from, to) = if v6 {
        ("[2001:db8:2::1]:0", format!("[2001:db8:2::2]:{PORT}"))
    } else {
        ("192.0.2.1:0", format!("192.0.2.2:{PORT}"))
    };
    let socket = alpha.netns().run(|| Ok(UdpSocket::bind(from)?))?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.send_to(&signed(&header, &cluster_key(), &[]), &to)?;
    let mut answer = [0; 200];
    let Ok((length, source)) = uninterrupted(|| socket.recv_from(&mut answer)) else {
        return Ok(None);
    };
    ensure!(source.to_string() == to, "answered from {source}");
    ensure!(length == ha_common::wire::FIXED_BYTES, "{length} bytes");
    let fixed = Fixed::read(&answer[..length], 0).context("too short")?;
    ensure!(cluster_key().verify(&fixed), "not signed");
    let said = Header::decode(&fixed).ok().context("no header")?;
    ensure!((said.sequence, said.sent_ns) == (header.sequence, header.sent_ns), "{said:?}");
    ensure!((said.kind, said.echo) == (Kind::Answer, own), "{said:?}");
    Ok(Some(said))
}

/// The scenario: ways are found, and those of the kernel go on while the daemon is stopped.
fn scenario(receive: &str, link: &str, v6: bool, expected: &[&str]) -> Result<()> {
    let _turn = turn_with_others();
    let place = BpfFs::mount()?;
    let mut cluster = Cluster::build(plan(receive, link, v6))?;
    if expected.contains(&"xdp") && receive == "xdp-native" {
        let_xdp_through(&cluster, &place)?;
    }
    cluster.start()?;
    expect_ways(&cluster, expected)?;
    let beta = nix::unistd::Pid::from_raw(cluster.node(BETA)?.pids()?.0);
    nix::sys::signal::kill(beta, Signal::SIGSTOP)?;
    let stopped_ns = monotonic_ns();
    // Longer than the daemon layer lasts.
    std::thread::sleep(Duration::from_millis(1_200));
    let link = if link.is_empty() { "hb0" } else { "one" };
    for (way, word) in [(Way::Xdp, "xdp"), (Way::Tc, "tc"), (Way::Socket, "socket")] {
        // A frame of the host itself to a group has no unicast endpoint; that is for the ways above.
        let wanted = expected.contains(&word) && way != Way::Socket;
        let mut answer = ask(&cluster, way, link, v6)?;
        // One that comes within 400 us of a question of alpha's daemon is over the limit.
        for _ in 0..4 {
            if answer.is_none() && wanted {
                answer = ask(&cluster, way, link, v6)?;
            }
        }
        let Some(said) = answer.filter(|_| wanted) else {
            ensure!(!wanted, "{receive}, {link}: no answer by {way:?}");
            continue;
        };
        ensure!(said.way == way, "{said:?}");
        let age_ms = (monotonic_ns() - stopped_ns) / 1_000_000;
        let told_ms = u64::from(said.lease_age_ms);
        ensure!(told_ms >= 1_200 && told_ms <= age_ms + 300, "{said:?}, {age_ms} ms");
        ensure!(said.layers & (layers::DAEMON | layers::KERNEL) == layers::KERNEL, "{said:?}");
    }
    nix::sys::signal::kill(beta, Signal::SIGCONT)?;
    for node in &mut cluster.nodes {
        node.stop()?;
    }
    cluster.nodes.clear();
    cluster.bed.finish()
}

macro_rules! scenarios {
    ($($name:ident: $receive:literal, $link:expr, $v6:literal, $expected:expr;)*) => {
        $(#[test]
        #[ignore = "needs root: network namespaces"]
        fn $name() -> Result<()> {
            scenario($receive, $link, $v6, &$expected)
        })*
    };
}

scenarios! {
    native_xdp_answers_where_the_other_end_lets_it: "xdp-native", UCAST, false, ["xdp", "tc", "socket"];
    native_xdp_answers_over_ipv6: "xdp-native", UCAST, true, ["xdp", "tc", "socket"];
    beside_native_xdp_tc_answers_where_the_other_end_does_not: "xdp-native", UCAST, false, ["tc", "socket"];
    beside_native_xdp_tc_answers_over_ipv6: "xdp-native", UCAST, true, ["tc", "socket"];
    generic_xdp_answers: "xdp-generic", UCAST, false, ["xdp", "tc", "socket"];
    tc_alone_answers: "tc", UCAST, false, ["tc", "socket"];
    a_socket_answers_while_its_daemon_runs: "socket", UCAST, false, ["socket"];
    multicast_is_answered_from_the_own_address: "xdp-generic", MCAST, false, ["xdp", "tc", "socket"];
    ipv6_multicast_is_answered_from_the_own_address: "xdp-generic", MCAST_V6, true, ["xdp", "tc", "socket"];
    broadcast_is_answered_from_the_own_address: "xdp-generic", BCAST, false, ["xdp", "tc", "socket"];
}
