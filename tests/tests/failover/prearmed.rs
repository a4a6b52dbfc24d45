//! Pre-armed groups: the address is configured everywhere and answered for by its owner alone.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, TcAttachType};
use ha_tests::bed::{
    Cluster, Cut, FLOATING, FLOATING_V6, GROUP, Netns, Plan, Status, turn_with_others,
};
use ha_tests::bpf::{self, BpfFs, ProgramKind};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::{Asker, expect_only};
use nix::sys::signal::Signal;

use crate::lease::Stopped;
use crate::support::{
    ALPHA, BETA, CALM, DAEMON_DEADTIME, GAP_MAX, STEP, Watch, events, finish, floating, plan,
    takeovers, wait_runs,
};

/// A host on the heartbeat network that is no node.
const STRANGER: &str = "stranger";
const ASK_INTERVAL: Duration = Duration::from_millis(5);
const RELOADS: usize = 5;
/// How long a client may be without an answer while the owner is restarted: far above what a loaded
/// machine adds, far below a failover.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Who asks for the floating addresses.
struct Askers {
    arp: Asker,
    neighbours: Asker,
    /// On the heartbeat network, where the address is not: kernels answer there too.
    stranger: Asker,
}

impl Askers {
    fn start(cluster: &Cluster) -> Result<Self> {
        let (client, stranger) = (cluster.client()?, cluster.bed.netns(STRANGER)?);
        let v6 = FLOATING_V6.parse()?;
        Ok(Self {
            arp: Asker::start(&client, "eth0", floating()?, ASK_INTERVAL)?,
            neighbours: Asker::start(&client, "eth0", v6, ASK_INTERVAL)?,
            stranger: Asker::start(&stranger, "hb0", floating()?, ASK_INTERVAL)?,
        })
    }

    /// Nobody but `node` answers, on any network, for a while from now on.
    fn expect_only(&self, cluster: &Cluster, node: &str) -> Result<()> {
        let since_ns = monotonic_ns();
        thread::sleep(CALM);
        let (svc, hb) = (cluster.bed.mac(node, "eth0")?, cluster.bed.mac(node, "hb0")?);
        expect_only(&self.arp, svc, since_ns)?;
        expect_only(&self.neighbours, svc, since_ns)?;
        expect_only(&self.stranger, hb, since_ns)
    }
}

fn is_armed(status: &Status) -> bool {
    let resources = status.raw["groups"][0]["resources"].as_array();
    resources.is_some_and(|all| all.iter().all(|it| it["armed"] == true))
}

/// A pair whose group has an address of either family, with a stranger, settled and armed.
fn started(change: impl FnOnce(&mut Plan)) -> Result<(Cluster, Watch, Askers)> {
    let mut wanted = Plan { prearmed: true, floating_v6: true, ..plan() };
    change(&mut wanted);
    let mut cluster = Cluster::build(wanted)?;
    cluster.bed.host(STRANGER)?;
    cluster.bed.plug(STRANGER, "hb0", "hb", &["192.0.2.100/24"])?;
    let watch = Watch::start(&cluster)?;
    cluster.start()?;
    wait_armed(&cluster)?;
    watch.client.wait_answer(ALPHA, 0, STEP)?;
    let askers = Askers::start(&cluster)?;
    Ok((cluster, watch, askers))
}

fn wait_armed(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        node.wait_until("armed addresses", STEP, is_armed)?;
    }
    Ok(())
}

