//! `kong-bench`: what the filter costs in a complete Kong, or in its nginx alone (`GATEWAY=kong` or `nginx`,
//! as for the end-to-end tests), by the CPU time of its worker.
//!
//! Two of them run side by side in front of the same upstream, one without the filter, each with
//! one worker. The rows run by turns, and a row is told in parts of the bare one of its round. The
//! worker's CPU time per request says what a core can do, and other work on the machine hardly
//! touches it; so this has no picture, and needs no quiet machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use idempotency_bench::cores::{pin_process, pin_this_thread, usable};
use idempotency_bench::usage::cpu_time;
use idempotency_bench::wrk::{Keys, Load, Size};
use idempotency_stack::{
    charges_rule, filter_config, Durability, Error, Gateway, GatewayConfig, Service,
    ServiceAddress, ServiceOptions, Upstream, UpstreamOptions,
};
use serde_json::json;

const USAGE: &str = "\
usage: kong-bench [--rounds N] [--seconds N] [--connections N] [--row NAME]

GATEWAY=kong with KONG, or GATEWAY=nginx with KONG_NGINX and KONG_LUALIB: as for make test-kong.
--row: only this row beside the bare one, for profilers.";

const SIZE: Size = Size {
    id: "small",
    request: 200,
    response: 200,
};
/// How many keys the replays go through.
const KEYS: usize = 1000;

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Bare,
    Unprotected,
    First,
    Replay,
}

impl Row {
    const ALL: [Row; 4] = [Row::Bare, Row::Unprotected, Row::First, Row::Replay];

    fn name(self) -> &'static str {
        match self {
            Row::Bare => "bare",
            Row::Unprotected => "unprotected",
            Row::First => "first",
            Row::Replay => "replay",
        }
    }
}

/// What the command line says.
#[derive(Debug, Clone, Copy)]
struct Options {
    rounds: usize,
    seconds: u64,
    connections: usize,
    only: Option<Row>,
}

impl Options {
    fn read() -> Result<Self, Error> {
        let usage = || Error::new(USAGE);
        let mut options = Options {
            rounds: 5,
            seconds: 10,
            connections: 64,
            only: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(usage)?;
            let number = || value.parse::<u64>().map_err(|_| usage());
            let small = || number().and_then(|n| usize::try_from(n).map_err(|_| usage()));
            match name.as_str() {
                "--rounds" => options.rounds = small()?.max(1),
                "--seconds" => options.seconds = number()?.max(1),
                "--connections" => options.connections = small()?.max(1),
                "--row" => {
                    let row = Row::ALL.into_iter().find(|row| row.name() == value);
                    options.only = Some(row.ok_or_else(usage)?);
                }
                _ => return Err(usage()),
            }
        }
        Ok(options)
    }
}

/// A gateway and the processes of it that serve.
struct Workers {
    gateway: Gateway,
    ids: Vec<u32>,
}

impl Workers {
    fn start(config: GatewayConfig) -> Result<Self, Error> {
        let mut config = config;
        // Lines about single requests are written in tests only.
        config.kong.set("KONG_LOG_LEVEL", "notice");
        let mut gateway = Gateway::start(config)?;
        let all = gateway.process().descendants().into_iter();
        let ids = all.filter_map(|id| u32::try_from(id).ok()).filter(|id| {
            let title = std::fs::read_to_string(format!("/proc/{id}/cmdline"));
            title.is_ok_and(|title| title.contains("worker process"))
        });
        let ids: Vec<u32> = ids.collect();
        match ids.is_empty() {
            true => Err(Error::new(
                "the gateway has no worker processes: GATEWAY must be kong or nginx",
            )),
            false => Ok(Self { gateway, ids }),
        }
    }

    fn used(&self) -> Duration {
        self.ids.iter().map(|id| cpu_time(*id)).sum()
    }
}

/// Everything that runs.
struct Rig {
    bare: Workers,
    filtered: Workers,
    _service: Service,
    upstream: Upstream,
    wrk: PathBuf,
    runs: u64,
}

