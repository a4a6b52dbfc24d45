use super::*;

/// Writes a file that can be executed at once. Another process does it: a child of another test, which
/// between fork and exec has all that is open here, would have it open for writing (`ETXTBSY`).
pub(super) fn executable(path: &Path, text: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let mut install = std::process::Command::new("install");
    install.args(["-m", "755"]).arg(file.path()).arg(path);
    assert!(install.status().unwrap().success());
}

/// A directory of scripts, and the workshop that runs them.
struct Bed {
    directory: tempfile::TempDir,
    sender: ServiceSender,
    reports: mpsc::UnboundedReceiver<ServiceReport>,
}

impl Bed {
    fn new(timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (report, reports) = mpsc::unbounded_channel();
        let options = ServiceOptions {
            script_directory: directory.path().join("resource.d"),
            timeout,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            stop_pause: Duration::from_millis(10),
            report: Arc::new(move |it| report.send(it).is_ok()),
            ending: None,
        };
        std::fs::create_dir(&options.script_directory).unwrap();
        Self { directory, sender: start(options), reports }
    }

    /// A script that notes its calls; `body` sees the operation as `$op`.
    fn script(&self, name: &str, body: &str) {
        let here = self.directory.path().display();
        let path = self.directory.path().join("resource.d").join(name);
        let text = format!(
            "#!/bin/sh\ncd {here}\nfor op; do :; done\necho \"{name} $*\" >>calls\n{body}\n"
        );
        executable(&path, &text);
    }

    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.directory.path().join("calls"));
        calls.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    async fn order(&mut self, operation: Operation, name: &str, arguments: &[&str]) -> Outcome {
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let resource = Resource::Script { name: name.to_owned(), arguments };
        self.sender.send(Order { token: 7, operation, resource }).unwrap();
        let report = self.reports.recv().await.unwrap();
        assert_eq!(report.token, 7);
        report.outcome
    }
}

const LONG: Duration = Duration::from_secs(60);
/// Runs while the file `up` is there.
const HONEST: &str = "case $op in start) touch up;; stop) rm -f up;; \
                      status) [ -e up ] && echo running || echo stopped; exit 5;; esac";

#[tokio::test]
async fn a_script_is_asked_before_it_is_started() {
    let mut bed = Bed::new(LONG);
    bed.script("web", HONEST);
    assert_eq!(bed.order(Operation::Probe, "web", &[]).await, Outcome::Probed(Presence::Absent));
    let started = Outcome::Started(Ok(()));
    assert_eq!(bed.order(Operation::Start, "web", &["a", "b c"]).await, started);
    assert_eq!(bed.order(Operation::Probe, "web", &[]).await, Outcome::Probed(Presence::Here));
    assert_eq!(bed.order(Operation::Start, "web", &["a"]).await, started);
    assert_eq!(bed.order(Operation::Stop, "web", &["a"]).await, Outcome::Stopped(Ok(())));
    let expected = [
        "web status",
        "web a b c status",
        "web a b c start",
        "web status",
        "web a status",
        "web a stop",
    ];
    assert_eq!(bed.calls(), expected);
}

#[tokio::test]
async fn a_start_that_fails_says_what_the_script_said() {
    let mut bed = Bed::new(LONG);
    bed.script("web", "[ $op = start ] && { echo no such page >&2; exit 2; }");
    let Outcome::Started(Err(error)) = bed.order(Operation::Start, "web", &[]).await else {
        panic!("it started");
    };
    assert!(error.contains("exit code 2") && error.contains("no such page"), "{error}");
}

#[tokio::test]
async fn a_stop_is_tried_again() {
    let mut bed = Bed::new(LONG);
    bed.script("web", "[ $op = stop ] && { [ -e tried ]; code=$?; touch tried; exit $code; }");
    assert_eq!(bed.order(Operation::Stop, "web", &[]).await, Outcome::Stopped(Ok(())));
    assert_eq!(bed.calls(), ["web stop", "web stop"]);
}

#[tokio::test]
async fn a_stop_that_always_fails_is_given_up_after_ten() {
    let mut bed = Bed::new(LONG);
    bed.script("web", "[ $op != stop ]");
    let Outcome::Stopped(Err(error)) = bed.order(Operation::Stop, "web", &[]).await else {
        panic!("it stopped");
    };
    assert!(error.contains("tried 10 times"), "{error}");
    assert_eq!(bed.calls().len(), 10);
}

#[tokio::test]
async fn what_hangs_is_killed_and_counts_as_failed() {
    let mut bed = Bed::new(Duration::from_millis(600));
    bed.script("web", "sleep 600");
    let probed = bed.order(Operation::Probe, "web", &[]).await;
    assert!(matches!(probed, Outcome::Probed(Presence::Unclear { .. })), "{probed:?}");
    let started = bed.order(Operation::Start, "web", &[]).await;
    assert!(matches!(started, Outcome::Started(Err(_))), "{started:?}");
    let stopped = bed.order(Operation::Stop, "web", &[]).await;
    assert!(matches!(stopped, Outcome::Stopped(Err(_))), "{stopped:?}");
    assert_eq!(bed.calls(), ["web status", "web status", "web start", "web stop"]);
}

