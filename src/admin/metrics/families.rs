//! OpenMetrics text, family by family.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::HistogramReading;

/// Writes whole families, each with its description.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    pub(super) fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut Samples(self.0.encode_descriptor(name, help, None, kind)?))
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        encoder.encode_gauge(&value)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |samples| {
            let mut values = values.iter();
            values.try_for_each(|(value, count)| samples.counter(&[(label, *value)], *count))
        })
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, reading: &HistogramReading) -> fmt::Result {
        let count = reading.buckets.iter().map(|(_, count)| count).sum();
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(reading.sum_seconds, count, &reading.buckets, None)
    }
}

/// Writes the samples of one family.
pub(super) struct Samples<'a>(MetricEncoder<'a>);

impl Samples<'_> {
    pub(super) fn gauge<L: EncodeLabelSet>(&mut self, labels: &L, value: u64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    pub(super) fn gauge_seconds<L: EncodeLabelSet>(&mut self, labels: &L, millis: i64) -> fmt::Result {
        let seconds = std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64();
        let seconds = if millis < 0 { -seconds } else { seconds };
        self.0.encode_family(labels)?.encode_gauge(&seconds)
    }

    pub(super) fn counter<L: EncodeLabelSet>(&mut self, labels: &L, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_family(labels)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }
}
