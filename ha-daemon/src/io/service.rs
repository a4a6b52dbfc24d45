//! Services: resources that are carried out by programs, and the source address. Asked by the
//! driver, which never waits: an [`Order`] goes into a bounded queue, a [`ServiceReport`] comes back.
//!
//! Everything here runs on tokio. Each order is a task of its own, so that a script that hangs holds
//! up nothing but its own group; the core gives one order at a time for each group, except probes, of
//! which few run at once.

mod agent;
pub(crate) mod lookup;
mod script;
mod source;
mod systemd;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use self::agent::Lookup;
use crate::config::heartbeat::time_text;
use crate::config::{Config, GROUPS_MAX, NodeIndex, RESOURCES_MAX, Resource};
use crate::core::io::Presence;

/// Most orders that wait; one more is refused. Each resource has one at most.
const ORDERS_MAX: usize = GROUPS_MAX * RESOURCES_MAX;
/// Most probes that run at once.
const PROBES_MAX: usize = 8;
/// Longest time that a status may take: a third of what a start may take, up to this.
pub const STATUS_TIME_MAX: Duration = Duration::from_secs(20);
/// Pause between two tries of a stop that fails, as Heartbeat does.
const STOP_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a report is given once more that found no room.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Find out whether it runs.
    Probe,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
}

/// What the driver asks for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Comes back in the report; one for each resource.
    pub token: u64,
    /// What is to be done.
    pub operation: Operation,
    /// With what.
    pub resource: Resource,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceReport {
    /// The order's token.
    pub token: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a probe.
    Probed(Presence),
    /// Of a start.
    Started(Result<(), String>),
    /// Of a stop.
    Stopped(Result<(), String>),
}

/// Where reports go; false: there was no room, try again.
pub type ReportService = Arc<dyn Fn(ServiceReport) -> bool + Send + Sync>;

/// How services are run.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Where scripts are looked up first.
    pub script_directory: PathBuf,
    /// Longest time that a start or a stop may take.
    pub timeout: Duration,
    /// What programs get as their environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Pause between two tries of a stop that fails.
    pub stop_pause: Duration,
    /// Where reports go.
    pub report: ReportService,
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceOptions")
            .field("script_directory", &self.script_directory)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ServiceOptions {
    /// As the configuration says.
    #[must_use]
    pub fn new(config: &Config, own: NodeIndex, report: ReportService) -> Self {
        Self {
            script_directory: config.script_directory.clone(),
            timeout: config.cluster.script_timeout,
            environment: environment(config, own),
            stop_pause: STOP_PAUSE,
            report,
        }
    }

    fn status_timeout(&self) -> Duration {
        (self.timeout / 3).min(STATUS_TIME_MAX)
    }
}

/// The environment of resource scripts and clients: nothing of the daemon's own but its language and
/// time zone; a search path; and what Heartbeat tells of itself.
#[must_use]
pub fn environment(config: &Config, own: NodeIndex) -> Vec<(OsString, OsString)> {
    let cluster = &config.cluster;
    let directory = config.script_directory.parent().unwrap_or(Path::new("/"));
    let mut environment: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("TERM".into(), "dumb".into()),
        ("HA_CURHOST".into(), config.nodes[own.0].name.as_str().into()),
        ("HA_DIR".into(), directory.into()),
        ("HA_RESOURCEDIR".into(), config.script_directory.clone().into()),
        ("HA_cluster".into(), cluster.name.clone().into()),
        ("HA_keepalive".into(), time_text(cluster.keepalive).into()),
        ("HA_warntime".into(), time_text(cluster.warntime).into()),
        ("HA_deadtime".into(), time_text(cluster.deadtime).into()),
        ("HA_initdead".into(), time_text(cluster.initdead).into()),
        ("HA_udpport".into(), cluster.port.to_string().into()),
    ];
    let logging = &config.logging;
    for (upper, lower, file) in [
        ("HA_LOGFILE", "HA_logfile", &logging.file),
        ("HA_DEBUGLOG", "HA_debugfile", &logging.debug_file),
    ] {
        let names = file.iter().flat_map(|file| [upper, lower].map(|name| (name, file)));
        environment.extend(names.map(|(name, file)| (name.into(), file.clone().into())));
    }
    if let Some(facility) = &logging.syslog_facility {
        environment.push(("HA_LOGFACILITY".into(), facility.into()));
        environment.push(("HA_logfacility".into(), facility.into()));
    }
    let inherited = |(key, _): &(OsString, OsString)| {
        key.to_str().is_some_and(|key| key == "LANG" || key == "TZ" || key.starts_with("LC_"))
    };
    environment.extend(std::env::vars_os().filter(inherited));
    environment
}