#[tokio::test]
async fn what_is_not_installed_has_nothing_to_stop_unless_it_was_started() {
    let mut bed = Bed::new(LONG);
    bed.script("web", HONEST);
    bed.order(Operation::Start, "web", &[]).await;
    std::fs::remove_file(bed.directory.path().join("resource.d/web")).unwrap();
    let stopped = bed.order(Operation::Stop, "web", &[]).await;
    assert!(matches!(stopped, Outcome::Stopped(Err(_))), "{stopped:?}");
    let mut bed = Bed::new(LONG);
    let probed = bed.order(Operation::Probe, "web", &[]).await;
    assert!(matches!(probed, Outcome::Probed(Presence::NotInstalled { .. })), "{probed:?}");
    let Outcome::Started(Err(error)) = bed.order(Operation::Start, "web", &[]).await else {
        panic!("it started");
    };
    assert!(error.contains("no script web in") && error.contains("web.service"), "{error}");
    assert_eq!(bed.order(Operation::Stop, "web", &[]).await, Outcome::Stopped(Ok(())));
}

/// What broke on the way is no word of the service.
#[tokio::test]
async fn a_status_of_what_runs_says_so_or_not_or_nothing() {
    let mut bed = Bed::new(Duration::from_millis(900));
    let monitor = Operation::Monitor { number: 3 };
    for (body, expected) in [
        ("echo web is running", "runs"),
        ("echo started; echo web is stopped >&2; echo it is stopped", "failed"),
        ("exit 3", "no answer"),
        ("kill -9 $$", "no answer"),
        ("echo fork failed; exit 127", "no answer"),
        ("sleep 600", "no answer"),
    ] {
        bed.script("web", body);
        let Outcome::Monitored { number: 3, health } = bed.order(monitor, "web", &[]).await else {
            panic!("{body}");
        };
        let found = match &health {
            Health::Runs => "runs",
            Health::Failed { cause } if cause == "its status says \"it is stopped\"" => "failed",
            Health::NoAnswer { .. } => "no answer",
            Health::Failed { .. } | Health::NotAsked { .. } => "something else",
        };
        assert_eq!(found, expected, "{body}: {health:?}");
    }
    // A package is being upgraded, say: it could be neither stopped nor started.
    std::fs::remove_file(bed.directory.path().join("resource.d/web")).unwrap();
    let outcome = bed.order(monitor, "web", &[]).await;
    assert!(
        matches!(&outcome, Outcome::Monitored { health: Health::NotAsked { .. }, .. }),
        "{outcome:?}"
    );
}

/// Nothing else is done with a service while its status is asked.
#[tokio::test]
async fn a_stop_ends_the_status_that_hangs_before_it() {
    let mut bed = Bed::new(LONG);
    bed.script("web", "if [ $op = status ]; then sleep 600; fi");
    let resource = Resource::Script { name: "web".to_owned(), arguments: Vec::new() };
    let order = |operation| Order { token: 7, operation, resource: resource.clone() };
    bed.sender.send(order(Operation::Monitor { number: 3 })).unwrap();
    while bed.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.sender.send(order(Operation::Stop)).unwrap();
    let mut outcomes = [bed.reports.recv().await.unwrap(), bed.reports.recv().await.unwrap()]
        .map(|report| report.outcome);
    outcomes.sort_by_key(|it| matches!(it, Outcome::Stopped(_)));
    assert!(
        matches!(&outcomes[0], Outcome::Monitored { health: Health::NotAsked { .. }, .. }),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], Outcome::Stopped(Ok(())));
    assert_eq!(bed.calls(), ["web status", "web stop"]);
}

#[tokio::test]
async fn statuses_that_hang_end_together_those_that_wait_too() {
    let mut bed = Bed::new(LONG);
    bed.script("web", "sleep 600");
    let resource = Resource::Script { name: "web".to_owned(), arguments: Vec::new() };
    for token in 0..20 {
        let operation = Operation::Monitor { number: 1 };
        bed.sender.send(Order { token, operation, resource: resource.clone() }).unwrap();
    }
    while bed.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.sender.end_statuses();
    for _ in 0..20 {
        let outcome = bed.reports.recv().await.unwrap().outcome;
        assert!(
            matches!(&outcome, Outcome::Monitored { health: Health::NotAsked { .. }, .. }),
            "{outcome:?}"
        );
    }
}

/// The next program, or one that adopts, knows nothing of what it has not started itself.
#[tokio::test]
async fn what_may_run_is_not_stopped_by_its_script_being_gone() {
    let mut bed = Bed::new(LONG);
    assert!(matches!(bed.order(Operation::Stop, "web", &[]).await, Outcome::Stopped(Err(_))));
    // Only what does not run is started; and what could not be found has started nothing.
    assert!(matches!(bed.order(Operation::Start, "web", &[]).await, Outcome::Started(Err(_))));
    assert_eq!(bed.order(Operation::Stop, "web", &[]).await, Outcome::Stopped(Ok(())));
}

#[test]
fn times_reach_scripts_as_ha_cf_writes_them() {
    let mut config = crate::core::tests::config(2, 1, 1);
    let cluster = &mut config.cluster;
    cluster.keepalive = Duration::from_micros(500);
    cluster.warntime = Duration::from_micros(1_500);
    cluster.deadtime = Duration::from_millis(30);
    cluster.initdead = Duration::from_secs(2);
    let environment = environment(&config, NodeIndex(0));
    let value = |key: &str| {
        let found = environment.iter().find(|(name, _)| name == key).unwrap();
        found.1.to_str().unwrap()
    };
    let times = ["HA_keepalive", "HA_warntime", "HA_deadtime", "HA_initdead"].map(value);
    assert_eq!(times, ["500us", "1500us", "30ms", "2"]);
}
