//! Services that do not start, do not stop, or do not end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::{Cluster, turn_with_others};

use crate::support::{
    ALPHA, BETA, SITE, behave, calls, events, finish, misbehave, moves, pair, wait_for, wait_site,
    wait_state,
};

const FIRST: &str = r#"{ kind = "script", name = "first" }"#;
const SECOND: &str = r#"{ kind = "script", name = "second" }"#;

/// Takes alpha's service interface away, so that it has to give the group up.
fn unplug(cluster: &Cluster, state: &str) -> Result<()> {
    cluster.node(ALPHA)?.netns().ip(&["link", "set", "eth0", state]).map(drop)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_start_that_fails_stops_the_group_and_it_goes_to_the_other_node() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST, SECOND], |_| {})?;
    misbehave(&cluster, ALPHA, "second-start-fails")?;
    cluster.start()?;
    wait_site(&mut cluster, BETA)?;
    let alpha = cluster.node(ALPHA)?;
    let expected = ["first start with", "second start with", "second stop with", "first stop with"];
    ensure!(moves(alpha)[..4] == expected, "{:?}", moves(alpha));
    let failed = events(&cluster, ALPHA, "resource-failed")?;
    ensure!(failed[0].message.contains("second will not start"), "{failed:?}");
    // The pause ends, and then it can.
    behave(&cluster, ALPHA, "second-start-fails")?;
    wait_site(&mut cluster, ALPHA)?;
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_start_that_always_fails_is_tried_less_and_less_often() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST], |_| {})?;
    misbehave(&cluster, ALPHA, "first-start-fails")?;
    cluster.start()?;
    wait_site(&mut cluster, BETA)?;
    let failures = || -> Result<usize> { Ok(events(&cluster, ALPHA, "resource-failed")?.len()) };
    wait_for("a third attempt", || Ok(failures()? >= 3))?;
    let failed = events(&cluster, ALPHA, "resource-failed")?;
    let pause_s =
        |at: usize| (failed[at + 1].monotonic_ns - failed[at].monotonic_ns) / 1_000_000_000;
    ensure!(pause_s(0) >= 10 && pause_s(1) >= 20, "{} s, {} s", pause_s(0), pause_s(1));
    wait_site(&mut cluster, BETA)?;
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stop_that_fails_ten_times_keeps_the_group_where_it_is_until_it_succeeds() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST], |_| {})?;
    cluster.start()?;
    wait_site(&mut cluster, ALPHA)?;
    misbehave(&cluster, ALPHA, "first-stop-fails")?;
    unplug(&cluster, "down")?;
    wait_state(&cluster, ALPHA, "failed")?;
    let tries = moves(cluster.node(ALPHA)?).iter().filter(|it| it.contains("stop")).count();
    ensure!(tries == 10, "{tries} tries");
    ensure!(events(&cluster, ALPHA, "group-stuck")?.len() == 1);
    let owner = cluster.node(BETA)?.status()?.group(SITE).and_then(|group| group.owner.clone());
    ensure!(owner.as_deref() == Some(ALPHA), "beta says {owner:?}");
    ensure!(moves(cluster.node(BETA)?).is_empty(), "beta has started it");
    behave(&cluster, ALPHA, "first-stop-fails")?;
    wait_site(&mut cluster, BETA)?;
    unplug(&cluster, "up")?;
    wait_site(&mut cluster, ALPHA)?;
    finish(cluster)
}

/// A script that hangs, and one that burns a CPU: each is killed in time, the group moves, and nobody
/// takes the node for dead meanwhile.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_script_that_hangs_or_spins_is_killed_and_delays_no_heartbeat() -> Result<()> {
    let _turn = turn_with_others();
    for how in ["hangs", "spins"] {
        let mut cluster = pair(&[FIRST], |_| {})?;
        cluster.start()?;
        wait_site(&mut cluster, ALPHA)?;
        cluster.node_mut(ALPHA)?.stop()?;
        wait_site(&mut cluster, BETA)?;
        misbehave(&cluster, ALPHA, &format!("first-start-{how}"))?;
        cluster.node_mut(ALPHA)?.start()?;
        wait_for("the start", || Ok(calls(cluster.node(ALPHA)?).len() >= 6))?;
        let received = || -> Result<u64> {
            let status = cluster.node(BETA)?.status()?;
            Ok(status.link(ALPHA, "hb0").context("no link hb0")?.received)
        };
        let (before, began) = (received()?, Instant::now());
        let failed = || Ok(!events(&cluster, ALPHA, "resource-failed")?.is_empty());
        wait_for("the end of the script", failed)?;
        let (heard, time) = (received()? - before, began.elapsed());
        let sent = time.as_millis() as u64 / 50;
        ensure!(time > Duration::from_secs(2), "{how}: it took {time:?} only");
        ensure!(heard >= sent / 2, "{how}: {heard} of {sent} heartbeats in {time:?}");
        for kind in ["node-late", "node-dead", "daemon-gone"] {
            let mut events = cluster.node(BETA)?.events()?;
            events.retain(|event| event.kind == kind);
            ensure!(events.is_empty(), "{how}: {events:?}");
        }
        let message = events(&cluster, ALPHA, "resource-failed")?.remove(0).message;
        ensure!(message.contains("not finished after 6s, killed"), "{message}");
        wait_site(&mut cluster, BETA)?;
        finish(cluster)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_script_that_is_not_there_leaves_the_group_to_the_other_node() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[FIRST], |_| {})?;
    let path = cluster.node(ALPHA)?.directory().join("resource.d/first");
    std::fs::remove_file(path)?;
    cluster.start()?;
    wait_site(&mut cluster, BETA)?;
    let failed = events(&cluster, ALPHA, "resource-failed")?;
    ensure!(failed[0].message.contains("there is no script first in"), "{failed:?}");
    finish(cluster)
}
