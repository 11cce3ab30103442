//! The service alone: two cores, one Redis on a third, the load on the fourth; beside it
//! `redis-benchmark` with the same script, on the same server, by turns.

use std::time::Duration;

use idempotency_bench::cores::pin_process;
use idempotency_bench::spread::Spread;
use idempotency_bench::usage::{cpu_time, peak_rss};
use idempotency_stack::{Backend, Error, Redis, Service, ServiceOptions};
use serde::Serialize;

use crate::http_load::{Load, Place};
use crate::places::{on, Places};
use crate::redis_bench::{RedisBench, Shape};
use crate::work::{body, Lap};

/// Octets of every stored body.
pub const BODY: usize = 200;
const CONNECTIONS: usize = 64;
/// Calls of a measured `redis-benchmark`; its completes need ten times as many keys.
const REQUESTS: u64 = 40_000;
/// Records that are replayed.
const KNOWN: u64 = 1000;

/// How operations reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `redis-benchmark`: connections, and calls on their way on each.
    Bare(usize, usize),
    /// The service: connections, operations in a call, by its Unix socket.
    Service(usize, u64, bool),
}

/// A row of the result.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: &'static str,
    label: &'static str,
    way: Way,
    replay: bool,
}

const fn row(id: &'static str, label: &'static str, way: Way, replay: bool) -> Row {
    Row {
        id,
        label,
        way,
        replay,
    }
}

const ROWS: [Row; 9] = [
    row(
        "bare",
        "`redis-benchmark`, 64 connections, unpipelined",
        Way::Bare(CONNECTIONS, 1),
        false,
    ),
    row(
        "service",
        "service, 64 connections, TCP",
        Way::Service(CONNECTIONS, 1, false),
        false,
    ),
    row(
        "service-unix",
        "service, 64 connections, Unix socket",
        Way::Service(CONNECTIONS, 1, true),
        false,
    ),
    row(
        "batch-16",
        "service, 4 connections, 16 operations in a call",
        Way::Service(4, 16, true),
        false,
    ),
    row(
        "batch-64",
        "service, 4 connections, 64 operations in a call",
        Way::Service(4, 64, true),
        false,
    ),
    row(
        "bare-pipelined",
        "`redis-benchmark`, 4 connections, 16 calls pipelined",
        Way::Bare(4, 16),
        false,
    ),
    row(
        "bare-replay",
        "replay: `redis-benchmark`, 64 connections, unpipelined",
        Way::Bare(CONNECTIONS, 1),
        true,
    ),
    row(
        "service-replay",
        "replay: service, 64 connections, TCP",
        Way::Service(CONNECTIONS, 1, false),
        true,
    ),
    row(
        "batch-16-replay",
        "replay: service, 4 connections, 16 operations in a call",
        Way::Service(4, 16, true),
        true,
    ),
];

/// One measured run.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    lap: Lap,
    /// CPU seconds of the service; `None`: it was not asked.
    service_s: Option<f64>,
    /// CPU seconds of the load generator; `None` for `redis-benchmark`, which also makes keys.
    load_s: Option<f64>,
}

impl Sample {
    fn service_us(&self) -> Option<f64> {
        Some(self.service_s? * 1e6 / self.lap.operations as f64)
    }

    fn service_busy(&self) -> Option<f64> {
        Some(self.service_s? * 100.0 / self.lap.seconds)
    }

    fn load_busy(&self) -> Option<f64> {
        Some(self.load_s? * 100.0 / self.lap.seconds)
    }
}

/// A row with what was measured.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Name for programs.
    pub id: &'static str,
    /// Name for readers.
    pub label: &'static str,
    /// Operations per second, in parts of the unpipelined `redis-benchmark` of the same round.
    pub ratio: Option<Spread>,
    /// Operations per second.
    pub rate: Option<Spread>,
    /// Median time of a call in microseconds.
    pub p50_us: Option<Spread>,
    /// 99th percentile.
    pub p99_us: Option<Spread>,
    /// CPU time of the service per operation in microseconds.
    pub service_us: Option<Spread>,
    /// CPU time of Redis per operation in microseconds.
    pub redis_us: Option<Spread>,
    /// How much of one core the service used, in percent; it has two.
    pub service_busy: Option<Spread>,
    /// How much of its core Redis used, in percent.
    pub redis_busy: Option<Spread>,
    /// How much of its core the load generator used, in percent.
    pub load_busy: Option<Spread>,
    samples: Vec<Sample>,
}

/// The part's result.
#[derive(Debug, Serialize)]
pub struct Alone {
    /// The rows.
    pub lines: Vec<Line>,
    /// Most memory that the service used, in bytes.
    pub service_peak_rss: u64,
}

struct Rig {
    // The service first: it uses the server.
    service: Service,
    _redis: Redis,
    bench: RedisBench,
    places: Places,
    redis_id: u32,
    service_id: u32,
}

