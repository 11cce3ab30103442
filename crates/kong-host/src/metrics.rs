//! What the filter counts, shared by all workers as nginx shares it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use idempotency::host::MetricKind;

#[derive(Debug)]
struct Metric {
    name: String,
    kind: MetricKind,
    value: u64,
}

/// All metrics, and what the host counts itself.
#[derive(Debug, Default)]
pub struct Metrics {
    filter: Mutex<Vec<Metric>>,
    /// Callouts that are out.
    callouts: AtomicU64,
}

impl Metrics {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Metric>) -> T) -> T {
        f(&mut self.filter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The id of a metric of this name; a new one if there is none.
    pub fn define(&self, kind: MetricKind, name: &str) -> u32 {
        self.with(|metrics| {
            let known = metrics.iter().position(|m| m.name == name);
            let index = known.unwrap_or_else(|| {
                metrics.push(Metric {
                    name: name.to_owned(),
                    kind,
                    value: 0,
                });
                metrics.len() - 1
            });
            u32::try_from(index).unwrap_or(u32::MAX)
        })
    }

    /// Its kind.
    pub fn kind(&self, id: u32) -> Option<MetricKind> {
        self.with(|metrics| Some(metrics.get(id as usize)?.kind))
    }

    /// Adds to it.
    pub fn add(&self, id: u32, by: i64) {
        self.with(|metrics| {
            if let Some(metric) = metrics.get_mut(id as usize) {
                metric.value = metric.value.saturating_add_signed(by);
            }
        });
    }

    /// Sets a gauge.
    pub fn record(&self, id: u32, value: u64) {
        self.with(|metrics| {
            if let Some(metric) = metrics.get_mut(id as usize) {
                metric.value = value;
            }
        });
    }

    /// A callout leaves.
    pub fn callout_out(&self) {
        self.callouts.fetch_add(1, Ordering::Relaxed);
    }

    /// It is over.
    pub fn callout_back(&self) {
        self.callouts.fetch_sub(1, Ordering::Relaxed);
    }

    /// `name: value` per line.
    pub fn text(&self) -> String {
        let values: BTreeMap<String, u64> =
            self.with(|metrics| metrics.iter().map(|m| (m.name.clone(), m.value)).collect());
        let callouts = self.callouts.load(Ordering::Relaxed);
        let lines = values
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        lines
            .chain([format!("host.callouts: {callouts}\n")])
            .collect()
    }
}