/// Whether a kernel refuses a connection to a port where nobody listens, which takes one that has the address.
fn reaches(netns: &Netns, address: &str) -> Result<bool> {
    let closed = SocketAddr::new(address.parse()?, 9);
    let outcome = netns.run(|| Ok(TcpStream::connect_timeout(&closed, Duration::from_secs(2))))?;
    Ok(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

fn pings(netns: &Netns, address: &str) -> Result<bool> {
    let mut ping = netns.command("ping")?;
    Ok(ping.args(["-c", "2", "-W", "1", address]).output()?.status.success())
}

/// The group runs on `owner`, whose kernel alone answers.
fn expect_owner(cluster: &mut Cluster, askers: &Askers, owner: &str) -> Result<()> {
    wait_runs(cluster, GROUP, owner)?;
    askers.expect_only(cluster, owner)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn every_node_has_an_armed_address_and_its_owner_alone_answers() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    ensure!(watch.holders() == [ALPHA, BETA], "configured on {:?}", watch.holders());
    expect_owner(&mut cluster, &askers, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;

    // Who knows beta's MAC address gets through to beta's gate and no further, there and back.
    let client = cluster.client()?;
    let beta_mac = cluster.bed.mac(BETA, "eth0")?.to_owned();
    for address in [FLOATING, FLOATING_V6] {
        ensure!(reaches(&client, address)?, "the owner does not answer at {address}");
        let permanent = ["lladdr", &beta_mac, "dev", "eth0", "nud", "permanent"];
        client.ip(&[&["neigh", "replace", address][..], &permanent].concat())?;
        ensure!(!reaches(&client, address)?, "beta answers at {address} behind its closed gate");
        ensure!(address != FLOATING || !pings(&client, address)?, "beta answers a ping");
        client.ip(&["neigh", "del", address, "dev", "eth0"])?;
    }
    ensure!(pings(&client, FLOATING)?, "the owner does not answer a ping");
    // Nor does beta itself reach its own server at the address that alpha owns.
    let address = SocketAddr::new(floating()?, 80);
    let beta = cluster.node(BETA)?.netns();
    let own = beta.run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))))?;
    ensure!(own.is_err(), "beta reaches itself at an address of alpha's");
    // The address is nobody's source unless it is asked for.
    let route = beta.ip(&["route", "get", "198.51.100.100"])?;
    ensure!(route.contains("src 198.51.100.2"), "{route}");
    drop(askers);
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_armed_survivor_answers_when_the_owner_is_cut_off_and_gives_back_when_it_is_healed()
-> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    let mac = cluster.bed.mac(BETA, "eth0")?.to_owned();
    askers.arp.wait_answer(&mac, at_ns, STEP)?;
    askers.neighbours.wait_answer(&mac, at_ns, STEP)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_announced(&cluster, BETA, at_ns)?;
    let opened = events(&cluster, BETA, "address-opened", at_ns)?;
    ensure!(opened.len() == 2, "{opened:?}");
    ensure!(events(&cluster, BETA, "address-added", at_ns)?.is_empty(), "it was added");

    cluster.bed.heal_all(ALPHA)?;
    cluster.wait_settled(ALPHA)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    drop(askers);
    finish(cluster, watch)
}

/// A lifetime of a minute: what takes the address off the network here is the gate.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_kernel_of_a_frozen_owner_stops_answering_when_its_lease_has_run_out() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|plan| {
        plan.failback = false;
        plan.address_lifetime = Some(Duration::from_secs(60));
    })?;
    let alpha = cluster.node(ALPHA)?.processes()?;
    let pids: Vec<_> = [Some(alpha.daemon), alpha.keeper].into_iter().flatten().collect();
    let frozen_ns = monotonic_ns();
    for pid in &pids {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGSTOP)?;
    }
    thread::sleep(DAEMON_DEADTIME + CALM);
    let (svc, hb) = (cluster.bed.mac(ALPHA, "eth0")?, cluster.bed.mac(ALPHA, "hb0")?);
    let end_ns = frozen_ns + as_ns(DAEMON_DEADTIME);
    for (what, asker, mac) in [
        ("ARP", &askers.arp, svc),
        ("neighbour discovery", &askers.neighbours, svc),
        ("ARP on the heartbeat network", &askers.stranger, hb),
    ] {
        let answers = asker.answers_of(mac, frozen_ns);
        ensure!(answers.len() > 10, "{what}: its lease ended at once: {} answers", answers.len());
        let late = answers.iter().filter(|it| it.at_ns >= end_ns).count();
        ensure!(late == 0, "{what}: {late} answers from the frozen owner after its lease");
    }
    ensure!(watch.holders() == [ALPHA, BETA], "it is the lifetime that ended");
    watch.client.wait_answer(BETA, monotonic_ns(), STEP)?;

    let awake_ns = monotonic_ns();
    for pid in &pids {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGCONT)?;
    }
    expect_owner(&mut cluster, &askers, BETA)?;
    let answers = askers.arp.answers_of(cluster.bed.mac(ALPHA, "eth0")?, awake_ns);
    ensure!(answers.is_empty(), "it answered {} times when it woke up", answers.len());
    ensure!(!events(&cluster, ALPHA, "lease-lost", awake_ns)?.is_empty(), "nothing was lost");
    ensure!(takeovers(&mut cluster, GROUP, frozen_ns)? == 1, "it was taken more than once");
    wait_armed(&cluster)?;
    drop(askers);
    finish(cluster, watch)
}

