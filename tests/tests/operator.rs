//! What operators command, with real daemons: groups move, nodes go on standby, commands are refused,
//! and Heartbeat's small programs answer as they do. A client sees a short gap at most.

#[path = "failover/support.rs"]
#[expect(dead_code, reason = "shared with the failover scenarios")]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Plan, turn_with_others};
use ha_tests::clock::monotonic_ns;
use support::{
    ALPHA, BETA, GAMMA, STEP, Watch, events, finish, plan, started, takeovers, wait_node, wait_runs,
};

const OTHER_GROUP: &str = "mail";

/// The standard group prefers alpha, a second one beta.
fn active_active(failback: bool) -> Plan {
    let mode = if failback { "auto" } else { "manual" };
    let more = format!(
        "\n[groups.{OTHER_GROUP}]\nnodes = [\"{BETA}\", \"{ALPHA}\"]\nfailback = \"{mode}\"\n\
         resources = [\n  \
         {{ kind = \"address\", address = \"198.51.100.20/24\", interface = \"eth0\" }},\n]\n"
    );
    Plan { more, failback, ..plan() }
}

/// Gives a command that must be done.
fn done(cluster: &Cluster, node: &str, words: &[&str]) -> Result<String> {
    cluster.node(node)?.hactl_done(words)
}

/// Gives a command that must be refused; the reason.
fn refused(cluster: &Cluster, node: &str, words: &[&str]) -> Result<String> {
    let finished = cluster.node(node)?.hactl(words)?;
    ensure!(finished.code() == 1, "{words:?}: {finished:?}");
    Ok(finished.stderr)
}

fn start_again(cluster: &mut Cluster, node: &str) -> Result<()> {
    let node = cluster.node_mut(node)?;
    node.start()?;
    node.wait_ready(STEP).map(drop)
}

