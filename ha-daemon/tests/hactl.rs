//! `hactl` as a script or an operator runs it: exit status, output, messages.

mod daemon;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use daemon::{Daemon, GOLDEN, Outcome, answer, silence};
use ha_daemon::control::metrics::page;
use ha_daemon::snapshot::Event;
use serde_json::Value;

fn hactl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hactl"));
    command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

#[test]
fn json_is_the_snapshot_and_its_arrays() -> Outcome {
    let daemon = Daemon::start(answer)?;
    daemon.push(2, "late");
    let golden: Value = serde_json::from_str(GOLDEN)?;
    let json = |arguments: &[&str]| -> Result<Value, Box<dyn std::error::Error>> {
        Ok(serde_json::from_str(&done(&hactl(&daemon.socket, arguments).output()?))?)
    };
    assert_eq!(json(&["status", "--json"])?, golden);
    assert_eq!(json(&["nodes", "--json"])?, golden["nodes"]);
    assert_eq!(json(&["groups", "--json"])?, golden["groups"]);
    assert_eq!(json(&["links", "--json"])?[1]["peer"], "beta");
    assert_eq!(json(&["events", "--json"])?[1]["id"], 2);
    assert_eq!(json(&["events", "--json", "--limit", "1"])?[0]["id"], 2);
    assert_eq!(json(&["events", "--json", "--since", "0", "--limit", "1"])?[0]["id"], 1);
    daemon.stop()
}

#[test]
fn tables_have_a_heading_and_a_line_for_each() -> Outcome {
    let daemon = Daemon::start(answer)?;
    daemon.push(1, "beta is late");
    for (command, heading, line) in [
        ("status", "Cluster   shop", "Quorum    majority, 2 of 3 votes"),
        ("nodes", "NODE ", "alpha  up (here)"),
        ("links", "PEER ", "beta   svc   ucast  eth0       xdp-generic  up"),
        ("links", "PEER ", "Thread    sender: SCHED_FIFO 62, woke 86411 times, late by 7 us (p50)"),
        ("groups", "GROUP ", "web    alpha  started     3  198.51.100.10/24 started"),
        ("events", "TIME ", "2026-09-10T00:28:43.456789Z   1  warning   node-late  beta is late"),
    ] {
        let printed = done(&hactl(&daemon.socket, &[command]).output()?);
        assert!(printed.starts_with(heading), "{printed}");
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{line}:\n{printed}");
    }
    daemon.stop()
}

#[test]
fn metrics_are_printed_as_they_are() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let printed = done(&hactl(&daemon.socket, &["metrics"]).output()?);
    assert_eq!(printed, page(serde_json::from_str(GOLDEN)?)?);
    daemon.stop()
}

#[test]
fn a_refusal_exits_with_1_and_says_why() -> Outcome {
    let daemon = Daemon::start(silence)?;
    let beyond = hactl(&daemon.socket, &["events", "--since", "9"]).output()?;
    assert_eq!(beyond.status.code(), Some(1));
    assert!(text(&beyond.stderr).contains("beyond the last event, 0"), "{}", text(&beyond.stderr));
    let unanswered = hactl(&daemon.socket, &["status"]).output()?;
    assert_eq!(unanswered.status.code(), Some(1));
    assert!(text(&unanswered.stderr).contains("the driver did not answer"));
    assert!(unanswered.stdout.is_empty());
    daemon.stop()
}

#[test]
fn a_command_is_done_or_refused_with_the_reason() -> Outcome {
    let daemon = Daemon::start(answer)?;
    assert_eq!(done(&hactl(&daemon.socket, &["disable", "web"]).output()?), "web is disabled\n");
    for arguments in [&["disable", "mail"][..], &["standby"], &["relocate", "web", "beta"]] {
        let refused = hactl(&daemon.socket, arguments).output()?;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert_eq!(text(&refused.stderr), "hactl: no; ask for web\n");
    }
    for arguments in [&["fence", "beta"][..], &["maintenance", "on"]] {
        let refused = hactl(&daemon.socket, arguments).output()?;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(text(&refused.stderr).contains("not possible yet"));
    }
    daemon.stop()
}

