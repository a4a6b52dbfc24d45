//! A service that fails while it runs: a real nginx that is killed, a status that hangs, and what the
//! peers see of it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use ha_tests::bed::{Cluster, turn_with_others};
use ha_tests::clock::monotonic_ns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    ALPHA, BETA, SITE, STEP, behave, calls, client, events, finish, lives, misbehave, moves, pair,
    pid_in, site, wait_for, wait_site, wait_state,
};

const HTTPD: &str = r#"{ kind = "script", name = "httpd", monitor = "200ms" }"#;
const FIRST: &str = r#"{ kind = "script", name = "first", monitor = "200ms" }"#;

/// A pair with these keys in its group.
fn recovering(resources: &[&str], keys: &str) -> Result<Cluster> {
    pair(resources, |plan| {
        let header = format!("[groups.{SITE}]\n");
        plan.more = plan.more.replace(&header, &format!("{header}{keys}\n"));
    })
}

/// The master and its workers, which would go on with its socket.
fn kill_nginx(directory: &Path) -> Result<i32> {
    let master = pid_in(&directory.join("nginx.pid"))?;
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    let workers: Vec<i32> =
        children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    for pid in std::iter::once(master).chain(workers) {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    Ok(master)
}

fn term(cluster: &Cluster, node: &str) -> Result<u64> {
    Ok(cluster.node(node)?.status()?.group(SITE).context("no group")?.term)
}

/// What `node` shows of `other`.
fn is_well(cluster: &Cluster, node: &str, other: &str) -> Result<bool> {
    let status = cluster.node(node)?.status()?.raw;
    let nodes = status["nodes"].as_array().context("no nodes")?;
    let found = nodes.iter().find(|it| it["name"] == other).context("no such node")?;
    match found["services_well"].as_bool() {
        Some(well) => Ok(well),
        None => bail!("{node} says nothing about {other}"),
    }
}

/// The address stays, the term stays, the peer does nothing; and the page is back.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_nginx_that_is_killed_is_started_again_where_it_was() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[FIRST, HTTPD], "")?;
    let client = client(&cluster)?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, 0, STEP)?;
    let term_before = term(&cluster, BETA)?;
    let directory = site(cluster.node(ALPHA)?);
    let killed = kill_nginx(&directory)?;
    let from_ns = monotonic_ns();
    let restarted = || Ok(pid_in(&directory.join("nginx.pid")).is_ok_and(|pid| pid != killed));
    wait_for("another nginx", restarted)?;
    client.wait_answer(ALPHA, from_ns, STEP)?;
    wait_site(&mut cluster, ALPHA)?;
    let failed = events(&cluster, ALPHA, "service-failed")?;
    ensure!(failed.len() == 1, "{failed:?}");
    for part in
        ["httpd of group site failed", "its status says \"httpd is stopped\"", "failure 1 in a row"]
    {
        ensure!(failed[0].message.contains(part), "{failed:?}");
    }
    // What comes before it was not touched, and had the address all the time.
    let expected = ["first start with", "httpd start with", "httpd stop with", "httpd start with"];
    ensure!(moves(cluster.node(ALPHA)?) == expected, "{:?}", moves(cluster.node(ALPHA)?));
    ensure!(moves(cluster.node(BETA)?).is_empty(), "beta started something");
    ensure!(term(&cluster, BETA)? == term_before && term(&cluster, ALPHA)? == term_before);
    let shown = cluster.node(ALPHA)?.hactl_done(&["groups"])?;
    ensure!(shown.contains("site: services of it failed here, 1 times in a row"), "{shown}");
    drop(client);
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_nginx_that_is_killed_too_often_goes_to_the_other_node() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[HTTPD], "restarts = 1")?;
    let client = client(&cluster)?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, 0, STEP)?;
    let directory = site(cluster.node(ALPHA)?);
    let killed = kill_nginx(&directory)?;
    let restarted = || Ok(pid_in(&directory.join("nginx.pid")).is_ok_and(|pid| pid != killed));
    wait_for("another nginx", restarted)?;
    client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    wait_state(&cluster, ALPHA, "started")?;
    kill_nginx(&directory)?;
    let from_ns = monotonic_ns();
    wait_site(&mut cluster, BETA)?;
    client.wait_answer(BETA, from_ns, STEP)?;
    let failed = events(&cluster, ALPHA, "service-failed")?;
    ensure!(failed.len() == 2 && failed[1].message.contains("beta is to run site"), "{failed:?}");
    // It is preferred, and failback is automatic: only that it failed there speaks against it, until an
    // operator says that the reason is gone.
    ensure!(events(&cluster, BETA, "give-back")?.is_empty());
    cluster.node(ALPHA)?.hactl_done(&["enable", SITE])?;
    wait_site(&mut cluster, ALPHA)?;
    drop(client);
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_that_is_to_be_disabled_waits_for_its_operator() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[FIRST], "recovery = \"disable\"")?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    fs::remove_file(site(cluster.node(ALPHA)?).join("first.up"))?;
    for node in [ALPHA, BETA] {
        wait_state(&cluster, node, "disabled")?;
    }
    ensure!(moves(cluster.node(ALPHA)?) == ["first start with", "first stop with"]);
    cluster.node(BETA)?.hactl_done(&["enable", SITE])?;
    wait_site(&mut cluster, ALPHA)?;
    finish(cluster)
}

