//! What a killed daemon leaves running.

use anyhow::{Result, ensure};
use ha_tests::bed::turn_with_others;
use ha_tests::clock::monotonic_ns;

use crate::support::{
    ADDRESS, ALPHA, BETA, STEP, behave, client, events, finish, lives, misbehave, moves, pair,
    pid_in, site, wait_for, wait_site, wait_state,
};

const HTTPD: &str = r#"{ kind = "script", name = "httpd" }"#;
const FIRST: &str = r#"{ kind = "script", name = "first" }"#;

#[test]
#[ignore = "needs root: network namespaces"]
fn services_outlive_a_killed_daemon_until_its_next_start_stops_them() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST, HTTPD], |_| {})?;
    let client = client(&cluster)?;
    cluster.start()?;
    client.wait_answer(ALPHA, 0, STEP)?;
    wait_site(&mut cluster, ALPHA)?;
    let nginx = pid_in(&site(cluster.node(ALPHA)?).join("nginx.pid"))?;

    let killed_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    client.wait_answer(BETA, killed_ns, STEP)?;
    wait_site(&mut cluster, BETA)?;
    ensure!(!cluster.node(ALPHA)?.has_address(ADDRESS.parse()?)?, "alpha has the address still");
    ensure!(lives(nginx), "nginx died with the daemon");

    let (start_ns, before) = (monotonic_ns(), moves(cluster.node(ALPHA)?).len());
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, start_ns, STEP)?;
    ensure!(!lives(nginx), "the nginx of before is still there");
    let since = moves(cluster.node(ALPHA)?).split_off(before);
    let expected =
        ["httpd stop without", "first stop without", "first start with", "httpd start with"];
    ensure!(since == expected, "{since:?}");
    ensure!(events(&cluster, ALPHA, "resource-leftover")?.len() == 2);
    drop(client);
    finish(cluster)
}

/// The peer has not noticed anything when the daemon is back: it must not start what still runs.
#[test]
#[ignore = "needs root: network namespaces"]
fn what_still_runs_after_a_quick_restart_is_started_nowhere_else() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST], |plan| {
        plan.keepalive = std::time::Duration::from_secs(1);
        plan.deadtime = std::time::Duration::from_secs(10);
    })?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    misbehave(&cluster, ALPHA, "first-stop-fails")?;
    cluster.node(ALPHA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    cluster.node_mut(ALPHA)?.start()?;
    wait_for("the daemon", || Ok(cluster.node(ALPHA)?.status().is_ok()))?;
    wait_state(&cluster, ALPHA, "failed")?;
    ensure!(
        moves(cluster.node(BETA)?).is_empty(),
        "beta started it: {:?}",
        moves(cluster.node(BETA)?)
    );
    behave(&cluster, ALPHA, "first-stop-fails")?;
    wait_site(&mut cluster, ALPHA)?;
    ensure!(
        moves(cluster.node(BETA)?).is_empty(),
        "beta started it: {:?}",
        moves(cluster.node(BETA)?)
    );
    finish(cluster)
}