/// Measures it.
///
/// # Errors
///
/// If a part does not start, or an answer is not the expected one.
pub fn measure(rounds: usize, run: Duration, places: &Places) -> Result<Alone, Error> {
    let mut rig = Rig::start(places)?;
    let mut samples: Vec<Vec<Sample>> = ROWS.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        // Round 0 warms up.
        let time = if round == 0 {
            Duration::from_secs(1)
        } else {
            run
        };
        for (row, samples) in ROWS.iter().zip(&mut samples) {
            let name = format!("s{round}{}", row.id);
            let sample = rig.run(row, &name, time)?;
            eprintln!(
                "service, round {round}, {:<16} {:8.0} op/s",
                row.id,
                sample.lap.rate()
            );
            if round > 0 {
                samples.push(sample);
            }
        }
        rig.bench.forget()?;
    }
    Ok(Alone {
        service_peak_rss: peak_rss(rig.service_id),
        lines: lines(samples),
    })
}

impl Rig {
    fn start(places: &Places) -> Result<Self, Error> {
        let mut redis = Redis::start(&["--auto-aof-rewrite-percentage", "0"])?;
        let mut service = Service::start(ServiceOptions {
            backend: Backend::Named(redis.url()),
            log_level: Some("warn".to_owned()),
            // As many as its cores.
            args: vec!["--threads".to_owned(), "2".to_owned()],
            ..ServiceOptions::default()
        })?;
        let (redis_id, service_id) = (redis.process().id(), service.process().id());
        if !places.load.is_empty() {
            pin_process(redis_id, &places.server)?;
            pin_process(service_id, &places.service)?;
        }
        Ok(Self {
            bench: RedisBench::new(&mut redis)?,
            service,
            _redis: redis,
            places: places.clone(),
            redis_id,
            service_id,
        })
    }

    fn run(&mut self, row: &Row, run: &str, time: Duration) -> Result<Sample, Error> {
        let body = body(BODY);
        let load = self.places.load.clone();
        match row.way {
            Way::Bare(clients, pipeline) => {
                let shape = Shape {
                    clients,
                    pipeline,
                    requests: REQUESTS,
                };
                let bench = &mut self.bench;
                let lap = on(&load, || {
                    if row.replay {
                        return bench.replays(run, &body, shape);
                    }
                    let acquires = bench.acquires(&format!("{run}a"), shape)?;
                    let completes = bench.completes(&format!("{run}c"), &body, shape)?;
                    Ok(acquires.then(&completes))
                })?;
                Ok(Sample {
                    lap,
                    service_s: None,
                    load_s: None,
                })
            }
            Way::Service(connections, batch, unix) => {
                let place = if unix {
                    Place::Unix(self.service.socket().to_owned())
                } else {
                    Place::Tcp(self.service.address())
                };
                let wanted = Load {
                    place,
                    token: self.service.tokens().gateway.clone(),
                    connections,
                    batch,
                    time,
                    keys: None,
                    run: run.to_owned(),
                };
                if row.replay {
                    on(&load, || wanted.exactly(KNOWN, &body))?;
                }
                // The load is all that this process does.
                let parts = [self.service_id, self.redis_id, std::process::id()];
                let before = parts.map(cpu_time);
                let lap = on(&load, || {
                    if row.replay {
                        wanted.replays(KNOWN)
                    } else {
                        wanted.firsts(&body)
                    }
                })?;
                let mut used = parts.map(cpu_time).into_iter().zip(before);
                let mut used = || {
                    used.next()
                        .map_or(0.0, |(now, then)| (now - then).as_secs_f64())
                };
                let (service_s, server_s, load_s) = (used(), used(), used());
                Ok(Sample {
                    lap: Lap { server_s, ..lap },
                    service_s: Some(service_s),
                    load_s: Some(load_s),
                })
            }
        }
    }
}

fn lines(samples: Vec<Vec<Sample>>) -> Vec<Line> {
    let reference = |replay| {
        let at = ROWS.iter().position(|row| row.replay == replay);
        at.and_then(|at| samples.get(at))
            .cloned()
            .unwrap_or_default()
    };
    let references = [reference(false), reference(true)];
    ROWS.iter()
        .zip(samples)
        .map(|(row, samples)| {
            let [firsts, replays] = &references;
            let reference = if row.replay { replays } else { firsts };
            let each = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
            let some =
                |value: fn(&Sample) -> Option<f64>| Spread::of(samples.iter().filter_map(value));
            let ratios = samples.iter().zip(reference);
            let ratios = ratios.map(|(own, bare)| own.lap.rate() / bare.lap.rate());
            Line {
                id: row.id,
                label: row.label,
                ratio: Spread::of(ratios),
                rate: each(|sample| sample.lap.rate()),
                p50_us: each(|sample| sample.lap.p50_us),
                p99_us: each(|sample| sample.lap.p99_us),
                service_us: some(Sample::service_us),
                redis_us: some(|sample| sample.lap.server_us()),
                service_busy: some(Sample::service_busy),
                redis_busy: some(|sample| sample.lap.server_busy()),
                load_busy: some(Sample::load_busy),
                samples,
            }
        })
        .collect()
}
