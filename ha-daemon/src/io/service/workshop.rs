//! Where orders are carried out, each by a task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::agent::{self, Lookup};
use super::{Operation, Order, Outcome, ServiceOptions, ServiceReport};
use crate::config::Resource;
use crate::core::io::{Health, Presence};

/// Most probes that run at once; and most statuses of what runs, which wait for each other, not for
/// probes.
const PROBES_MAX: usize = 8;
/// Pause before a report is given once more that found no room.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// What all orders share.
pub(super) struct Workshop {
    options: ServiceOptions,
    probes: Semaphore,
    monitors: Semaphore,
    /// Services that do not run, as far as this daemon has to do with that, by token. Of any other that is
    /// not in the list, nothing is known: it may run.
    stopped: Mutex<BTreeSet<u64>>,
    statuses: Mutex<BTreeMap<u64, Status>>,
}

/// A status that was ordered and has not ended.
#[derive(Debug)]
struct Status {
    /// Told when nobody waits for its answer any more.
    ending: Arc<Notify>,
    /// Closed when it has ended.
    ended: Arc<Semaphore>,
}

/// Tells the end of a status, whatever ends it.
struct Closing(Arc<Semaphore>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workshop {
    pub(super) fn new(options: ServiceOptions) -> Self {
        Self {
            options,
            probes: Semaphore::new(PROBES_MAX),
            monitors: Semaphore::new(PROBES_MAX),
            stopped: Mutex::default(),
            statuses: Mutex::default(),
        }
    }

    pub(super) fn take(self: &Arc<Self>, order: Order) {
        let workshop = Arc::clone(self);
        if let Operation::Monitor { number } = order.operation {
            // Known before anything else is taken: what comes next ends it.
            let ending = Arc::new(Notify::new());
            let ended = Arc::new(Semaphore::new(0));
            let status = Status { ending: Arc::clone(&ending), ended: Arc::clone(&ended) };
            lock(&self.statuses).insert(order.token, status);
            tokio::spawn(async move {
                let began = Instant::now();
                let closing = Closing(ended);
                let health = workshop.status(&order.resource, ending).await;
                workshop.forget_status(order.token, &closing.0);
                drop(closing);
                let outcome = Outcome::Monitored { number, health };
                workshop.report(order.token, outcome, began).await;
            });
        } else {
            tokio::spawn(async move { workshop.carry_out(order).await });
        }
    }

    pub(super) fn end_statuses(&self) {
        lock(&self.statuses).values().for_each(|status| status.ending.notify_one());
    }

    /// Ends the status of a service, and waits for that.
    async fn end_status(&self, token: u64) {
        let status = lock(&self.statuses).remove(&token);
        if let Some(status) = status {
            status.ending.notify_one();
            // It has no permits: this ends when it is closed.
            let _ = status.ended.acquire().await;
        }
    }

    fn forget_status(&self, token: u64, ended: &Arc<Semaphore>) {
        let mut statuses = lock(&self.statuses);
        if statuses.get(&token).is_some_and(|it| Arc::ptr_eq(&it.ended, ended)) {
            statuses.remove(&token);
        }
    }

    async fn carry_out(&self, order: Order) {
        let began = Instant::now();
        self.end_status(order.token).await;
        let outcome = match order.operation {
            Operation::Probe => {
                // The semaphore is never closed.
                let _permit = self.probes.acquire().await;
                Outcome::Probed(self.probe(&order).await)
            }
            Operation::Start => Outcome::Started(self.start(&order).await),
            Operation::Stop => {
                let outcome = self.stop(&order).await;
                if outcome.is_ok() {
                    lock(&self.stopped).insert(order.token);
                }
                Outcome::Stopped(outcome)
            }
            // Taken by another way.
            Operation::Monitor { .. } => return,
        };
        self.report(order.token, outcome, began).await;
    }

    async fn report(&self, token: u64, outcome: Outcome, began: Instant) {
        let report = ServiceReport { token, outcome, duration: began.elapsed() };
        while !(self.options.report)(report.clone()) {
            tokio::time::sleep(REPORT_PAUSE).await;
        }
    }

    async fn probe(&self, order: &Order) -> Presence {
        let presence = match agent::find(&order.resource, &self.options).await {
            Lookup::Found(agent) => agent.probe(&self.options).await,
            Lookup::NotThere { message } => {
                tracing::warn!("{message}");
                Presence::NotInstalled { cause: message }
            }
            Lookup::Unclear { message } => Presence::Unclear { cause: message },
        };
        if presence == Presence::Absent {
            lock(&self.stopped).insert(order.token);
        } else {
            lock(&self.stopped).remove(&order.token);
        }
        presence
    }

    async fn status(&self, resource: &Resource, ending: Arc<Notify>) -> Health {
        let withdrawn = || Health::NotAsked { cause: "nobody waits for it any more".to_owned() };
        let _permit = tokio::select! {
            permit = self.monitors.acquire() => permit,
            () = ending.notified() => return withdrawn(),
        };
        let options = ServiceOptions { ending: Some(ending), ..self.options.clone() };
        match agent::find(resource, &options).await {
            Lookup::Found(agent) => agent.health(&options).await,
            // It was there when the service was started, and without it nothing can be done: an upgrade of its
            // package may be under way.
            Lookup::NotThere { message } | Lookup::Unclear { message } => {
                Health::NotAsked { cause: message }
            }
        }
    }

    async fn start(&self, order: &Order) -> Result<(), String> {
        match agent::find(&order.resource, &self.options).await {
            Lookup::Found(agent) => {
                lock(&self.stopped).remove(&order.token);
                agent.start(&self.options).await
            }
            // Only what does not run is started.
            Lookup::NotThere { message } => {
                lock(&self.stopped).insert(order.token);
                Err(message)
            }
            Lookup::Unclear { message } => Err(message),
        }
    }

    async fn stop(&self, order: &Order) -> Result<(), String> {
        match agent::find(&order.resource, &self.options).await {
            Lookup::Found(agent) => agent.stop(&self.options).await,
            // Its start failed for the same reason: there is nothing to stop.
            Lookup::NotThere { message } if lock(&self.stopped).contains(&order.token) => {
                tracing::debug!("nothing to stop: {message}");
                Ok(())
            }
            Lookup::NotThere { message } | Lookup::Unclear { message } => Err(message),
        }
    }
}