/// Where orders go. Any thread may use it, also a real-time one: it never blocks.
#[derive(Debug, Clone)]
pub struct ServiceSender(mpsc::Sender<Order>);

impl ServiceSender {
    /// Queues an order.
    ///
    /// # Errors
    /// The queue is full, or nobody takes orders any more.
    pub fn send(&self, order: Order) -> Result<(), String> {
        self.0.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                format!("{ORDERS_MAX} operations on services wait already")
            }
            mpsc::error::TrySendError::Closed(_) => "services are run no more".to_owned(),
        })
    }
}

/// Takes orders, on the runtime of the caller, until the last sender is gone.
#[must_use]
pub fn start(options: ServiceOptions) -> ServiceSender {
    let (sender, mut orders) = mpsc::channel::<Order>(ORDERS_MAX);
    let workshop = Arc::new(Workshop {
        options,
        probes: Semaphore::new(PROBES_MAX),
        started: Mutex::default(),
    });
    tokio::spawn(async move {
        while let Some(order) = orders.recv().await {
            let workshop = Arc::clone(&workshop);
            tokio::spawn(async move { workshop.carry_out(order).await });
        }
    });
    ServiceSender(sender)
}

/// What all orders share.
struct Workshop {
    options: ServiceOptions,
    probes: Semaphore,
    /// Services that this daemon has started, by token.
    started: Mutex<BTreeSet<u64>>,
}

impl Workshop {
    async fn carry_out(&self, order: Order) {
        let began = Instant::now();
        let outcome = match order.operation {
            Operation::Probe => {
                // The semaphore is never closed.
                let _permit = self.probes.acquire().await;
                Outcome::Probed(self.probe(&order.resource).await)
            }
            Operation::Start => {
                let outcome = self.start(&order.resource).await;
                if outcome.is_ok() {
                    self.started().insert(order.token);
                }
                Outcome::Started(outcome)
            }
            Operation::Stop => {
                let outcome = self.stop(&order).await;
                if outcome.is_ok() {
                    self.started().remove(&order.token);
                }
                Outcome::Stopped(outcome)
            }
        };
        let report = ServiceReport { token: order.token, outcome, duration: began.elapsed() };
        while !(self.options.report)(report.clone()) {
            tokio::time::sleep(REPORT_PAUSE).await;
        }
    }

    fn started(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(&self, resource: &Resource) -> Presence {
        match agent::find(resource, &self.options).await {
            Lookup::Found(agent) => agent.probe(&self.options).await,
            // What is not installed does not run.
            Lookup::NotThere { message } => {
                tracing::warn!("{message}");
                Presence::Absent
            }
            Lookup::Unclear { message } => Presence::Unclear { cause: message },
        }
    }

    async fn start(&self, resource: &Resource) -> Result<(), String> {
        match agent::find(resource, &self.options).await {
            Lookup::Found(agent) => agent.start(&self.options).await,
            Lookup::NotThere { message } | Lookup::Unclear { message } => Err(message),
        }
    }

    async fn stop(&self, order: &Order) -> Result<(), String> {
        match agent::find(&order.resource, &self.options).await {
            Lookup::Found(agent) => agent.stop(&self.options).await,
            // Its start failed for the same reason: there is nothing to stop.
            Lookup::NotThere { message } if !self.started().contains(&order.token) => {
                tracing::debug!("nothing to stop: {message}");
                Ok(())
            }
            Lookup::NotThere { message } | Lookup::Unclear { message } => Err(message),
        }
    }
}

#[cfg(test)]
mod tests;
