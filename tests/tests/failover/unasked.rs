//! A judge that cannot ask the peer that it does not hear: no question leaves it, so it waits for
//! `daemon_deadtime`, and says why and what helps. What the kernel takes has left (a cable without a carrier).

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Cut, Event, GROUP, Reception, turn_with_others};
use ha_tests::clock::monotonic_ns;
use ha_tests::on_both_receptions;

use crate::support::{
    ALPHA, BETA, CALM, DAEMON_DEADTIME, STEP, events, finish, nothing_moved, started_by, takeovers,
    wait_node,
};

on_both_receptions! {
    a_judge_whose_firewall_drops_its_questions_waits_for_daemon_deadtime,
    a_judge_whose_queues_are_full_waits_for_daemon_deadtime,
    a_judge_whose_interfaces_are_down_waits_for_daemon_deadtime,
    a_judge_whose_interfaces_are_deleted_waits_for_daemon_deadtime,
    a_judge_without_a_carrier_has_asked_and_takes_nothing,
}

/// Beta says that it could not ask, why, and what helps; only then, after `daemon_deadtime`, that
/// alpha is dead.
fn expect_unasked(cluster: &Cluster, from_ns: u64, says: &[&str]) -> Result<()> {
    let beta = cluster.node(BETA)?;
    let told = beta.wait_event("could-not-ask", from_ns, STEP)?;
    for word in says {
        ensure!(told.message.contains(word), "does not say {word:?}: {told:?}");
    }
    let first = beta.wait_event("node-dead", from_ns, STEP)?;
    let dead = events(cluster, BETA, "node-dead", from_ns)?;
    ensure!(dead.len() == 1 && told.id < first.id, "{told:?} {dead:?}");
    ensure!(first.node.as_deref() == Some(ALPHA), "{first:?}");
    ensure!(first.message.contains("its kernel could not be asked"), "{first:?}");
    let silence = silence(&first)?;
    ensure!(silence >= DAEMON_DEADTIME, "judged after {silence:?}: {first:?}");
    Ok(())
}

/// Time from the last heartbeat to a verdict, as it says.
fn silence(dead: &Event) -> Result<Duration> {
    let figure = || {
        let (_, rest) = dead.message.split_once("silent on every link for ")?;
        let (figure, _) = rest.split_once(" ms")?;
        figure.parse::<f64>().ok()
    };
    let milliseconds = figure().with_context(|| format!("no silence in {dead:?}"))?;
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

/// Alpha falls silent to a judge on which something lies that no question passes: in the end it judges
/// and takes the group, and when all is healed it stays its only owner.
fn cannot_ask(
    via: Reception,
    obstruct: impl FnOnce(&Cluster) -> Result<()>,
    clear: impl FnOnce(&Cluster) -> Result<()>,
    says: &[&str],
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| plan.failback = false)?;
    let from_ns = monotonic_ns();
    // In this order: no question must leave before.
    obstruct(&cluster)?;
    cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    expect_unasked(&cluster, from_ns, says)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    clear(&cluster)?;
    cluster.bed.heal_all(ALPHA)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(takeovers(&mut cluster, GROUP, from_ns)? == 1, "it was taken more than once");
    finish(cluster, watch)
}

fn a_judge_whose_firewall_drops_its_questions_waits_for_daemon_deadtime(
    via: Reception,
) -> Result<()> {
    let says = ["alpha", "Operation not permitted", "`nft list ruleset`"];
    let nft = |cluster: &Cluster, command| cluster.node(BETA)?.netns().nft(command);
    cannot_ask(
        via,
        |cluster| {
            nft(cluster, "add table ip own")?;
            nft(cluster, "add chain ip own out { type filter hook output priority 0; }")?;
            nft(cluster, "add rule ip own out udp dport 694 drop")
        },
        |cluster| nft(cluster, "delete table ip own"),
        &says,
    )
}

/// Queues that have room for no packet drop each one, and sendto(2) hides that.
fn a_judge_whose_queues_are_full_waits_for_daemon_deadtime(via: Reception) -> Result<()> {
    let interfaces = [("hb0", "192.0.2.1"), ("eth0", "198.51.100.1")];
    cannot_ask(
        via,
        |cluster| {
            let netns = cluster.node(BETA)?.netns();
            for (interface, address) in interfaces {
                // Who is asked is known: what waits for address resolution is in no queue.
                let mac = cluster.bed.mac(ALPHA, interface)?;
                netns.ip(&["neigh", "replace", address, "lladdr", mac, "dev", interface])?;
                netns.tc(&["qdisc", "add", "dev", interface, "root", "bfifo", "limit", "1"])?;
            }
            Ok(())
        },
        |cluster| {
            let netns = cluster.node(BETA)?.netns();
            interfaces.iter().try_for_each(|(interface, _)| {
                netns.tc(&["qdisc", "delete", "dev", interface, "root"]).map(drop)
            })
        },
        &["alpha", "No buffer space", "`tc -s qdisc show dev "],
    )
}

/// Its own interfaces: it cannot ask, and could serve nobody either.
fn a_judge_whose_interfaces_are_down_waits_for_daemon_deadtime(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let from_ns = cluster.bed.cut_all(BETA, Cut::AtNode)?;
    expect_unasked(&cluster, from_ns, &["alpha", "unreachable", "`ip addr show dev "])?;
    thread::sleep(CALM);
    cluster.bed.heal_all(BETA)?;
    cluster.wait_settled(ALPHA)?;
    nothing_moved(&mut cluster, &watch, from_ns)?;
    finish(cluster, watch)
}

fn a_judge_whose_interfaces_are_deleted_waits_for_daemon_deadtime(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let from_ns = monotonic_ns();
    for interface in ["hb0", "eth0"] {
        cluster.node(BETA)?.netns().ip(&["link", "delete", interface])?;
    }
    expect_unasked(&cluster, from_ns, &["alpha", "`ip addr show dev "])?;
    thread::sleep(CALM);
    ensure!(watch.holders() == [ALPHA], "on {:?}", watch.holders());
    ensure!(takeovers(&mut cluster, GROUP, from_ns)? == 0, "it was taken over");
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    finish(cluster, watch)
}

/// A direct cable loses its carrier when the peer loses its power, so what is sent without one counts as
/// asked. That the judge itself is cut off, its service interface tells.
fn a_judge_without_a_carrier_has_asked_and_takes_nothing(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let from_ns = cluster.bed.cut(BETA, "eth0", Cut::Cable)?;
    // Of carriers lost at once the kernel may tell the second one a second later.
    cluster.node(BETA)?.wait_event("interface-down", from_ns, STEP)?;
    cluster.bed.cut(BETA, "hb0", Cut::Cable)?;
    wait_node(&cluster, BETA, ALPHA, "dead")?;
    let unasked = events(&cluster, BETA, "could-not-ask", from_ns)?;
    ensure!(unasked.is_empty(), "{unasked:?}");
    thread::sleep(CALM);
    cluster.bed.heal_all(BETA)?;
    cluster.wait_settled(ALPHA)?;
    nothing_moved(&mut cluster, &watch, from_ns)?;
    finish(cluster, watch)
}
