use std::time::Duration;

use nix::sys::signal::Signal;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Program {
    Program {
        label: "test".to_owned(),
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HA_X".into(), "y z".into())],
        identity: None,
        quiet: false,
        on_daemon_death: Signal::SIGKILL,
    }
}

/// To its end: nobody withdraws it.
async fn run(program: &Program, limit: Duration) -> io::Result<Ended> {
    super::run(program, limit, std::future::pending()).await
}

#[tokio::test]
async fn output_exit_code_and_environment_come_through() {
    let ended = run(&shell("echo one; echo two >&2; env | sort; exit 3"), LONG).await.unwrap();
    assert_eq!(ended.exit, Exit::Code(3));
    assert!(ended.stdout.starts_with("one\n") && ended.stdout.contains("\nHA_X=y z\n"));
    assert!(!ended.stdout.contains("CARGO"), "{}", ended.stdout);
    assert_eq!(ended.last_line, "two");
    let killed = run(&shell("kill -9 $$"), LONG).await.unwrap();
    assert_eq!(killed.exit, Exit::Signal(9));
}

#[tokio::test]
async fn a_program_has_a_session_of_its_own_and_nothing_but_its_outputs() {
    use std::os::fd::AsRawFd as _;
    // A descriptor that would be inherited.
    let file = tempfile::tempfile().unwrap();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let script = "exec 9</proc/self/stat; read pid name state parent group session rest <&9; \
                  exec 9<&-; echo $pid $group $session; pwd; ls -l /proc/self/fd; chrt -p $$; \
                  cat /proc/self/limits";
    let ended = run(&shell(script), LONG).await.unwrap();
    let mut lines = ended.stdout.lines();
    let ids: Vec<&str> = lines.next().unwrap().split(' ').collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert_eq!(lines.next(), Some("/"));
    let descriptor = format!(" {} -> ", file.as_raw_fd());
    assert!(!ended.stdout.contains(&descriptor), "{}", ended.stdout);
    assert!(ended.stdout.contains(" 0 -> /dev/null"), "{}", ended.stdout);
    assert!(ended.stdout.contains("SCHED_OTHER"), "{}", ended.stdout);
}

async fn expect_gone(child: &str) {
    let stat = format!("/proc/{child}/stat");
    // Its new parent reaps it.
    let gone = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
    let deadline = Instant::now() + LONG;
    while !gone() {
        assert!(Instant::now() < deadline, "process {child} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_takes_too_long_is_killed_with_all_of_its_group() {
    let ended = run(&shell("sleep 600 & echo $!; wait"), Duration::from_millis(300)).await.unwrap();
    assert_eq!(ended.exit, Exit::TimedOut(Duration::from_millis(300)));
    expect_gone(ended.stdout.trim()).await;
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_too() {
    let deaf = shell("trap '' TERM; while :; do sleep 1; done");
    let ended = run(&deaf, Duration::from_millis(200)).await.unwrap();
    assert!(matches!(ended.exit, Exit::TimedOut(_)));
}

/// The usual way of a script: a service in the background that keeps the outputs.
#[tokio::test]
async fn a_run_ends_with_its_program_and_what_it_left_may_go_on_printing() {
    let script = "(read line </proc/sys/kernel/random/uuid; sleep 0.3; echo later; sleep 0.2; \
                  echo again; sleep 600) & echo $!";
    let began = Instant::now();
    let ended = run(&shell(script), LONG).await.unwrap();
    assert_eq!(ended.exit, Exit::Code(0));
    assert!(began.elapsed() < LONG);
    let service: i32 = ended.stdout.trim().parse().unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let lives = std::path::Path::new(&format!("/proc/{service}")).exists();
    let group = nix::unistd::getpgid(Some(Pid::from_raw(service))).unwrap();
    killpg(group, Signal::SIGKILL).unwrap();
    assert!(lives, "it was killed by its own output");
}

#[tokio::test]
async fn an_endless_output_is_bounded() {
    let ended = run(&shell("yes running"), Duration::from_secs(2)).await.unwrap();
    assert!(matches!(ended.exit, Exit::TimedOut(_)));
    assert_eq!(ended.stdout.len(), OUTPUT_KEPT_MAX);
}

#[tokio::test]
async fn what_cannot_be_executed_is_an_error() {
    let mut program = shell("");
    program.path = "/nonexistent".into();
    assert_eq!(run(&program, LONG).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_nobody_waits_for_is_ended_with_all_of_its_group() {
    let (told, ending) = tokio::sync::oneshot::channel::<()>();
    let withdrawn = async {
        let _ = ending.await;
    };
    let script = shell("sleep 600 & echo $!; wait");
    let ended = async { super::run(&script, LONG, withdrawn).await.unwrap() };
    let tell = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(told);
    };
    let (ended, ()) = tokio::join!(ended, tell);
    assert_eq!(ended.exit, Exit::Withdrawn);
    expect_gone(ended.stdout.trim()).await;
}