/// A driver that runs on renews nothing for a sender that does not, gates neither: frozen later, the node's
/// kernel answers for no longer than its lease, which began before.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_gate_of_a_node_whose_sender_hangs_ends_with_its_lease() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|plan| {
        plan.failback = false;
        plan.address_lifetime = Some(Duration::from_secs(60));
    })?;
    let hung_ns = monotonic_ns();
    let sender = Stopped::sender(&cluster)?;
    let end_ns = monotonic_ns() + as_ns(DAEMON_DEADTIME);
    thread::sleep(DAEMON_DEADTIME * 3 / 4);
    let rest = Stopped::daemon_and_keeper(&cluster)?;
    thread::sleep(DAEMON_DEADTIME + CALM);
    let answers = askers.arp.answers_of(cluster.bed.mac(ALPHA, "eth0")?, hung_ns);
    ensure!(answers.len() > 10, "it ended at once: {} answers", answers.len());
    let late = answers.iter().filter(|it| it.at_ns >= end_ns).count();
    ensure!(late == 0, "{late} answers from the frozen owner after its lease");
    watch.client.wait_answer(BETA, hung_ns, STEP)?;

    drop((rest, sender));
    expect_owner(&mut cluster, &askers, BETA)?;
    ensure!(takeovers(&mut cluster, GROUP, hung_ns)? == 1, "it was taken more than once");
    wait_armed(&cluster)?;
    drop(askers);
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_owner_of_an_armed_address_has_it_no_more() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    let mac = cluster.bed.mac(BETA, "eth0")?.to_owned();
    let taken = askers.arp.wait_answer(&mac, at_ns, STEP)?;
    watch.monitor(ALPHA)?.wait(watch.address, false, STEP)?;
    let alpha = cluster.bed.mac(ALPHA, "eth0")?;
    let after = askers.arp.answers_of(alpha, taken.at_ns);
    ensure!(after.is_empty(), "both answered: {after:?}");
    expect_owner(&mut cluster, &askers, BETA)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;

    // The next start finds programs and gates, and begins with closed ones.
    cluster.start()?;
    wait_armed(&cluster)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    watch.expect_answers_since(at_ns)?;
    drop(askers);
    finish(cluster, watch)
}

/// The keeper knows of the address after the daemon's lease was over, as it did before.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_owner_that_once_lost_its_lease_has_the_address_no_more_when_it_is_killed() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|plan| {
        plan.failback = false;
        plan.address_lifetime = Some(Duration::from_secs(60));
    })?;
    let (daemon, _) = cluster.node(ALPHA)?.pids()?;
    let stopped_ns = cluster.node(ALPHA)?.signal(Signal::SIGSTOP)?;
    watch.client.wait_answer(BETA, stopped_ns, STEP)?;
    // By its id: it cannot be asked for that.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), Signal::SIGCONT)?;
    cluster.node(ALPHA)?.wait_event("lease-lost", stopped_ns, STEP)?;
    expect_owner(&mut cluster, &askers, BETA)?;
    wait_armed(&cluster)?;
    cluster.node(ALPHA)?.hactl_done(&["relocate", GROUP, ALPHA])?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    ensure!(watch.holders() == [ALPHA, BETA], "configured on {:?}", watch.holders());

    let killed_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.monitor(ALPHA)?.wait(watch.address, false, STEP)?;
    let mac = cluster.bed.mac(BETA, "eth0")?.to_owned();
    let taken = askers.arp.wait_answer(&mac, killed_ns, STEP)?;
    let after = askers.arp.answers_of(cluster.bed.mac(ALPHA, "eth0")?, taken.at_ns);
    ensure!(after.is_empty(), "both answered: {after:?}");
    expect_owner(&mut cluster, &askers, BETA)?;
    cluster.node_mut(ALPHA)?.start()?;
    wait_armed(&cluster)?;
    expect_owner(&mut cluster, &askers, BETA)?;
    drop(askers);
    finish(cluster, watch)
}

