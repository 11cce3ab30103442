//! Counters, gauges and histograms of the host.

use crate::host::{Host, MetricKind};
use crate::profile::Profile;
use crate::stats::{Counter, OTHERS};

#[derive(Debug, Default)]
pub(super) struct Metrics {
    counters: Vec<(Counter, u32)>,
    others: Vec<(&'static str, u32)>,
}

impl Metrics {
    /// Defines all of them, before the first request. Not when they are first used, and no histogram
    /// in Kong: ngx_wasm_module takes a lock to define a metric and when a histogram grows, Kong's
    /// Prometheus plugin sleeps while it holds that lock, and a worker that meets it in a request
    /// stands still for ever (measured, `docs/kong-facts.md`).
    ///
    /// A host without metrics loses what is counted, nothing else.
    pub fn define<H: Host>(&mut self, host: &H, profile: Profile) {
        if !self.counters.is_empty() {
            return;
        }
        for counter in Counter::all() {
            if let Ok(id) = host.define_metric(MetricKind::Counter, &counter.name()) {
                self.counters.push((counter, id));
            }
        }
        for (kind, name) in OTHERS {
            if profile == Profile::Kong && kind == MetricKind::Histogram {
                continue;
            }
            if let Ok(id) = host.define_metric(kind, name) {
                self.others.push((name, id));
            }
        }
    }

    pub fn count<H: Host>(&self, host: &H, counter: Counter) {
        if let Some((_, id)) = self.counters.iter().find(|(c, _)| *c == counter) {
            let _ = host.increment_metric(*id, 1);
        }
    }

    /// Sets a gauge or adds a value to a histogram.
    pub fn record<H: Host>(&self, host: &H, name: &str, value: u64) {
        if let Some(id) = self.other(name) {
            let _ = host.record_metric(id, value);
        }
    }

    /// Adds to a gauge.
    pub fn add<H: Host>(&self, host: &H, name: &str, change: i64) {
        if let Some(id) = self.other(name) {
            let _ = host.increment_metric(id, change);
        }
    }

    fn other(&self, name: &str) -> Option<u32> {
        let (_, id) = self.others.iter().find(|(n, _)| *n == name)?;
        Some(*id)
    }
}