impl Rig {
    fn start() -> Result<Self, Error> {
        let mut upstream = Upstream::start(UpstreamOptions::default())?;
        let mut service = Service::start(ServiceOptions {
            durability: Durability::Relaxed,
            ..ServiceOptions::default()
        })?;
        let address = ServiceAddress::Unix(service.socket().to_owned());
        let filter = filter_config(service.tokens(), json!([charges_rule()])).to_string();
        let config = GatewayConfig::new(filter, upstream.address(), address.clone());
        let filtered = Workers::start(config)?;
        let bare = Workers::start(GatewayConfig::bare(upstream.address(), address))?;
        // The workers have a core of their own; the rest shares the others.
        if let [first, rest @ ..] = &usable()[..] {
            if !rest.is_empty() {
                for id in filtered.ids.iter().chain(&bare.ids) {
                    pin_process(*id, &[*first])?;
                }
                for id in [service.process().id(), upstream.process().id()] {
                    pin_process(id, rest)?;
                }
                pin_this_thread(rest)?;
            }
        }
        Ok(Self {
            bare,
            filtered,
            _service: service,
            upstream,
            wrk: std::env::var_os("WRK").map_or_else(|| "wrk".into(), PathBuf::from),
            runs: 0,
        })
    }

    /// Runs one row; the worker's CPU time per request in microseconds.
    fn run(&mut self, row: Row, options: &Options) -> Result<f64, Error> {
        self.runs += 1;
        let prefix = format!("kong-bench-{}-{}-", std::process::id(), self.runs);
        let path = match row {
            Row::Unprotected => "/other",
            Row::Bare | Row::First | Row::Replay => "/charges",
        };
        let load = Load {
            method: "POST",
            target: format!("{path}?bytes={}", SIZE.response),
            size: SIZE,
            keys: match row {
                Row::Replay => Keys::Cycle(prefix, KEYS),
                _ => Keys::Unique(prefix),
            },
            connections: options.connections,
            duration: Duration::from_secs(options.seconds),
        };
        let kong = match row {
            Row::Bare => &self.bare,
            _ => &self.filtered,
        };
        let address = kong.gateway.address();
        if row == Row::Replay {
            self.seed(&load, address)?;
        }
        let before = (kong.used(), self.upstream.executions().total);
        let seen = load.run(&self.wrk, address)?;
        let used = kong.used().saturating_sub(before.0);
        let executed = self.upstream.executions().total - before.1;
        if seen.expected != seen.requests || seen.socket_errors + seen.timeouts > 0 {
            let message = format!("{}: not every answer was right: {seen:?}", row.name());
            return Err(Error::new(message));
        }
        let expected = match row {
            Row::Replay => 0..=0,
            // What was under way when this row and the one before it ended has no answer.
            _ => seen.requests..=seen.requests + 2 * options.connections as u64,
        };
        if !expected.contains(&executed) {
            let message = format!(
                "{}: {} answers, {executed} executions",
                row.name(),
                seen.requests
            );
            return Err(Error::new(message));
        }
        Ok(used.as_secs_f64() * 1e6 / seen.requests as f64)
    }

    /// Sends each key often enough that its record is there.
    fn seed(&self, load: &Load, address: SocketAddr) -> Result<(), Error> {
        let begin = self.upstream.executions().total;
        let short = Load {
            duration: Duration::from_secs(1),
            ..load.clone()
        };
        while self.upstream.executions().total - begin < KEYS as u64 {
            short.run(&self.wrk, address)?;
        }
        // Kong's record is written behind the answer: the last one has come when a whole run
        // finds nothing to execute or to wait for.
        while short
            .run(&self.wrk, address)
            .map(|seen| seen.expected != seen.requests)?
        {}
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kong-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), Error> {
    let options = Options::read()?;
    let cores = usable().len();
    let mut rig = Rig::start()?;
    let wanted = |row: &Row| *row == Row::Bare || options.only.is_none_or(|only| only == *row);
    let rows: Vec<Row> = Row::ALL.into_iter().filter(wanted).collect();
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    for round in 1..=options.rounds {
        for (row, costs) in rows.iter().zip(&mut costs) {
            let cost = rig.run(*row, &options)?;
            eprintln!("round {round}: {:<12} {cost:8.1} µs", row.name());
            costs.push(cost);
        }
    }
    println!("| | µs of the worker's CPU per request | in parts of bare |\n|---|--:|--:|");
    let bare = costs.first().cloned().unwrap_or_default();
    for (row, costs) in rows.iter().zip(&costs) {
        let parts: Vec<f64> = costs
            .iter()
            .zip(&bare)
            .map(|(cost, bare)| cost / bare)
            .collect();
        println!(
            "| {} | {:.1} | {:.2} |",
            row.name(),
            median(costs),
            median(&parts)
        );
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n{cores} cores, load average {}", load.trim());
    Ok(())
}