/// Nobody is left who would remove the address: the gates hold until its lifetime ends.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_dead_candidate_without_a_keeper_answers_for_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|plan| {
        plan.address_lifetime = Some(Duration::from_secs(5));
    })?;
    let at_ns = cluster.node(BETA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(BETA)?.wait_exit(STEP)?;
    ensure!(watch.monitor(BETA)?.holds(watch.address), "the test comes too late");
    askers.expect_only(&cluster, ALPHA)?;
    watch.monitor(BETA)?.wait(watch.address, false, STEP)?;
    let beta = cluster.bed.mac(BETA, "eth0")?;
    ensure!(askers.arp.answers_of(beta, at_ns).is_empty(), "beta answered");
    cluster.start()?;
    wait_armed(&cluster)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    drop(askers);
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_open_gate_stays_open_while_the_program_is_replaced_and_the_configuration_changes()
-> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    let at_ns = monotonic_ns();
    for command in ["reexec", "reload"] {
        for node in [ALPHA, BETA] {
            cluster.node(node)?.hactl_done(&[command])?;
        }
    }
    wait_armed(&cluster)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    for node in [ALPHA, BETA] {
        let moved = events(&cluster, node, "takeover", at_ns)?;
        ensure!(moved.is_empty(), "{node}: {moved:?}");
        ensure!(events(&cluster, node, "address-closed", at_ns)?.is_empty(), "{node} closed it");
    }
    let beta = cluster.bed.mac(BETA, "eth0")?;
    ensure!(askers.arp.answers_of(beta, at_ns).is_empty(), "beta answered meanwhile");
    watch.expect_answers_since(at_ns)?;

    // No group is pre-armed any more: the address is on its owner alone.
    let changed = Plan { prearmed: false, ..cluster.plan.clone() };
    cluster.reconfigure(changed)?;
    for node in [BETA, ALPHA] {
        cluster.node(node)?.hactl_done(&["reload"])?;
    }
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    drop(askers);
    finish(cluster, watch)
}

/// An address that is not configured any more is removed before its gate is: no candidate answers for what its
/// owner still has.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_candidate_that_is_reloaded_without_one_of_the_addresses_does_not_answer_for_it() -> Result<()>
{
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    let v6 = FLOATING_V6.parse()?;
    let client = cluster.client()?;
    let often = Asker::start(&client, "eth0", v6, Duration::from_micros(500))?;
    let beta = cluster.bed.mac(BETA, "eth0")?.to_owned();
    let both = cluster.plan.clone();
    let at_ns = monotonic_ns();
    for _ in 0..RELOADS {
        cluster.reconfigure(Plan { floating_v6: false, ..both.clone() })?;
        cluster.node(BETA)?.hactl_done(&["reload"])?;
        let here = cluster.node(BETA)?.netns().ip(&["-6", "address", "show", "dev", "eth0"])?;
        ensure!(!here.contains(FLOATING_V6), "it is still there: {here}");
        cluster.reconfigure(both.clone())?;
        cluster.node(BETA)?.hactl_done(&["reload"])?;
        wait_armed(&cluster)?;
    }
    ensure!(!often.answers(at_ns).is_empty(), "nobody answered at all");
    for answers in [often.answers_of(&beta, at_ns), askers.arp.answers_of(&beta, at_ns)] {
        ensure!(answers.is_empty(), "beta answered {} times", answers.len());
    }
    expect_owner(&mut cluster, &askers, ALPHA)?;
    drop((askers, often));
    finish(cluster, watch)
}

