use std::os::unix::fs::PermissionsExt as _;

use super::*;

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
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
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
    assert_eq!(bed.order(Operation::Probe, "web", &[]).await, Outcome::Probed(Presence::Absent));
    let Outcome::Started(Err(error)) = bed.order(Operation::Start, "web", &[]).await else {
        panic!("it started");
    };
    assert!(error.contains("no script web in") && error.contains("web.service"), "{error}");
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