#[test]
fn by_another_name_it_is_a_program_of_heartbeat() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let directory = tempfile::tempdir()?;
    let place = directory.path().to_str().ok_or("no path")?;
    done(&hactl(&daemon.socket, &["install-names", place]).output()?);
    let socket = daemon.socket.clone();
    let program = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(directory.path().join(name));
        command.args(arguments).env("HA_SOCKET", &socket).output()
    };
    assert_eq!(done(&program("cl_status", &["nodestatus", "beta"])?), "active\n");
    let dead = program("cl_status", &["nodestatus", "gamma"])?;
    assert_eq!((dead.status.code(), text(&dead.stdout)), (Some(1), "dead\n".to_owned()));
    assert_eq!(program("cl_status", &["nonsense"])?.status.code(), Some(11));
    assert!(done(&program("cl_status", &[])?).starts_with("usage: cl_status"));
    let refused = program("hb_standby", &[])?;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stderr), "hb_standby: no; ask for web\n");
    for arguments in [&["some"][..], &["all", "local"], &["--help"]] {
        let usage = program("hb_takeover", arguments)?;
        assert_eq!(usage.status.code(), Some(1));
        assert!(text(&usage.stderr).contains("[all|foreign|local|failback]"));
    }
    daemon.stop()?;
    let stopped = program("cl_status", &["hbstatus"])?;
    let told = "Heartbeat is stopped on this machine.\n".to_owned();
    assert_eq!((stopped.status.code(), text(&stopped.stdout)), (Some(1), told));
    assert_eq!(program("cl_status", &["listnodes"])?.status.code(), Some(1));
    Ok(())
}

/// `ha-daemon check --live` is told of the socket by the same variable.
#[test]
fn a_check_of_the_running_daemon_asks_where_the_environment_says() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let check = |socket: &Path, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ha-daemon"));
        command.args(["check", "--live"]).args(arguments).env("HA_SOCKET", socket).output()
    };
    let nowhere = Path::new("/nonexistent/control.sock");
    let printed = done(&check(&daemon.socket, &[])?);
    assert!(printed.starts_with("too early to judge deadtime: beta on svc"), "{printed}");
    let told = daemon.socket.to_str().ok_or("no path")?;
    done(&check(nowhere, &["--socket", told])?);
    let unreachable = check(nowhere, &[])?;
    assert_eq!(unreachable.status.code(), Some(2));
    let printed = text(&unreachable.stdout);
    assert!(printed.contains("/nonexistent/control.sock"), "{printed}");
    daemon.stop()
}

#[test]
fn wrong_usage_exits_with_2() -> Outcome {
    let nowhere = Path::new("/nonexistent/control.sock");
    for arguments in [
        &["stauts"][..],
        &[],
        &["events", "--since", "x"],
        &["nodes", "--follow"],
        &["metrics", "--json"],
    ] {
        let output = hactl(nowhere, arguments).output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(hactl(nowhere, &["--help"]).output()?.status.code(), Some(0));
    Ok(())
}

#[test]
fn an_unreachable_daemon_exits_with_3_and_names_the_socket_and_the_cause() -> Outcome {
    let directory = tempfile::tempdir()?;
    let missing = directory.path().join("missing.sock");
    let dead = directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead)?);
    let file = directory.path().join("file");
    std::fs::write(&file, "")?;
    for (socket, cause) in [
        (&missing, "No such file or directory (os error 2); start the daemon"),
        (&dead, "Connection refused (os error 111); the daemon that made the socket is gone"),
        (&file, "Connection refused (os error 111)"),
    ] {
        let output = hactl(socket, &["status"]).output()?;
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains(&socket.display().to_string()), "{message}");
        assert!(message.contains(cause), "{message}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_hangs_is_given_up() -> Outcome {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("hangs.sock");
    let _hangs = std::os::unix::net::UnixListener::bind(&socket)?;
    let output = hactl(&socket, &["nodes"]).output()?;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("no answer within 5 s"), "{}", text(&output.stderr));
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() -> Outcome {
    let daemon = Daemon::start(answer)?;
    // More than a pipe holds, so that hactl still writes when the reader is gone.
    daemon.push(1_000, &"x".repeat(500));
    let mut child = hactl(&daemon.socket, &["events", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    stdout.read_exact(&mut [0; 1])?;
    drop(stdout);
    done(&child.wait_with_output()?);
    daemon.stop()
}

#[test]
fn following_prints_events_as_they_happen_until_the_daemon_stops() -> Outcome {
    for json in [true, false] {
        let daemon = Daemon::start(answer)?;
        daemon.push(1, "first");
        let mut command = hactl(&daemon.socket, &["events", "--follow", "--since", "0"]);
        if json {
            command.arg("--json");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        for (id, message) in [(1, "first"), (2, "second")] {
            let line = lines.next().ok_or("hactl ended")??;
            if json {
                let event: Event = serde_json::from_str(&line)?;
                assert_eq!((event.id, event.message.as_str()), (id, message));
            } else {
                assert!(line.contains(&format!("  {id}  ")) && line.ends_with(message), "{line}");
            }
            daemon.push(1, "second");
        }
        daemon.stop()?;
        let rest = lines.collect::<Result<Vec<_>, _>>()?;
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(3), "{rest:?}");
        assert!(text(&output.stderr).contains("go on with --since"), "{}", text(&output.stderr));
    }
    Ok(())
}
