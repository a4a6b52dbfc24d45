//! Kinds of links, each on real packets: real daemons in network namespaces, heartbeats received by
//! the kernel side and by the socket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{
    AUTHKEYS, Cluster, Cut, FLOATING, GROUP, LinkView, Plan, Reception, Status, turn,
};
use ha_tests::clock::monotonic_ns;
use ha_tests::on_both_receptions;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const GAMMA: &str = "gamma";
/// How long anything may take before the scenario has failed.
const STEP: Duration = Duration::from_secs(20);
/// How long a state has to last to count as the end of a story.
const CALM: Duration = Duration::from_secs(1);

on_both_receptions! {
    heartbeats_travel_by_ipv4_multicast,
    heartbeats_travel_by_ipv6_multicast,
    heartbeats_travel_by_broadcast,
    three_nodes_share_one_multicast_link_without_a_word_of_attack,
    links_by_arrival_need_no_common_name_of_the_interface,
    three_nodes_share_unicast_links_by_arrival,
    links_of_all_kinds_between_the_same_two_nodes_fail_one_by_one,
    a_link_that_works_in_one_direction_is_recognised_and_recovers,
    an_owner_that_nobody_hears_gives_the_group_up_to_who_took_it,
}

/// Two nodes at the product's default timing, with these links and no other.
fn plan(links: &str) -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(200),
        link_hb: false,
        link_svc: false,
        web: false,
        more: links.to_owned(),
        ..Plan::default()
    }
}

fn receive(via: Reception) -> String {
    format!("receive = \"{}\"", via.via())
}

fn link(name: &str, via: Reception, lines: &str) -> String {
    format!("\n[links.{name}]\n{}\n{lines}", receive(via))
}

fn view<'s>(status: &'s Status, peer: &str, link: &str) -> Result<&'s LinkView> {
    status.link(peer, link).with_context(|| format!("no link {link} to {peer}: {:#}", status.raw))
}

/// Every link of every node is received as wanted, gets heartbeats, and has refused nothing so far.
fn expect_sound(cluster: &Cluster, via: Reception) -> Result<()> {
    for node in &cluster.nodes {
        let status = node.status()?;
        for link in status.nodes.iter().flat_map(|peer| &peer.links) {
            ensure!(link.via == via.via(), "{}: {} by {}", node.name(), link.name, link.via);
            ensure!(link.received > 0, "{}: nothing on {}", node.name(), link.name);
            ensure!(link.rejected == 0, "{}: {} refused: {:#}", node.name(), link.name, status.raw);
        }
        for reason in ["wrong-receiver", "bad-tag", "unknown-peer", "old-sequence", "bad-version"] {
            ensure!(status.packets(reason) == 0, "{}: {reason}: {:#}", node.name(), status.raw);
        }
    }
    Ok(())
}

/// Every link has measured a round trip that is possible here.
fn expect_round_trips(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let measured = |status: &Status| {
            let nodes = status.raw["nodes"].as_array().into_iter().flatten();
            let links: Vec<_> =
                nodes.flat_map(|node| node["links"].as_array().into_iter().flatten()).collect();
            !links.is_empty()
                && links.iter().all(|link| {
                    let figure = |name: &str| link[name].as_u64();
                    let (last, min) = (figure("rtt_us"), figure("rtt_min_us"));
                    // 0 to 1 s: under a microsecond is no path, more is not this machine's.
                    min.is_some_and(|min| (1..1_000_000).contains(&min))
                        && last >= min
                        && figure("rtt_smoothed_us") >= min
                })
        };
        node.wait_until("round trips on every link", STEP, measured)?;
    }
    Ok(())
}

/// The owner dies for good: the next candidate takes over, and it comes back.
fn fail_over_and_back(cluster: &mut Cluster) -> Result<()> {
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    // The obituary travels on the same links.
    let gone = cluster.node(BETA)?.wait_event("daemon-gone", at_ns, STEP)?;
    ensure!(gone.message.contains("keeper"), "{gone:?}");
    cluster.node(BETA)?.wait_until("the group", STEP, |status| status.runs_on(GROUP, BETA))?;
    cluster.start()
}

fn works(via: Reception, lines: &str) -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(plan(&link("only", via, lines)))?;
    expect_sound(&cluster, via)?;
    expect_round_trips(&cluster)?;
    fail_over_and_back(&mut cluster)?;
    cluster.finish()
}

fn heartbeats_travel_by_ipv4_multicast(via: Reception) -> Result<()> {
    works(via, "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"225.0.0.1\"\nport = 695\n")
}

fn heartbeats_travel_by_ipv6_multicast(via: Reception) -> Result<()> {
    works(via, "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"ff12::694\"\n")
}

fn heartbeats_travel_by_broadcast(via: Reception) -> Result<()> {
    works(via, "kind = \"bcast\"\ninterface = \"hb0\"\n")
}

