//! From runs to one line per row: medians, spread, ratio to the reference of the same round.

use idempotency_bench::spread::Spread;

use crate::rounds::Series;
use crate::run::Sample;

/// A row of the table.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Line {
    /// The row's name.
    pub id: String,
    /// The row's name for readers.
    pub label: String,
    /// Client connections.
    pub connections: usize,
    /// Runs that count.
    pub runs: usize,
    /// Requests per second, in parts of the reference's of the same round.
    pub ratio: Option<Spread>,
    /// Requests per second of Envoy's CPU time, in parts of the reference's of the same round.
    pub cpu_ratio: Option<Spread>,
    /// Requests per second.
    pub rate: Option<Spread>,
    /// Median latency in microseconds.
    pub p50_us: Option<Spread>,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: Option<Spread>,
    /// Envoy's CPU time per request in microseconds.
    pub envoy_us: Option<Spread>,
    /// The service's CPU time per request in microseconds.
    pub service_us: Option<Spread>,
    /// The upstream's CPU time per request in microseconds.
    pub upstream_us: Option<Spread>,
    /// How much of one core Envoy used, in percent.
    pub envoy_busy: Option<Spread>,
    /// How much of one core the service used, in percent.
    pub service_busy: Option<Spread>,
    /// How much of one core the upstream used, in percent.
    pub upstream_busy: Option<Spread>,
}

/// One line for each series. The reference of a series is the first one with its connections.
pub fn lines(all: &[Series]) -> Vec<Line> {
    let reference = |connections| all.iter().find(|s| s.connections == connections);
    all.iter()
        .map(|series| line(series, reference(series.connections).unwrap_or(series)))
        .collect()
}

fn line(series: &Series, reference: &Series) -> Line {
    let each = |value: fn(&Sample) -> f64| Spread::of(series.samples.iter().flatten().map(value));
    let ratio = |value: fn(&Sample) -> f64| {
        let pairs = series.samples.iter().zip(&reference.samples);
        let both = pairs.filter_map(|(own, reference)| Some((own.as_ref()?, reference.as_ref()?)));
        Spread::of(both.map(|(own, reference)| value(own) / value(reference)))
    };
    let mark = if series.row.other { " (other)" } else { "" };
    Line {
        id: series.row.to_string(),
        label: format!("{}{mark}", series.row.label),
        connections: series.connections,
        runs: series.samples.iter().flatten().count(),
        ratio: ratio(|sample| sample.seen.rate()),
        cpu_ratio: ratio(|sample| 1.0 / sample.per_answer(sample.cpu.envoy)),
        rate: each(|sample| sample.seen.rate()),
        p50_us: each(|sample| sample.seen.p50_us as f64),
        p99_us: each(|sample| sample.seen.p99_us as f64),
        envoy_us: each(|sample| sample.per_answer(sample.cpu.envoy)),
        service_us: each(|sample| sample.per_answer(sample.cpu.service)),
        upstream_us: each(|sample| sample.per_answer(sample.cpu.upstream)),
        envoy_busy: each(|sample| sample.busy(sample.cpu.envoy)),
        service_busy: each(|sample| sample.busy(sample.cpu.service)),
        upstream_busy: each(|sample| sample.busy(sample.cpu.upstream)),
    }
}
