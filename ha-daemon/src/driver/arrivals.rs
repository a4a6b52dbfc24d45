//! How heartbeats arrive, as it is shown; and when counting begins anew.

use ha_common::arrivals::Arrivals;
use ha_common::buckets::BUCKETS;

use super::{Driver, arrivals, record};
use crate::advice::{Times, advise};
use crate::histogram::Histogram;
use crate::io::clock::monotonic_ns;
use crate::snapshot::{ArrivalStatus, DurationStatus, Severity, Via};

/// Pause between two looks at the peers' keepalives.
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;

impl Driver {
    /// Begins anew where a peer changed its keepalive: gaps of two keepalives say nothing of either.
    pub(super) fn renew_arrivals(&mut self, now_ns: u64) {
        if now_ns < self.arrivals_due_ns {
            return;
        }
        self.arrivals_due_ns = now_ns + LOOK_INTERVAL_NS;
        for slot in 0..self.parts.paths.len() {
            let Some(record) = record(&self.parts, slot) else { continue };
            let keepalive_us = u64::from(record.keepalive_us());
            if keepalive_us == 0 || self.arrivals_keepalives_us[slot] == keepalive_us {
                continue;
            }
            let Some(known) = arrivals(&self.parts, slot) else { continue };
            self.arrivals_keepalives_us[slot] = keepalive_us;
            if known.keepalive_us == keepalive_us {
                continue;
            }
            // Of a path that was never looked at, what it has counted is of this keepalive.
            let known = if known.keepalive_us == 0 { known } else { Arrivals::EMPTY };
            self.set_arrivals(slot, &Arrivals { keepalive_us, ..known });
        }
    }

    fn set_arrivals(&mut self, slot: usize, arrivals: &Arrivals) {
        let Ok(number) = u32::try_from(slot) else { return };
        let via = self.parts.receptions.get(slot).map(|it| it.via);
        match (&mut self.parts.kernel, via) {
            (_, Some(Via::Socket | Via::Serial) | None) | (None, _) => {
                self.parts.table.set_arrivals(number, arrivals);
            }
            (Some(kernel), Some(Via::XdpNative | Via::XdpGeneric | Via::Tc)) => {
                if let Err(error) = kernel.set_arrivals(number, arrivals) {
                    let text = format!("gaps of two keepalives are counted together: {error:#}");
                    self.driver_note(Severity::Warning, "not-counted", text);
                }
            }
        }
    }

    /// What is shown of a path; nothing before the first interval.
    pub(super) fn arrival_status(&self, slot: usize) -> Option<ArrivalStatus> {
        let known = arrivals(&self.parts, slot).filter(|it| it.observed_ns != 0)?;
        let path = &self.parts.paths[slot];
        let times = self.parts.config.times(path.link);
        let keepalive_us = u64::from(record(&self.parts, slot)?.keepalive_us());
        let times = Times {
            keepalive_ns: keepalive_us * 1_000,
            deadtime_ns: times.deadtime.as_nanos() as u64,
            is_auto: times.auto.is_some(),
        };
        let age_ns = monotonic_ns().saturating_sub(known.longest_gap_at_ns);
        Some(ArrivalStatus {
            observed_s: known.observed_ns / 1_000_000_000,
            interval: DurationStatus {
                sum_us: Some(known.observed_ns / 1_000),
                ..durations(&known.intervals, known.longest_gap_ns)
            },
            jitter: durations(&known.jitter, known.largest_jitter_ns),
            longest_gap_us: known.longest_gap_ns / 1_000,
            longest_gap_ago_s: age_ns / 1_000_000_000,
            longest_burst: known.longest_burst,
            bursts: known.bursts.to_vec(),
            outages: known.outages,
            advice: advise(&known, times),
        })
    }
}

fn durations(counts: &[u64; BUCKETS], longest_ns: u64) -> DurationStatus {
    let histogram = Histogram(counts);
    let quantile_us = |share| histogram.quantile_ns(share, longest_ns) / 1_000;
    DurationStatus {
        count: histogram.count(),
        p50_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
        p999_us: quantile_us(0.999),
        max_us: longest_ns / 1_000,
        sum_us: None,
        buckets: histogram.buckets(),
    }
}
