//! A group with services starts, moves and returns.

use anyhow::{Result, ensure};
use ha_tests::bed::turn_with_others;
use ha_tests::clock::monotonic_ns;

use crate::support::{
    ADDRESS, ALPHA, BETA, STEP, client, finish, group, moves, pair, pid_in, site, wait_site,
};

const HTTPD: &str = r#"{ kind = "script", name = "httpd" }"#;

/// Scenario H1: the client sees the page of whichever node has the group.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_page_moves_with_a_clean_stop_and_returns_with_the_start() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[HTTPD], |_| {})?;
    let client = client(&cluster)?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, 0, STEP)?;
    ensure!(moves(cluster.node(BETA)?).is_empty(), "{:?}", moves(cluster.node(BETA)?));

    // Nothing of the daemon's own privileges over others comes with it.
    let nginx = pid_in(&site(cluster.node(ALPHA)?).join("nginx.pid"))?;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{nginx}/{name}"));
    let policy =
        read("stat")?.rsplit(')').next().and_then(|it| it.split(' ').nth(39)?.parse().ok());
    ensure!(policy == Some(0), "scheduling policy {policy:?}");
    ensure!(
        read("status")?.lines().any(|line| line.replace('\t', " ").starts_with("VmLck:        0"))
    );
    let limits = |text: String| {
        let wanted = |line: &&str| line.starts_with("Max core") || line.starts_with("Max locked");
        text.lines().filter(wanted).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = std::fs::read_to_string("/proc/self/limits")?;
    ensure!(limits(read("limits")?) == limits(own), "{:?}", limits(read("limits")?));

    let stop_ns = cluster.node_mut(ALPHA)?.stop()?;
    wait_site(&mut cluster, BETA)?;
    client.wait_answer(BETA, stop_ns, STEP)?;
    ensure!(moves(cluster.node(ALPHA)?) == ["httpd start with", "httpd stop with"]);

    let start_ns = monotonic_ns();
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, start_ns, STEP)?;
    ensure!(moves(cluster.node(BETA)?) == ["httpd start with", "httpd stop with"]);
    drop(client);
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_page_stays_with_manual_failback_when_the_preferred_node_returns() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[HTTPD], |plan| {
        let lines = format!("[groups.{}]\nfailback = \"manual\"\n", crate::support::SITE);
        let header = format!("[groups.{}]\n", crate::support::SITE);
        plan.more = plan.more.replace(&header, &lines);
    })?;
    let client = client(&cluster)?;
    cluster.start()?;
    client.wait_answer(ALPHA, 0, STEP)?;
    cluster.node_mut(ALPHA)?.stop()?;
    wait_site(&mut cluster, BETA)?;
    cluster.start()?;
    let from_ns = monotonic_ns();
    client.wait_answer(BETA, from_ns, STEP)?;
    wait_site(&mut cluster, BETA)?;
    ensure!(client.first_answer(ALPHA, from_ns).is_none(), "it returned");
    drop(client);
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn resources_of_all_kinds_start_left_to_right_and_stop_right_to_left() -> Result<()> {
    let _turn = turn_with_others();
    let address =
        format!(r#"{{ kind = "address", address = "{ADDRESS}/24", interface = "eth0" }}"#);
    let resources = [
        r#"{ kind = "script", name = "first", arguments = ["one", "two words"] }"#,
        &address,
        r#"{ kind = "script", name = "second" }"#,
    ];
    let mut cluster = group(&resources, |_| {})?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    let alpha = cluster.node_mut(ALPHA)?;
    let started = ["first one two words start without", "second start with"];
    ensure!(moves(alpha) == started, "{:?}", moves(alpha));
    alpha.stop()?;
    let stopped = ["second stop with", "first one two words stop without"];
    ensure!(moves(alpha)[2..] == stopped, "{:?}", moves(alpha));
    wait_site(&mut cluster, BETA)?;
    ensure!(moves(cluster.node(BETA)?) == started);
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn label_and_broadcast_of_an_address_are_as_configured() -> Result<()> {
    let _turn = turn_with_others();
    let address = format!(
        r#"{{ kind = "address", address = "{ADDRESS}/24", interface = "eth0", label = "eth0:7", broadcast = "198.51.100.127" }}"#
    );
    let mut cluster = group(&[&address], |_| {})?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    // Also after it was renewed.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    let shown = cluster.node(ALPHA)?.netns().ip(&["-4", "address", "show", "dev", "eth0"])?;
    let line = shown.lines().find(|line| line.contains(ADDRESS)).unwrap_or_default().to_owned();
    ensure!(line.contains("brd 198.51.100.127") && line.contains("eth0:7"), "{shown}");
    finish(cluster)
}