/// Waits until the group runs on a node and the client gets its answers.
fn expect_moved(cluster: &mut Cluster, watch: &Watch, to: &str, from_ns: u64) -> Result<()> {
    watch.expect_only(cluster, to)?;
    watch.client.wait_answer(to, from_ns, STEP)?;
    watch.expect_never_double(from_ns)?;
    watch.expect_answers_since(from_ns)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_is_relocated_from_any_node_and_stays() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    for (asked, to) in [(ALPHA, BETA), (ALPHA, ALPHA), (BETA, BETA)] {
        let from_ns = monotonic_ns();
        done(&cluster, asked, &["relocate", GROUP, to, "--wait"])?;
        let status = cluster.node(asked)?.status()?;
        ensure!(status.runs_on(GROUP, to), "--wait returned too early: {:?}", status.groups);
        expect_moved(&mut cluster, &watch, to, from_ns)?;
        ensure!(status.raw["groups"][0]["wished"] == *to, "{}", status.raw["groups"]);
    }
    // The configuration prefers alpha; enabling ends the wish.
    let from_ns = monotonic_ns();
    done(&cluster, ALPHA, &["enable", GROUP])?;
    expect_moved(&mut cluster, &watch, ALPHA, from_ns)?;
    // Without a node it goes to the best other one.
    let from_ns = monotonic_ns();
    done(&cluster, ALPHA, &["relocate", GROUP])?;
    expect_moved(&mut cluster, &watch, BETA, from_ns)?;
    // Until that node fails: then the configuration holds.
    cluster.node(BETA)?.kill_daemon()?;
    cluster.node_mut(BETA)?.wait_exit(STEP)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    cluster.start()?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_cannot_be_done_is_refused_and_changes_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    let from_ns = monotonic_ns();
    for (words, reason) in [
        (&["relocate", GROUP, "delta"][..], "no node delta"),
        (&["relocate", "nothing", BETA], "no group nothing"),
        (&["disable", "nothing"], "no group nothing"),
        (&["standby", "delta"], "no node delta"),
        (&["fence", BETA], "not possible yet"),
        (&["maintenance", "on"], "not possible yet"),
    ] {
        let told = refused(&cluster, ALPHA, words)?;
        ensure!(told.contains(reason), "{words:?}: {told}");
    }
    cluster.node_mut(BETA)?.stop()?;
    wait_node(&cluster, ALPHA, BETA, "left")?;
    let told = refused(&cluster, ALPHA, &["relocate", GROUP, BETA])?;
    ensure!(told.contains("beta is gone"), "{told}");
    let told = refused(&cluster, ALPHA, &["standby", BETA])?;
    ensure!(told.contains("run the command there"), "{told}");
    ensure!(cluster.node(BETA)?.hactl(&["standby"])?.code() == 3, "a stopped daemon answered");
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(takeovers(&mut cluster, GROUP, from_ns)? == 0, "a refused command moved the group");
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_disabled_group_runs_nowhere_until_it_is_enabled() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    done(&cluster, BETA, &["disable", GROUP, "--wait"])?;
    for node in [ALPHA, BETA] {
        let disabled = |it: &ha_tests::bed::Status| {
            it.group(GROUP).is_some_and(|group| group.state == "disabled" && group.owner.is_none())
        };
        cluster.node(node)?.wait_until("disabled", STEP, disabled)?;
        watch.monitor(node)?.wait(watch.address, false, STEP)?;
    }
    let told = refused(&cluster, ALPHA, &["relocate", GROUP, BETA])?;
    ensure!(told.contains("hactl enable"), "{told}");
    // A restart of either node does not enable it.
    for node in [ALPHA, BETA] {
        cluster.node_mut(node)?.stop()?;
        start_again(&mut cluster, node)?;
        let other = if node == ALPHA { BETA } else { ALPHA };
        wait_node(&cluster, node, other, "up")?;
        wait_node(&cluster, other, node, "up")?;
        ensure!(watch.holders().is_empty(), "it runs on {:?}", watch.holders());
    }
    let from_ns = monotonic_ns();
    done(&cluster, ALPHA, &["enable", GROUP, "--wait"])?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.client.wait_answer(ALPHA, from_ns, STEP)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_node_on_standby_hands_over_and_still_owns_what_nobody_else_can() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(active_active(true))?;
    let from_ns = monotonic_ns();
    done(&cluster, ALPHA, &["standby", "--wait"])?;
    expect_moved(&mut cluster, &watch, BETA, from_ns)?;
    let shown = done(&cluster, BETA, &["nodes"])?;
    ensure!(shown.contains("up (standby)"), "{shown}");
    let wants = events(&cluster, BETA, "node-standby", from_ns)?;
    ensure!(wants[0].message.contains("alpha wants to go standby [all]"), "{wants:?}");
    // Nobody else is left.
    cluster.node_mut(BETA)?.stop()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    wait_runs(&mut cluster, OTHER_GROUP, ALPHA)?;
    start_again(&mut cluster, BETA)?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    watch.expect_only(&mut cluster, BETA)?;
    // The other node may tell it to come back.
    let from_ns = monotonic_ns();
    done(&cluster, BETA, &["online", ALPHA])?;
    expect_moved(&mut cluster, &watch, ALPHA, from_ns)?;
    done(&cluster, ALPHA, &["standby", BETA])?;
    wait_runs(&mut cluster, OTHER_GROUP, ALPHA)?;
    done(&cluster, BETA, &["online"])?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn where_failback_is_not_automatic_groups_stay_until_an_operator_moves_them() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(active_active(false))?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    let names = Names::install(&cluster)?;
    let from_ns = monotonic_ns();
    cluster.node_mut(ALPHA)?.stop()?;
    watch.expect_only(&mut cluster, BETA)?;
    start_again(&mut cluster, ALPHA)?;
    cluster.wait_settled(BETA)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(takeovers(&mut cluster, GROUP, from_ns)? == 1, "it moved by itself");
    let from_ns = monotonic_ns();
    names.done(&cluster, BETA, "hb_standby failback")?;
    expect_moved(&mut cluster, &watch, ALPHA, from_ns)?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn heartbeats_programs_move_groups_and_answer_as_the_originals() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(active_active(true))?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    let names = Names::install(&cluster)?;
    ensure!(
        names.run(&cluster, ALPHA, "cl_status hbstatus")?
            == (0, "Heartbeat is running on this machine.\n".into())
    );
    ensure!(names.run(&cluster, ALPHA, "cl_status listnodes")? == (0, "alpha\nbeta\n".into()));
    ensure!(names.run(&cluster, ALPHA, "cl_status nodestatus beta")? == (0, "active\n".into()));
    ensure!(names.run(&cluster, ALPHA, "cl_status listhblinks -v beta")?.1.contains("\tup\n"));
    ensure!(names.run(&cluster, ALPHA, "cl_status rscstatus")? == (0, "local\n".into()));
    ensure!(
        names.run(&cluster, ALPHA, "cl_status hbparameter -p deadtime")? == (0, "200ms\n".into())
    );
    ensure!(names.run(&cluster, ALPHA, "cl_status nodestatus nobody")?.0 == 11);
    ensure!(names.run(&cluster, ALPHA, "hb_standby some")?.0 == 1);

    let from_ns = monotonic_ns();
    names.done(&cluster, ALPHA, "hb_standby local")?;
    expect_moved(&mut cluster, &watch, BETA, from_ns)?;
    ensure!(names.run(&cluster, ALPHA, "cl_status rscstatus")? == (0, "none\n".into()));
    ensure!(names.run(&cluster, BETA, "cl_status rscstatus")? == (0, "all\n".into()));
    let from_ns = monotonic_ns();
    names.done(&cluster, ALPHA, "hb_takeover all")?;
    expect_moved(&mut cluster, &watch, ALPHA, from_ns)?;
    wait_runs(&mut cluster, OTHER_GROUP, ALPHA)?;
    names.done(&cluster, ALPHA, "hb_standby foreign")?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    let from_ns = monotonic_ns();
    done(&cluster, BETA, &["takeover", "--wait"])?;
    expect_moved(&mut cluster, &watch, BETA, from_ns)?;
    let from_ns = monotonic_ns();
    done(&cluster, ALPHA, &["takeover", "local", "--wait"])?;
    expect_moved(&mut cluster, &watch, ALPHA, from_ns)?;

    cluster.node_mut(BETA)?.stop()?;
    wait_node(&cluster, ALPHA, BETA, "left")?;
    ensure!(names.run(&cluster, ALPHA, "cl_status nodestatus beta")? == (1, "dead\n".into()));
    wait_runs(&mut cluster, OTHER_GROUP, ALPHA)?;
    ensure!(names.run(&cluster, ALPHA, "cl_status rscstatus")? == (0, "all\n".into()));
    let stopped = names.run(&cluster, BETA, "cl_status hbstatus")?;
    ensure!(stopped == (1, "Heartbeat is stopped on this machine.\n".into()));
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_command_during_a_failover_ends_with_one_owner() -> Result<()> {
    let _turn = turn_with_others();
    let nodes = vec![ALPHA.to_owned(), BETA.to_owned(), GAMMA.to_owned()];
    let (mut cluster, watch) = started(Plan { nodes, ..plan() })?;
    let from_ns = cluster.node(ALPHA)?.kill_daemon_and_keeper()?;
    // Before, while and after gamma and beta notice.
    let mut to = BETA;
    for target in [GAMMA, BETA, GAMMA, BETA, GAMMA] {
        if cluster.node(BETA)?.hactl(&["relocate", GROUP, target])?.code() == 0 {
            to = target;
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    wait_runs(&mut cluster, GROUP, to)?;
    watch.client.wait_answer(to, from_ns, STEP)?;
    let limit = cluster.plan.lifetime() + support::LIFETIME_SLACK;
    watch.monitor(ALPHA)?.wait(watch.address, false, limit)?;
    watch.expect_only(&mut cluster, to)?;
    // What was killed leaves pins behind until its next start.
    start_again(&mut cluster, ALPHA)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces, another user"]
fn only_root_gives_commands_whoever_may_ask() -> Result<()> {
    let _turn = turn_with_others();
    let (cluster, watch) = started(plan())?;
    let names = Names::install(&cluster)?;
    let socket = cluster.node(ALPHA)?.socket_path();
    let as_nobody = |program: &Path, words: &[&str]| -> Result<(i32, String)> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        let output = command.args(words).env("HA_SOCKET", &socket).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    };
    let (status, standby) = (names.path("cl_status"), names.path("hb_standby"));
    let told = as_nobody(&status, &["nodestatus", ALPHA])?;
    ensure!(told.0 == 1 && told.1.contains("cannot sign on"), "{told:?}");
    let told = as_nobody(&status, &["hbstatus"])?;
    ensure!(told.0 == 0 && told.1.contains("refuses my connection"), "{told:?}");
    // Whoever the socket's rights let in may ask, and only ask.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&socket, open)?;
    let told = as_nobody(&status, &["nodestatus", ALPHA])?;
    ensure!(told == (0, "active\n".to_owned()), "{told:?}");
    let told = as_nobody(&standby, &[])?;
    ensure!(told.0 == 1 && told.1.contains("only root"), "{told:?}");
    finish(cluster, watch)
}

/// Heartbeat's programs in a directory that everybody may read.
struct Names {
    directory: tempfile::TempDir,
}

impl Names {
    fn install(cluster: &Cluster) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir()?;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open)?;
        let place = directory.path().to_str().context("a path that is no text")?;
        done(cluster, ALPHA, &["install-names", place])?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Exit status and output of a command line at a node.
    fn run(&self, cluster: &Cluster, node: &str, line: &str) -> Result<(i32, String)> {
        let mut words = line.split(' ');
        let program = self.path(words.next().unwrap_or_default());
        let socket = cluster.node(node)?.socket_path();
        let output = Command::new(program).args(words).env("HA_SOCKET", socket).output()?;
        let code = output.status.code().context("ended by a signal")?;
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    fn done(&self, cluster: &Cluster, node: &str, line: &str) -> Result<()> {
        let (code, told) = self.run(cluster, node, line)?;
        ensure!(code == 0, "{line}: {code}: {told}");
        Ok(())
    }
}
