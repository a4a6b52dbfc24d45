//! How many events of each kind there were: counted by the driver, read by anybody, without a lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Kinds that are counted: more than the daemon has words for.
const KINDS_MAX: usize = 128;

/// Counts by kind. A place belongs to its kind for ever, so readers need no lock.
#[derive(Debug)]
pub(super) struct EventKinds(Box<[(OnceLock<String>, AtomicU64)]>);

impl EventKinds {
    /// Goes on from those counts.
    pub(super) fn resume(counts: BTreeMap<String, u64>) -> Self {
        let mut counts = counts.into_iter();
        let place = |()| match counts.next() {
            Some((kind, count)) => (OnceLock::from(kind), AtomicU64::new(count)),
            None => (OnceLock::new(), AtomicU64::new(0)),
        };
        Self(std::iter::repeat_n((), KINDS_MAX).map(place).collect())
    }

    /// Counts one more. Only one thread at a time may do that: the log's producer.
    pub(super) fn count(&self, kind: &str) {
        for (word, count) in &self.0 {
            if word.get_or_init(|| kind.to_owned()) == kind {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    /// All counts.
    pub(super) fn read(&self) -> BTreeMap<String, u64> {
        let known = self.0.iter().map_while(|(word, count)| Some((word.get()?, count)));
        known.map(|(word, count)| (word.clone(), count.load(Relaxed))).collect()
    }
}
