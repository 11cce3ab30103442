//! From runs to one line per row: medians, spread, ratio to the reference of the same round.

use idempotency_bench::spread::Spread;

use crate::plan::Cell;
use crate::rounds::Series;
use crate::run::Sample;
use idempotency_bench::wrk::SHARES;

/// A row of a table.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Line {
    /// The row's name.
    pub id: String,
    /// The row's name for readers.
    pub label: String,
    /// Name of the bodies' sizes.
    pub size: &'static str,
    /// Client connections.
    pub connections: usize,
    /// Worker threads of Envoy.
    pub workers: u16,
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
    /// Median latency less the reference's of the same round, in microseconds.
    pub added_us: Option<Spread>,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: Option<Spread>,
    /// Share in percent, and median over the rounds of that percentile of the latency.
    pub latency_us: Vec<(f64, f64)>,
    /// Envoy's CPU time per request in microseconds.
    pub envoy_us: Option<Spread>,
    /// The service's CPU time per request in microseconds.
    pub service_us: Option<Spread>,
    /// That of its store's server.
    pub server_us: Option<Spread>,
    /// How much of one core Envoy used, in percent.
    pub envoy_busy: Option<Spread>,
    /// How much of one core the service used, in percent.
    pub service_busy: Option<Spread>,
    /// How much of one core its store's server used, in percent.
    pub server_busy: Option<Spread>,
    /// How much of one core the upstream used, in percent.
    pub upstream_busy: Option<Spread>,
    /// How much of one core the load generator used, in percent.
    pub load_busy: Option<Spread>,
    /// The cell.
    #[serde(skip)]
    pub cell: Cell,
}

/// One line for each series.
pub fn lines(all: &[Series]) -> Vec<Line> {
    let table = |s: &Series| (s.workers, s.cell.size, s.cell.connections);
    let reference = |series: &Series| all.iter().find(|other| table(other) == table(series));
    all.iter()
        .map(|series| line(series, reference(series).unwrap_or(series)))
        .collect()
}

fn line(series: &Series, reference: &Series) -> Line {
    let each =
        |value: &dyn Fn(&Sample) -> f64| Spread::of(series.samples.iter().flatten().map(value));
    let beside = |value: &dyn Fn(&Sample, &Sample) -> f64| {
        let pairs = series.samples.iter().zip(&reference.samples);
        let both = pairs.filter_map(|(own, reference)| Some((own.as_ref()?, reference.as_ref()?)));
        Spread::of(both.map(|(own, reference)| value(own, reference)))
    };
    let cell = series.cell;
    let mark = if cell.row.other { " (other)" } else { "" };
    Line {
        id: cell.row.to_string(),
        label: format!("{}{mark}", cell.row.label),
        size: cell.size.id,
        connections: cell.connections,
        workers: series.workers,
        runs: series.samples.iter().flatten().count(),
        ratio: beside(&|own, reference| own.seen.rate() / reference.seen.rate()),
        cpu_ratio: beside(&|own, reference| {
            reference.per_answer(reference.cpu.envoy) / own.per_answer(own.cpu.envoy)
        }),
        rate: each(&|sample| sample.seen.rate()),
        p50_us: each(&|sample| sample.seen.latency(50.0)),
        added_us: beside(&|own, reference| own.seen.latency(50.0) - reference.seen.latency(50.0)),
        p99_us: each(&|sample| sample.seen.latency(99.0)),
        latency_us: SHARES
            .iter()
            .filter_map(|share| {
                let times = each(&|sample| sample.seen.latency(*share));
                Some((*share, times?.median))
            })
            .collect(),
        envoy_us: each(&|sample| sample.per_answer(sample.cpu.envoy)),
        service_us: each(&|sample| sample.per_answer(sample.cpu.service)),
        server_us: each(&|sample| sample.per_answer(sample.cpu.server)),
        envoy_busy: each(&|sample| sample.busy(sample.cpu.envoy)),
        service_busy: each(&|sample| sample.busy(sample.cpu.service)),
        server_busy: each(&|sample| sample.busy(sample.cpu.server)),
        upstream_busy: each(&|sample| sample.busy(sample.cpu.upstream)),
        load_busy: each(&|sample| sample.busy(sample.cpu.load)),
        cell,
    }
}