fn three_nodes_share_one_multicast_link_without_a_word_of_attack(via: Reception) -> Result<()> {
    let _turn = turn();
    // With loopback each host hears itself too.
    let lines = "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"239.1.2.3\"\nloopback = true\n";
    let mut plan = plan(&link("only", via, lines));
    plan.nodes.push(GAMMA.to_owned());
    let mut cluster = Cluster::started(plan)?;
    expect_sound(&cluster, via)?;
    for node in &cluster.nodes {
        let what = "datagrams for another";
        node.wait_until(what, STEP, |status| status.packets("for-another") > 0)?;
    }
    fail_over_and_back(&mut cluster)?;
    cluster.finish()
}

/// As Heartbeat's ha.cf has it: the same file on both nodes but for the interface, which each names
/// as it is called there.
fn links_by_arrival_need_no_common_name_of_the_interface(via: Reception) -> Result<()> {
    let _turn = turn();
    let arrival = |name: &str, lines: &str| {
        link(name, via, &format!("identity = \"arrival\"\ninterface = \"hb0\"\n{lines}"))
    };
    let links = [
        arrival("u", "kind = \"ucast\"\nremotes = [\"192.0.2.1\", \"192.0.2.2\"]\n"),
        arrival("m", "kind = \"mcast\"\ngroup = \"225.0.0.1\"\n"),
        arrival("b", "kind = \"bcast\"\n"),
    ];
    let mut cluster = Cluster::build(plan(&links.concat()))?;
    let beta = cluster.node(BETA)?;
    for arguments in [
        ["link", "set", "hb0", "down"].as_slice(),
        &["link", "set", "hb0", "name", "other7"],
        &["link", "set", "other7", "up"],
    ] {
        beta.netns().ip(arguments)?;
    }
    let text = cluster.plan.config(&beta.authkeys_path());
    let text = text.replace("interface = \"hb0\"", "interface = \"other7\"");
    // The names of the links are nobody's business but each node's own.
    let text = text.replace("links.u", "links.u2").replace("links.b", "links.a2");
    beta.configure(&text, AUTHKEYS)?;
    cluster.start()?;
    expect_sound(&cluster, via)?;
    expect_round_trips(&cluster)?;
    fail_over_and_back(&mut cluster)?;
    cluster.finish()
}

fn three_nodes_share_unicast_links_by_arrival(via: Reception) -> Result<()> {
    let _turn = turn();
    let lines = "kind = \"ucast\"\nidentity = \"arrival\"\ninterface = \"hb0\"\n\
                 remotes = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"]\n";
    let mut plan = plan(&link("only", via, lines));
    plan.nodes.push(GAMMA.to_owned());
    let mut cluster = Cluster::started(plan)?;
    expect_sound(&cluster, via)?;
    fail_over_and_back(&mut cluster)?;
    cluster.finish()
}

fn links_of_all_kinds_between_the_same_two_nodes_fail_one_by_one(via: Reception) -> Result<()> {
    let _turn = turn();
    // Three kinds on one interface and one port, a fourth elsewhere with times of its own.
    let slow = "keepalive = \"200ms\"\ndeadtime = \"1s\"\n";
    let links = [
        link("m4", via, "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"225.0.0.1\"\n"),
        link("m6", via, "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"ff12::694\"\n"),
        link("b4", via, &format!("kind = \"bcast\"\ninterface = \"eth0\"\n{slow}")),
    ];
    let mut plan = plan(&links.concat());
    plan.link_hb = true;
    plan.link_lines = vec![receive(via)];
    let cluster = Cluster::started(plan)?;
    expect_sound(&cluster, via)?;
    let failures = |status: &Status| {
        let links = status.raw["nodes"].as_array().into_iter().flatten();
        let links: Vec<_> =
            links.flat_map(|node| node["links"].as_array().into_iter().flatten()).collect();
        ["hb0", "m4", "m6", "b4"].map(|link| {
            let named = links.iter().filter(|it| it["name"] == link);
            named.filter_map(|it| it["failures"].as_u64()).sum::<u64>()
        })
    };
    // With sockets a stop of a CPU may have cost some before.
    let before =
        [failures(&cluster.node(ALPHA)?.status()?), failures(&cluster.node(BETA)?.status()?)];
    ensure!(via == Reception::Socket || before == [[0; 4]; 2], "{before:?}");
    let from_ns = monotonic_ns();
    cluster.bed.cut(BETA, "hb0", Cut::Middle)?;
    for ((node, peer), before) in [(ALPHA, BETA), (BETA, ALPHA)].into_iter().zip(before) {
        let node = cluster.node(node)?;
        let dead = |status: &Status| {
            ["hb0", "m4", "m6"]
                .iter()
                .all(|link| status.link(peer, link).is_some_and(|link| link.state == "dead"))
        };
        let status = node.wait_until("three dead links", STEP, dead)?;
        ensure!(status.node_state(peer) == "up", "{peer}: {}", status.node_state(peer));
        ensure!(view(&status, peer, "b4")?.state == "up");
        let failed: Vec<u64> =
            failures(&status).iter().zip(before).map(|(now, before)| now - before).collect();
        ensure!(failed == [1, 1, 1, 0], "{failed:?}");
        let events = node.events()?;
        let dead = events.iter().filter(|it| it.kind == "link-dead" && it.monotonic_ns >= from_ns);
        ensure!(dead.count() == 3, "{events:?}");
        ensure!(!events.iter().any(|it| it.kind == "node-dead"), "{events:?}");
    }
    cluster.bed.heal(BETA, "hb0")?;
    cluster.wait_settled(ALPHA)?;
    // The peer's own keepalive is told per link.
    let status = cluster.node(ALPHA)?.status()?;
    let links = status.raw["nodes"][1]["links"].as_array().context("no links")?.clone();
    let keepalive = |name: &str| {
        links.iter().find(|it| it["name"] == name).map(|it| it["peer_keepalive_us"].clone())
    };
    ensure!(keepalive("b4") == Some(200_000.into()), "{links:?}");
    ensure!(keepalive("m4") == Some(50_000.into()), "{links:?}");
    cluster.finish()
}

