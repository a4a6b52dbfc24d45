//! The source address: set with its group, gone with it, and no route is lost.

use anyhow::{Result, ensure};
use ha_tests::bed::{Cluster, Node, turn_with_others};

use crate::support::{ADDRESS, ALPHA, BETA, STEP, finish, group, pair, wait_for, wait_site};

const SOURCE: &str = r#"{ kind = "source-address", address = "198.51.100.20" }"#;
const ELSEWHERE: &str = "203.0.113.1";

/// What the kernel would send to another network from.
fn source(node: &Node) -> Result<String> {
    let routes: serde_json::Value =
        serde_json::from_str(&node.netns().ip(&["-j", "route", "get", ELSEWHERE])?)?;
    Ok(routes[0]["prefsrc"].as_str().unwrap_or_default().to_owned())
}

fn routes(node: &Node) -> Result<Vec<String>> {
    let text = node.netns().ip(&["-4", "route", "show"])?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// A pair whose nodes have a default route and one more through their service interface.
fn routed() -> Result<(Cluster, Vec<Vec<String>>)> {
    let cluster = pair(&[SOURCE], |_| {})?;
    for node in &cluster.nodes {
        for network in ["default", "192.88.99.0/24"] {
            node.netns().ip(&["route", "add", network, "via", "198.51.100.100", "dev", "eth0"])?;
        }
    }
    let before = cluster.nodes.iter().map(routes).collect::<Result<_>>()?;
    Ok((cluster, before))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_a_node_sends_comes_from_the_floating_address_while_it_has_the_group() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, before) = routed()?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    ensure!(source(cluster.node(ALPHA)?)? == ADDRESS, "{:?}", routes(cluster.node(ALPHA)?)?);
    ensure!(source(cluster.node(BETA)?)? == "198.51.100.2");
    let own = cluster.node(ALPHA)?.netns().ip(&["route", "show", "proto", "94"])?;
    ensure!(own.lines().count() == 2, "{own}");
    // Somebody takes it off, and the kernel the routes with it.
    cluster.node(ALPHA)?.netns().ip(&["addr", "del", "198.51.100.20/24", "dev", "eth0"])?;
    wait_for("the address and the routes with it as their source", || {
        Ok(cluster.node(ALPHA)?.netns().ip(&["route", "show", "proto", "94"])? == own)
    })?;
    let events = cluster.node(ALPHA)?.events()?;
    ensure!(events.iter().any(|it| it.kind == "address-restored"), "{events:?}");
    cluster.node_mut(ALPHA)?.stop()?;
    ensure!(routes(cluster.node(ALPHA)?)? == before[0], "{:?}", routes(cluster.node(ALPHA)?)?);
    ensure!(source(cluster.node(ALPHA)?)? == "198.51.100.1");
    wait_site(&mut cluster, BETA)?;
    ensure!(source(cluster.node(BETA)?)? == ADDRESS);
    finish(cluster)
}

/// The kernel drops a route whose source address goes: the host's own has to be there still.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_default_route_survives_the_death_of_the_daemon() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, before) = routed()?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    wait_site(&mut cluster, BETA)?;
    ensure!(routes(cluster.node(ALPHA)?)? == before[0], "{:?}", routes(cluster.node(ALPHA)?)?);
    ensure!(source(cluster.node(ALPHA)?)? == "198.51.100.1");
    // Without keeper it ends with the lifetime of the address.
    cluster.node(BETA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(BETA)?.wait_exit(STEP)?;
    wait_for("the end of the address", || {
        Ok(!cluster.node(BETA)?.has_address(ADDRESS.parse()?)?)
    })?;
    ensure!(routes(cluster.node(BETA)?)? == before[1], "{:?}", routes(cluster.node(BETA)?)?);
    // What killed daemons leave is for their next start.
    cluster.bed.finish()
}

/// The kernel leaves the IPv6 route when its address goes, without the source; a start removes it.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_ipv6_source_address_comes_and_goes_and_a_start_removes_what_is_left() -> Result<()> {
    let _turn = turn_with_others();
    let resources = [
        r#"{ kind = "address", address = "2001:db8:1::20/64", interface = "eth0" }"#,
        r#"{ kind = "source-address", address = "2001:db8:1::20" }"#,
    ];
    let mut cluster = group(&resources, |_| {})?;
    for node in &cluster.nodes {
        let via = ["route", "add", "default", "via", "2001:db8:1::100", "dev", "eth0"];
        node.netns().ip(&[&["-6"], &via[..]].concat())?;
    }
    let routes = |cluster: &Cluster, node: &str| {
        cluster.node(node)?.netns().ip(&["-6", "route", "show", "default"])
    };
    let source = |cluster: &Cluster, node: &str| -> Result<String> {
        let to = ["-6", "-j", "route", "get", "2001:db8:ffff::1"];
        let answer: serde_json::Value =
            serde_json::from_str(&cluster.node(node)?.netns().ip(&to)?)?;
        Ok(answer[0]["prefsrc"].as_str().unwrap_or_default().to_owned())
    };
    let before = routes(&cluster, ALPHA)?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    ensure!(source(&cluster, ALPHA)? == "2001:db8:1::20", "{}", routes(&cluster, ALPHA)?);
    cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    wait_site(&mut cluster, BETA)?;
    ensure!(source(&cluster, ALPHA)? == "2001:db8:1::1", "{}", routes(&cluster, ALPHA)?);
    ensure!(routes(&cluster, ALPHA)? != before, "the kernel has changed: simplify this");
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    ensure!(source(&cluster, ALPHA)? == "2001:db8:1::20", "{}", routes(&cluster, ALPHA)?);
    cluster.node(ALPHA)?.netns().ip(&["addr", "del", "2001:db8:1::20/64", "dev", "eth0"])?;
    wait_for("the address, and a route with it as its source", || {
        Ok(source(&cluster, ALPHA)? == "2001:db8:1::20")
    })?;
    cluster.node_mut(ALPHA)?.stop()?;
    ensure!(routes(&cluster, ALPHA)? == before, "{}", routes(&cluster, ALPHA)?);
    finish(cluster)
}
