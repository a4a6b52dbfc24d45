//! Other networks than IPv4 on an Ethernet interface whose driver can do everything.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{AUTHKEYS, Cluster, FLOATING_V6, Plan, Reception, turn_with_others};
use ha_tests::observe::{AnnouncementKind, Client, ClientOptions};
use ha_tests::on_both_receptions;

use crate::support::{ALPHA, BETA, STEP, Watch, finish, plan, started, started_by};

/// The tag of the VLAN.
const VLAN: &str = "100";

on_both_receptions! {
    everything_works_by_ipv6,
}

fn everything_works_by_ipv6(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| {
        plan.links_v6 = true;
        plan.floating_v6 = true;
    })?;
    let address = FLOATING_V6.parse()?;
    let client = Client::start(&cluster.client()?, address, ClientOptions::default())?;
    client.wait_answer(ALPHA, 0, STEP)?;

    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(!cluster.node(ALPHA)?.has_address(address)?, "{address} is still on alpha");
    let mac = cluster.bed.mac(BETA, "eth0")?;
    let seen = watch.sniffer.first(address, mac, at_ns).context("beta announces nothing")?;
    ensure!(seen.kind == AnnouncementKind::Neighbour, "{seen:?}");

    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, ha_tests::clock::monotonic_ns(), STEP)?;
    watch.expect_never_double(at_ns)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_vlan_interface_is_received_in_a_lesser_way_with_its_reason_and_fails_over() -> Result<()> {
    let _turn = turn_with_others();
    let arguments = ["link", "hb0", "name", "hb0.100", "type", "vlan", "id", VLAN];
    without_native_xdp("hb0.100", &arguments)
}

/// As the VLAN, with another kind of interface on top of another: every kernel has one of the two.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_macvlan_interface_is_received_in_a_lesser_way_with_its_reason_and_fails_over() -> Result<()> {
    let _turn = turn_with_others();
    let arguments = ["link", "hb0", "name", "hb0v", "type", "macvlan", "mode", "bridge"];
    without_native_xdp("hb0v", &arguments)
}

/// Heartbeats travel on one link only, an interface on top of hb0.
fn without_native_xdp(interface: &str, arguments: &[&str]) -> Result<()> {
    let mut cluster = Cluster::build(Plan { link_svc: false, ..plan() })?;
    for (node, number) in cluster.nodes.iter().zip(1..) {
        let (netns, address) = (node.netns(), format!("203.0.113.{number}"));
        // Both interfaces are on one segment: hb0 must not answer for what is on the other one.
        netns.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        match netns.ip(&[&["link", "add"], arguments].concat()) {
            Err(error) if format!("{error:#}").contains("Unknown device type") => {
                // Not captured by the harness: what was not tested must be seen.
                writeln!(
                    std::io::stderr(),
                    "NOT TESTED {interface}: this kernel has no such kind"
                )?;
                return Ok(());
            }
            added => added?,
        };
        netns.ip(&["address", "add", &format!("{address}/24"), "dev", interface])?;
        netns.ip(&["link", "set", interface, "up"])?;
    }
    for node in &cluster.nodes {
        let text = cluster.plan.config(&node.authkeys_path());
        let text = text.replace("interface = \"hb0\"", &format!("interface = \"{interface}\""));
        node.configure(&text.replace("\"192.0.2.", "\"203.0.113."), AUTHKEYS)?;
    }
    let watch = Watch::start(&cluster)?;
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    let status = cluster.node(BETA)?.status()?;
    let link = status.link(ALPHA, "hb0").context("no link hb0")?;
    ensure!(["xdp-generic", "tc"].contains(&link.via.as_str()), "via {}", link.via);
    ensure!(link.via_reason.contains("xdp-native"), "reason: {:?}", link.via_reason);
    let noted = cluster.node(BETA)?.wait_event("reception", 0, STEP)?;
    ensure!(noted.message.contains(&link.via_reason), "{noted:?}");
    fail_over_and_back(cluster, watch)
}

/// An operator who wants TC gets it, and it goes with the daemon.
#[test]
#[ignore = "needs root: network namespaces"]
fn reception_by_tc_fails_over_and_leaves_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let lines = vec!["receive = \"tc\"".to_owned()];
    let (cluster, watch) = started(Plan { link_lines: lines, ..plan() })?;
    let status = cluster.node(BETA)?.status()?;
    ensure!(status.link(ALPHA, "hb0").is_some_and(|link| link.via == "tc"), "not via tc");
    fail_over_and_back(cluster, watch)
}

fn fail_over_and_back(mut cluster: Cluster, watch: Watch) -> Result<()> {
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(at_ns)?;
    watch.expect_answers_since(at_ns)?;
    // What the killed instance left attached was taken over, not taken for a stranger's.
    let status = cluster.node(ALPHA)?.status()?;
    for link in status.nodes.iter().flat_map(|node| &node.links) {
        ensure!(!link.via_reason.contains("another program"), "reason: {:?}", link.via_reason);
    }
    finish(cluster, watch)
}