/// The next daemon goes on with the address, and answers at it: its gate is closed by nobody's return.
fn goes_on_after(end: impl Fn(&Cluster) -> Result<()>, announced: bool) -> Result<()> {
    let _turn = turn_with_others();
    // On a loaded machine a debug build takes three seconds to start.
    let patience = 2 * DAEMON_DEADTIME;
    let (mut cluster, watch, askers) = started(|plan| {
        plan.on_daemon_death = (!announced).then_some("wait");
        plan.cluster_lines.push(format!("daemon_deadtime = \"{}s\"", patience.as_secs()));
    })?;
    let term = |cluster: &Cluster| -> Result<u64> {
        Ok(cluster.node(ALPHA)?.status()?.group(GROUP).context("no group")?.term)
    };
    let before = term(&cluster)?;
    let from_ns = monotonic_ns();
    end(&cluster)?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    cluster.node_mut(ALPHA)?.start()?;
    cluster.node(ALPHA)?.wait_event("group-adopted", from_ns, STEP)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    // Longer than the lease that it began with: it is renewed.
    thread::sleep(patience);
    expect_owner(&mut cluster, &askers, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    ensure!(term(&cluster)? == before, "the group has another term");
    ensure!(takeovers(&mut cluster, GROUP, from_ns)? == 0, "it was taken");
    let beta = cluster.bed.mac(BETA, "eth0")?;
    ensure!(askers.arp.answers_of(beta, from_ns).is_empty(), "beta answered meanwhile");
    let gap = watch.client.gap_in(from_ns, monotonic_ns());
    println!("no answer for {} ms", ms(gap.length_ns()));
    ensure!(gap.length_ns() < as_ns(SILENCE_MAX), "no answer for {} ms", ms(gap.length_ns()));

    // It is given away and armed again as any.
    cluster.node(ALPHA)?.hactl_done(&["relocate", GROUP, BETA])?;
    expect_owner(&mut cluster, &askers, BETA)?;
    wait_armed(&cluster)?;
    drop(askers);
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_announced_restart_of_the_owner_leaves_its_gate_open() -> Result<()> {
    goes_on_after(|cluster| cluster.node(ALPHA)?.hactl_done(&["detach"]).map(drop), true)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_owner_whose_group_waits_answers_again() -> Result<()> {
    goes_on_after(|cluster| cluster.node(ALPHA)?.kill_daemon().map(drop), false)
}

/// One that would accept everything, and end the chain, comes after the gate; and it comes.
#[test]
#[ignore = "needs root: network namespaces"]
fn programs_of_others_still_run_and_do_not_open_the_gate() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    let beta = cluster.node(BETA)?.netns();
    let place = BpfFs::mount()?;
    let path = place.root().join("foreign");
    // TC_ACT_OK
    bpf::pin(&bpf::constant_program(ProgramKind::Classifier, "tc_foreign", 0)?, &path)?;
    let mut program = SchedClassifier::from_pin(&path)?;
    let ways = [TcAttachType::Ingress, TcAttachType::Egress];
    let mut links = Vec::new();
    for way in ways {
        let id = beta.run(|| Ok(program.attach("eth0", way)?))?;
        links.push(FdLink::try_from(program.take_link(id)?)?);
    }
    askers.expect_only(&cluster, ALPHA)?;
    // What was there before the daemon does not come before the gate either.
    cluster.node_mut(BETA)?.stop()?;
    cluster.start()?;
    wait_armed(&cluster)?;
    askers.expect_only(&cluster, ALPHA)?;
    cluster.node_mut(BETA)?.stop()?;
    let beta = cluster.node(BETA)?.netns();
    for way in ways {
        let (_, found) = beta.run(|| Ok(SchedClassifier::query_tcx("eth0", way)?))?;
        ensure!(found.len() == 1, "{} programs are left on the way", found.len());
    }
    // A program that drops everything: what the gate passes still comes to it.
    drop(links);
    let path = place.root().join("dropping");
    bpf::pin(&bpf::constant_program(ProgramKind::Classifier, "tc_dropping", 2)?, &path)?;
    let mut program = SchedClassifier::from_pin(&path)?;
    cluster.start()?;
    wait_armed(&cluster)?;
    let beta = cluster.node(BETA)?.netns();
    let client = cluster.client()?;
    ensure!(pings(&client, "198.51.100.2")?, "the gate drops what is none of its business");
    let id = beta.run(|| Ok(program.attach("eth0", TcAttachType::Ingress)?))?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    ensure!(!pings(&client, "198.51.100.2")?, "the program after the gate never saw the packets");
    drop(link);
    drop((askers, program, place));
    finish(cluster, watch)
}

/// The other group's address is in a network where the nodes have none of their own.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_that_cannot_be_armed_goes_the_ordinary_way_and_says_so() -> Result<()> {
    let _turn = turn_with_others();
    let other: IpAddr = "203.0.113.10".parse()?;
    let (mut cluster, watch, askers) = {
        let mut wanted = Plan { prearmed: true, ..plan() };
        wanted.more = "\n[groups.far]\nnodes = [\"alpha\", \"beta\"]\nprearmed = true\nresources = [\n  \
                       { kind = \"address\", address = \"203.0.113.10/24\", interface = \"eth0\" },\n]\n"
            .to_owned();
        let mut cluster = Cluster::build(wanted)?;
        cluster.bed.host(STRANGER)?;
        cluster.bed.plug(STRANGER, "hb0", "hb", &["192.0.2.100/24"])?;
        let watch = Watch::of(&cluster, floating()?)?;
        cluster.start()?;
        let client = cluster.client()?;
        client.ip(&["address", "add", "203.0.113.100/24", "dev", "eth0"])?;
        let asker = Asker::start(&client, "eth0", other, ASK_INTERVAL)?;
        (cluster, watch, asker)
    };
    for node in &cluster.nodes {
        let text = node.hactl_done(&["groups"])?;
        ensure!(text.contains("203.0.113.10/24 is not pre-armed here: this node has no"), "{text}");
        ensure!(text.contains("198.51.100.10/24") && text.contains("(armed)"), "{text}");
        ensure!(events(&cluster, node.name(), "not-armed", 0)?.len() == 1, "no event");
    }
    wait_runs(&mut cluster, "far", ALPHA)?;
    askers.wait_answer(cluster.bed.mac(ALPHA, "eth0")?, 0, STEP)?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    askers.wait_answer(cluster.bed.mac(BETA, "eth0")?, at_ns, STEP)?;
    wait_runs(&mut cluster, "far", BETA)?;
    watch.monitor(ALPHA)?.wait(other, false, STEP)?;
    cluster.start()?;
    cluster.stop()?;
    for node in &cluster.nodes {
        node.expect_nothing_left(&[other])?;
    }
    drop(askers);
    finish(cluster, watch)
}

/// What appears while the daemon runs gets its gate, and an interface that goes down and up its addresses.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_interface_that_appears_later_is_guarded_too() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|_| {})?;
    cluster.bed.bridge("late")?;
    cluster.bed.plug(BETA, "late0", "late", &["192.0.3.2/24"])?;
    cluster.bed.host("latecomer")?;
    cluster.bed.plug("latecomer", "late0", "late", &["192.0.3.100/24"])?;
    let beta = cluster.node(BETA)?.netns();
    let attached = || -> Result<usize> {
        let ways = [TcAttachType::Ingress, TcAttachType::Egress];
        let count = |way| Ok(beta.run(|| Ok(SchedClassifier::query_tcx("late0", way)?))?.1.len());
        ways.into_iter().map(count).sum()
    };
    let deadline_ns = monotonic_ns() + as_ns(STEP);
    while attached()? < 2 {
        ensure!(monotonic_ns() < deadline_ns, "late0 gets no gate");
        thread::sleep(Duration::from_millis(20));
    }
    let latecomer = cluster.bed.netns("latecomer")?;
    let asker = Asker::start(&latecomer, "late0", floating()?, ASK_INTERVAL)?;
    thread::sleep(CALM);
    let answers = asker.answers(0);
    ensure!(answers.is_empty(), "beta answers on a network that is new: {answers:?}");
    drop(asker);

    beta.ip(&["link", "set", "eth0", "down"])?;
    beta.ip(&["link", "set", "eth0", "up"])?;
    // The kernel has dropped the interface's IPv6 addresses, the host's own too.
    beta.ip(&["address", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad"])?;
    wait_armed(&cluster)?;
    watch.monitor(BETA)?.wait(FLOATING_V6.parse()?, true, STEP)?;
    expect_owner(&mut cluster, &askers, ALPHA)?;
    drop(askers);
    finish(cluster, watch)
}

/// A planned move: the client is never without an answer for long, and never answered by two.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_planned_move_of_an_armed_group_opens_one_gate_after_closing_the_other() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch, askers) = started(|plan| plan.failback = false)?;
    for (from, to) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let at_ns = monotonic_ns();
        cluster.node(from)?.hactl_done(&["relocate", GROUP, to])?;
        wait_runs(&mut cluster, GROUP, to)?;
        let closed = events(&cluster, from, "address-closed", at_ns)?;
        let opened = events(&cluster, to, "address-opened", at_ns)?;
        ensure!(closed.len() == 2 && opened.len() == 2, "{closed:?} {opened:?}");
        let last_closed = closed.iter().map(|it| it.monotonic_ns).max().unwrap_or(0);
        let first_opened = opened.iter().map(|it| it.monotonic_ns).min().unwrap_or(0);
        ensure!(
            last_closed <= first_opened,
            "both were open for {} ms",
            ms(last_closed - first_opened)
        );
        watch.client.wait_answer(to, at_ns, STEP)?;
        let gap = watch.client.gap_in(at_ns, monotonic_ns());
        ensure!(gap.length_ns() < as_ns(GAP_MAX), "no answer for {} ms", ms(gap.length_ns()));
        askers.expect_only(&cluster, to)?;
    }
    drop(askers);
    finish(cluster, watch)
}
