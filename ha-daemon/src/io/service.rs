//! Services: resources that are carried out by programs, and the source address. Asked by the
//! driver, which never waits: an [`Order`] goes into a bounded queue, a [`ServiceReport`] comes back.
//!
//! Everything here runs on tokio. Each order is a task of its own, so that a script that hangs holds
//! up nothing but its own group; the core gives one order at a time for each group, except probes and
//! statuses of what runs, of which few run at once. Nothing else is done with a service while its status is
//! asked: a start or a stop ends the status first.

mod agent;
pub(crate) mod lookup;
mod script;
mod source;
mod systemd;
mod workshop;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use self::workshop::Workshop;
use crate::config::heartbeat::time_text;
use crate::config::{Config, GROUPS_MAX, NodeIndex, RESOURCES_MAX, Resource, status_time};
use crate::core::io::{Health, Presence};

/// Most orders that wait; one more is refused. Each resource has a status at most, and another order.
const ORDERS_MAX: usize = 2 * GROUPS_MAX * RESOURCES_MAX;
/// Pause between two tries of a stop that fails, as Heartbeat does.
const STOP_PAUSE: Duration = Duration::from_secs(1);

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Find out whether it runs.
    Probe,
    /// The same while it is to run.
    Monitor {
        /// Comes back in the report.
        number: u32,
    },
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
    /// Of a status while it is to run.
    Monitored {
        /// The order's number.
        number: u32,
        /// What came of it.
        health: Health,
    },
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
    /// Of a status: told when nobody waits for its answer any more.
    pub ending: Option<Arc<Notify>>,
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
            ending: None,
        }
    }

    fn status_timeout(&self) -> Duration {
        status_time(self.timeout)
    }

    /// Ends when the program that is run has to end before its time; never, unless of a status.
    async fn withdrawn(&self) {
        match &self.ending {
            Some(ending) => ending.notified().await,
            None => std::future::pending().await,
        }
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

/// What comes through the queue.
#[derive(Debug)]
enum Letter {
    Order(Order),
    EndStatuses,
}

/// Where orders go. Any thread may use it, also a real-time one: it never blocks.
#[derive(Debug, Clone)]
pub struct ServiceSender(mpsc::Sender<Letter>);

impl ServiceSender {
    /// Queues an order.
    ///
    /// # Errors
    /// The queue is full, or nobody takes orders any more.
    pub fn send(&self, order: Order) -> Result<(), String> {
        self.0.try_send(Letter::Order(order)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                format!("{ORDERS_MAX} operations on services wait already")
            }
            mpsc::error::TrySendError::Closed(_) => "services are run no more".to_owned(),
        })
    }

    /// Ends all statuses that are under way or wait; they are reported as not asked. Where there is no room
    /// for this, they end by themselves.
    pub fn end_statuses(&self) {
        let _ = self.0.try_send(Letter::EndStatuses);
    }
}

/// Takes orders, on the runtime of the caller, until the last sender is gone.
#[must_use]
pub fn start(options: ServiceOptions) -> ServiceSender {
    let (sender, mut letters) = mpsc::channel::<Letter>(ORDERS_MAX);
    let workshop = Arc::new(Workshop::new(options));
    tokio::spawn(async move {
        while let Some(letter) = letters.recv().await {
            match letter {
                Letter::Order(order) => workshop.take(order),
                Letter::EndStatuses => workshop.end_statuses(),
            }
        }
    });
    ServiceSender(sender)
}

#[cfg(test)]
mod tests;
