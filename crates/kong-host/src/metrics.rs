//! What the filter counts, shared by all workers as nginx shares it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use idempotency_filter::host::MetricKind;

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

    /// The part of Kong's Prometheus page that the filter's metrics are, made as
    /// `kong/plugins/prometheus/wasmx.lua` makes it: of the name, only colons are replaced.
    pub fn page(&self) -> String {
        let told: BTreeMap<String, (&str, u64)> = self.with(|metrics| {
            let line = |m: &Metric| {
                let kind = match m.kind {
                    MetricKind::Counter => "counter",
                    MetricKind::Gauge => "gauge",
                    MetricKind::Histogram => "histogram",
                };
                let key = format!("pw:idempotency:{}", m.name);
                (key.replace(':', "_"), (kind, m.value))
            };
            metrics.iter().map(line).collect()
        });
        let lines = told.iter().map(|(name, (kind, value))| {
            format!("# HELP {name}\n# TYPE {name} {kind}\n{name} {value}\n")
        });
        lines.chain(["\n".to_owned()]).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Vm;
    use prometheus_parse::LineInfo;
    use std::sync::Arc;

    /// What a Prometheus that reads the page makes of it. It gives a page up at the first line that
    /// it cannot read.
    fn read(page: &str) -> Vec<String> {
        let mut samples = Vec::new();
        for line in page.lines() {
            match LineInfo::parse(line) {
                LineInfo::Sample { metric_name, .. } => samples.push(metric_name.to_owned()),
                // Kong gives no text with it, which Prometheus takes and this parser skips.
                LineInfo::Ignored if line.starts_with("# HELP ") => {}
                LineInfo::Ignored => panic!("Prometheus gives up at {line}"),
                LineInfo::Doc { .. } | LineInfo::Type { .. } | LineInfo::Empty => {}
            }
        }
        samples
    }

    #[test]
    fn prometheus_reads_the_page_that_kong_makes_of_the_filters_metrics() {
        let metrics = Arc::new(Metrics::default());
        let config = r#"{"service": {"target": "unix:/run/s.sock"}, "defaults": {"scope": "global"},
            "rules": [{"match": {"methods": "*", "path_prefix": "/"}}]}"#;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            Vm::start(Some(config), metrics.clone(), true);
        });
        let samples = read(&metrics.page());
        let defined = metrics.with(|metrics| metrics.len());
        assert!(defined > 20, "{defined}");
        assert_eq!(samples.len(), defined);
        assert!(samples.contains(&"pw_idempotency_idempotency_executed".to_owned()));
    }

    #[test]
    #[should_panic(expected = "Prometheus gives up")]
    fn a_name_with_a_dot_loses_the_page() {
        let metrics = Metrics::default();
        metrics.define(MetricKind::Counter, "idempotency.executed");
        read(&metrics.page());
    }
}
