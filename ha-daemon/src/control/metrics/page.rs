//! How metrics are written: families with their samples, by the library that knows the format.
//!
//! There are gauges, counters and histograms only: Prometheus' older text format, which node_exporter's
//! textfile collector reads, has no other types, and a page with one of them would be refused as a whole.

use std::borrow::Cow;
use std::fmt;

use ha_common::buckets::{CEILING_BITS, FLOOR_BITS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::histogram::Bucket;
use crate::snapshot::DurationStatus;

/// What the page is, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What all names begin with.
const PREFIX: &str = "ha";

/// The page of what is collected.
pub(super) fn written(collector: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// A metric family: its name without prefix, unit and `_total`.
pub(super) struct Family {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
}

pub(super) const fn plain(name: &'static str, help: &'static str) -> Family {
    Family { name, unit: None, help }
}

pub(super) const fn in_seconds(name: &'static str, help: &'static str) -> Family {
    Family { name, unit: Some(Unit::Seconds), help }
}

pub(super) const fn in_bytes(name: &'static str, help: &'static str) -> Family {
    Family { name, unit: Some(Unit::Bytes), help }
}

/// What tells a value from the others of its family.
pub(super) type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;
/// The values of one family.
pub(super) type Samples<'a, V> = Vec<(Labels<'a>, V)>;

/// The only value of a family.
pub(super) fn one<V>(value: V) -> Samples<'static, V> {
    vec![(Labels::new(), value)]
}

/// What is being written.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    pub(super) fn gauge<V: EncodeGaugeValue>(
        &mut self,
        family: Family,
        samples: Samples<'_, V>,
    ) -> fmt::Result {
        self.write(family, MetricType::Gauge, samples, |encoder, value| encoder.encode_gauge(value))
    }

    pub(super) fn counter(&mut self, family: Family, samples: Samples<'_, u64>) -> fmt::Result {
        self.write(family, MetricType::Counter, samples, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(value, None)
        })
    }

    pub(super) fn histogram(
        &mut self,
        family: Family,
        samples: Samples<'_, Distribution<'_>>,
    ) -> fmt::Result {
        self.write(family, MetricType::Histogram, samples, |encoder, value| {
            let (sum, buckets) = (seconds(value.sum_us), by_octave(&value.durations.buckets));
            encoder.encode_histogram::<NoLabelSet>(sum, value.durations.count, &buckets, None)
        })
    }

    /// Writes a family that has a value; one without would be but a name.
    fn write<V>(
        &mut self,
        family: Family,
        kind: MetricType,
        samples: Samples<'_, V>,
        write: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let Family { name, unit, help } = family;
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in &samples {
            if labels.is_empty() {
                write(&mut encoder, value)?;
            } else {
                write(&mut encoder.encode_family(labels)?, value)?;
            }
        }
        Ok(())
    }
}

/// Durations whose sum is known: a histogram has to tell it.
pub(super) struct Distribution<'a> {
    sum_us: u64,
    durations: &'a DurationStatus,
}

impl<'a> Distribution<'a> {
    pub(super) fn of(durations: &'a DurationStatus) -> Option<Self> {
        Some(Self { sum_us: durations.sum_us?, durations })
    }
}

/// One bucket for each octave, empty ones as well: the bounds of a histogram must not change from one
/// look to the next, and four buckets to an octave would be a hundred series.
pub(super) fn by_octave(buckets: &[Bucket]) -> Vec<(f64, u64)> {
    let bounds = (FLOOR_BITS..=CEILING_BITS).map(|bits| (1_u64 << bits) as f64 / 1e9);
    let mut octaves: Vec<(f64, u64)> =
        bounds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
    let last = octaves.len() - 1;
    for Bucket { below_ns, count } in buckets {
        let octave = below_ns
            .and_then(u64::checked_next_power_of_two)
            .map_or(last, |end_ns| (end_ns.ilog2().saturating_sub(FLOOR_BITS) as usize).min(last));
        octaves[octave].1 += count;
    }
    octaves
}

/// In the unit of the page.
pub(super) fn seconds(time_us: u64) -> f64 {
    time_us as f64 / 1e6
}
