//! Counters and histograms of the host, defined when they are first used.

use crate::host::{Host, MetricKind};
use crate::stats::Counter;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Metrics {
    counters: BTreeMap<Counter, u32>,
    others: BTreeMap<&'static str, u32>,
}

impl Metrics {
    pub fn count<H: Host>(&mut self, host: &H, counter: Counter) {
        let id = match self.counters.get(&counter) {
            Some(id) => *id,
            None => {
                let Ok(id) = host.define_metric(MetricKind::Counter, &counter.name()) else {
                    return;
                };
                self.counters.insert(counter, id);
                id
            }
        };
        // A host without metrics loses the count, nothing else.
        let _ = host.increment_metric(id, 1);
    }

    /// Sets a gauge or adds a value to a histogram.
    pub fn record<H: Host>(&mut self, host: &H, kind: MetricKind, name: &'static str, value: u64) {
        if let Some(id) = self.other(host, kind, name) {
            let _ = host.record_metric(id, value);
        }
    }

    /// Adds to a gauge.
    pub fn add<H: Host>(&mut self, host: &H, kind: MetricKind, name: &'static str, change: i64) {
        if let Some(id) = self.other(host, kind, name) {
            let _ = host.increment_metric(id, change);
        }
    }

    fn other<H: Host>(&mut self, host: &H, kind: MetricKind, name: &'static str) -> Option<u32> {
        if let Some(id) = self.others.get(name) {
            return Some(*id);
        }
        let id = host.define_metric(kind, name).ok()?;
        self.others.insert(name, id);
        Some(id)
    }
}