/// Beta's host drops what comes in on one link; alpha hears beta and is told that it is not heard.
fn a_link_that_works_in_one_direction_is_recognised_and_recovers(via: Reception) -> Result<()> {
    let _turn = turn();
    let links = link("m", via, "kind = \"mcast\"\ninterface = \"hb0\"\ngroup = \"225.0.0.1\"\n");
    let mut plan = plan(&links);
    plan.link_svc = true;
    plan.link_lines = vec![receive(via)];
    let cluster = Cluster::started(plan)?;
    let from_ns = monotonic_ns();
    let filter = OneWay::at(&cluster, ALPHA)?;
    let alpha = cluster.node(ALPHA)?;
    let what = |state: &'static str| {
        move |status: &Status| status.link(BETA, "m").is_some_and(|link| link.state == state)
    };
    let status = alpha.wait_until("a one-way link", STEP, what("one-way"))?;
    ensure!(status.node_state(BETA) == "up", "{}", status.node_state(BETA));
    let told = alpha.wait_event("link-one-way", from_ns, STEP)?;
    ensure!(told.link.as_deref() == Some("m") && told.node.as_deref() == Some(BETA), "{told:?}");
    let status = cluster.node(BETA)?.wait_until("a dead link", STEP, |status| {
        status.link(ALPHA, "m").is_some_and(|link| link.state == "dead")
    })?;
    ensure!(status.node_state(ALPHA) == "up" && status.runs_on(GROUP, ALPHA));
    std::thread::sleep(CALM);
    let healed_ns = monotonic_ns();
    filter.remove()?;
    alpha.wait_until("both directions", STEP, what("up"))?;
    alpha.wait_event("link-both-ways", healed_ns, STEP)?;
    cluster.finish()
}

/// With no other link: beta hears nothing and takes over; alpha hears it say so.
fn an_owner_that_nobody_hears_gives_the_group_up_to_who_took_it(via: Reception) -> Result<()> {
    let _turn = turn();
    let lines = "kind = \"bcast\"\ninterface = \"hb0\"\n";
    let mut plan = plan(&link("only", via, lines));
    plan.failback = false;
    let cluster = Cluster::started(plan)?;
    let filter = OneWay::at(&cluster, ALPHA)?;
    let beta = cluster.node(BETA)?;
    let status = beta.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    ensure!(status.node_state(ALPHA) == "dead", "{}", status.node_state(ALPHA));
    let alpha = cluster.node(ALPHA)?;
    let status = alpha.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    ensure!(status.node_state(BETA) == "up", "{}", status.node_state(BETA));
    ensure!(!alpha.has_address(FLOATING.parse()?)?, "the address is on both");
    filter.remove()?;
    cluster.wait_settled(BETA)?;
    cluster.finish()
}

/// What a host sends on hb0 is lost.
struct OneWay<'c> {
    cluster: &'c Cluster,
    node: &'static str,
}

impl<'c> OneWay<'c> {
    fn at(cluster: &'c Cluster, node: &'static str) -> Result<Self> {
        let it = Self { cluster, node };
        it.tc(&["qdisc", "add", "dev", "hb0", "clsact"])?;
        // "Return 2", which is TC_ACT_SHOT.
        it.tc(&["filter", "add", "dev", "hb0", "egress", "bpf", "bytecode", "1,6 0 0 2,", "da"])?;
        Ok(it)
    }

    fn remove(&self) -> Result<()> {
        self.tc(&["qdisc", "del", "dev", "hb0", "clsact"])
    }

    fn tc(&self, arguments: &[&str]) -> Result<()> {
        self.cluster.node(self.node)?.netns().tc(arguments).map(drop)
    }
}
