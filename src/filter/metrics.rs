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

    pub fn record<H: Host>(&mut self, host: &H, kind: MetricKind, name: &'static str, value: u64) {
        let id = match self.others.get(name) {
            Some(id) => *id,
            None => {
                let Ok(id) = host.define_metric(kind, name) else {
                    return;
                };
                self.others.insert(name, id);
                id
            }
        };
        let _ = host.record_metric(id, value);
    }
}