/// A machine that is too busy to answer once is not restarted for it; one that never answers is. The peer
/// is told from the first silence on, by heartbeats.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_status_that_hangs_is_told_at_once_and_acted_upon_after_three() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[FIRST], "")?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    wait_for("all well", || Ok(is_well(&cluster, BETA, ALPHA)? && is_well(&cluster, BETA, BETA)?))?;
    misbehave(&cluster, ALPHA, "first-status-hangs")?;
    wait_for("alpha to be ill", || Ok(!is_well(&cluster, BETA, ALPHA)?))?;
    let shown = cluster.node(BETA)?.hactl_done(&["nodes"])?;
    ensure!(shown.contains("up (a service failed)"), "{shown}");
    behave(&cluster, ALPHA, "first-status-hangs")?;
    wait_for("alpha to be well", || is_well(&cluster, BETA, ALPHA))?;
    let unclear = events(&cluster, ALPHA, "service-unclear")?;
    ensure!(unclear[0].message.contains("not finished after 2s, killed"), "{unclear:?}");

    if events(&cluster, ALPHA, "service-failed")?.is_empty() {
        ensure!(moves(cluster.node(ALPHA)?) == ["first start with"], "it was touched");
    }
    let before = events(&cluster, ALPHA, "service-failed")?.len();
    misbehave(&cluster, ALPHA, "first-status-hangs")?;
    wait_for("a restart", || Ok(events(&cluster, ALPHA, "service-failed")?.len() > before))?;
    behave(&cluster, ALPHA, "first-status-hangs")?;
    wait_site(&mut cluster, ALPHA)?;
    let last = moves(cluster.node(ALPHA)?);
    ensure!(last.ends_with(&["first stop with".to_owned(), "first start with".to_owned()]));
    ensure!(moves(cluster.node(BETA)?).is_empty(), "beta started something");
    finish(cluster)
}

/// Another interval changes nothing about the service; `off` ends the questions.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_reload_that_changes_an_interval_touches_no_service() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[HTTPD], "")?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    let node = cluster.node(ALPHA)?;
    let nginx = pid_in(&site(node).join("nginx.pid"))?;
    let asked = calls(node).len();
    wait_for("questions", || Ok(calls(node).len() >= asked + 3))?;
    let text = fs::read_to_string(node.config_path())?;
    ensure!(text.contains("\"200ms\""), "{text}");
    fs::write(node.config_path(), text.replace("\"200ms\"", "\"off\""))?;
    node.hactl_done(&["reload"])?;
    wait_state(&cluster, ALPHA, "started")?;
    let shown = node.status()?.raw["groups"][0]["resources"][1].clone();
    ensure!(shown["name"] == "httpd" && shown.get("monitor_us").is_none(), "{shown}");
    ensure!(moves(node) == ["httpd start with"], "{:?}", moves(node));
    ensure!(lives(nginx) && pid_in(&site(node).join("nginx.pid"))? == nginx);
    // Nobody looks any more, so nothing follows.
    let asked = calls(node).len();
    kill_nginx(&site(node))?;
    let from_ns = monotonic_ns();
    wait_for("five intervals", || Ok(monotonic_ns() - from_ns > 1_000_000_000))?;
    ensure!(calls(node).len() == asked, "it was asked");
    ensure!(events(&cluster, ALPHA, "service-failed")?.is_empty());
    finish(cluster)
}

/// Nobody would wait for it in the next program, nor reap it.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_reload_ends_a_status_that_hangs_and_leaves_no_child_behind() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = recovering(&[FIRST], "")?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    let node = cluster.node(ALPHA)?;
    let children = || -> Result<Vec<String>> {
        let daemon = node.pids()?.0;
        let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
        let command = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        Ok(children.split_whitespace().filter_map(command).collect())
    };
    misbehave(&cluster, ALPHA, "first-status-hangs")?;
    wait_for("a status that hangs", || {
        Ok(children()?.iter().any(|stat| stat.contains("(first)") && !stat.contains(") Z ")))
    })?;
    node.hactl_done(&["reload"])?;
    behave(&cluster, ALPHA, "first-status-hangs")?;
    // One that just ended is reaped at once; one that nobody waits for stays.
    wait_for("no child that ended", || Ok(!children()?.iter().any(|stat| stat.contains(") Z "))))?;
    ensure!(node.events()?.iter().any(|event| event.kind == "reloaded"), "it was not reloaded");
    wait_for("all well", || is_well(&cluster, BETA, ALPHA))?;
    ensure!(moves(node) == ["first start with"], "{:?}", moves(node));
    finish(cluster)
}
