//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::rows::{Row, ROWS};

/// How to call the program.
pub const USAGE: &str = "\
usage: gateway-bench [--quick] [--rounds N] [--seconds N] [--connections 1,64] [--rows a,b]
                     [--name NAME] [--out DIR] [--against LIST] [--envoy-workers N]
                     [--no-pin] [--no-save]

  --quick        3 rounds of 1 s (default: 5 rounds of 5 s)
  --rounds       how often every row runs, interleaved with the others
  --seconds      how long one run is; whole seconds, as wrk has it
  --connections  client connections, a list
  --rows         only rows whose name contains one of these; the reference always runs
  --name         name of the two files (default: `quick` or `full`)
  --out          where they go (default: bench/results)
  --against      compare: each row also runs through an Envoy that differs in these, a list of
                 wasm=FILE, tcp, http1, execution-http1
  --envoy-workers  worker threads of every Envoy (default: 1)
  --no-pin       leave the placing of the parts to the kernel
  --no-save      only print

WRK names the load generator (default: wrk). The other programs are found as the tests find
them: ENVOY_BIN, IDEMPOTENCYD_BIN, DEMO_UPSTREAM_BIN, IDEMPOTENCY_WASM.";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often every row runs.
    pub rounds: usize,
    /// How long one run is.
    pub run: Duration,
    /// How long every row runs unmeasured before the first round.
    pub warm_up: Duration,
    /// Client connections.
    pub connections: Vec<usize>,
    /// The rows, the reference first.
    pub rows: Vec<Row>,
    /// Name of the result.
    pub name: String,
    /// Directory of the result; `None`: only print.
    pub out: Option<PathBuf>,
    /// Worker threads of every Envoy.
    pub envoy_workers: u16,
    /// What the other one of a comparison differs in; `None`: no comparison.
    pub against: Option<Against>,
    /// Give every part a core of its own.
    pub pin: bool,
    /// The load generator.
    pub wrk: PathBuf,
}

impl Options {
    /// Reads arguments. `Err` is what to tell the caller.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let args: Vec<String> = args.collect();
        let quick = args.iter().any(|arg| arg == "--quick");
        let wrk = std::env::var_os("WRK").unwrap_or_else(|| "wrk".into());
        let mut options = Self {
            rounds: if quick { 3 } else { 5 },
            run: Duration::from_secs(if quick { 1 } else { 5 }),
            warm_up: Duration::from_secs(if quick { 1 } else { 2 }),
            connections: vec![1, 64],
            rows: ROWS.to_vec(),
            name: if quick { "quick" } else { "full" }.to_owned(),
            out: Some(PathBuf::from("bench/results")),
            envoy_workers: 1,
            against: None,
            pin: true,
            wrk: wrk.into(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => {}
                "--rounds" => options.rounds = number(&arg, &value()?)?,
                "--seconds" => {
                    options.run = Duration::from_secs(number(&arg, &value()?)? as u64);
                }
                "--connections" => {
                    let list = value()?;
                    options.connections = list
                        .split(',')
                        .map(|one| number(&arg, one))
                        .collect::<Result<_, _>>()?;
                }
                "--rows" => options.rows = chosen(&value()?)?,
                "--name" => options.name = value()?,
                "--out" => options.out = Some(value()?.into()),
                "--envoy-workers" => {
                    let workers = number(&arg, &value()?)?;
                    options.envoy_workers =
                        u16::try_from(workers).map_err(|_| format!("{arg}: too many"))?;
                }
                "--against" => options.against = Some(Against::parse(&value()?)?),
                "--no-pin" => options.pin = false,
                "--no-save" => options.out = None,
                "--help" | "-h" => return Err(USAGE.to_owned()),
                _ => return Err(format!("unknown option {arg}\n\n{USAGE}")),
            }
        }
        if options.against.is_some() {
            options.rows = options.rows.into_iter().flat_map(both).collect();
        }
        Ok(options)
    }
}

/// How the other Envoy of a comparison differs: same service, same rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Against {
    /// Another build of the filter.
    pub wasm: Option<PathBuf>,
    /// TCP to the service, instead of its Unix socket.
    pub tcp: bool,
    /// HTTP/1.1 to the service, instead of HTTP/2.
    pub http1: bool,
    /// HTTP/1.1 to the internal listener, instead of HTTP/2.
    pub execution_http1: bool,
}

impl Against {
    fn parse(text: &str) -> Result<Self, String> {
        let mut against = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("wasm", path)) => against.wasm = Some(path.into()),
                None if part == "tcp" => against.tcp = true,
                None if part == "http1" => against.http1 = true,
                None if part == "execution-http1" => against.execution_http1 = true,
                _ => return Err(format!("--against: what is `{part}`?")),
            }
        }
        Ok(against)
    }
}

/// A row, and the same row through the other Envoy if it has a filter.
fn both(row: Row) -> Vec<Row> {
    match row.store {
        Some(_) => vec![row, Row { other: true, ..row }],
        None => vec![row],
    }
}

fn number(name: &str, text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!(
            "{name} needs a positive whole number, not `{text}`"
        )),
    }
}

fn chosen(list: &str) -> Result<Vec<Row>, String> {
    let (reference, others) = ROWS.split_at(1);
    let parts: Vec<&str> = list.split(',').filter(|part| !part.is_empty()).collect();
    let mut rows = reference.to_vec();
    rows.extend(
        others
            .iter()
            .filter(|row| parts.iter().any(|part| row.id.contains(part))),
    );
    let known = |part: &&&str| ROWS.iter().any(|row| row.id.contains(**part));
    match parts.iter().find(|part| !known(part)) {
        Some(part) => Err(format!("no row is called `{part}`")),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_asked_for() {
        let options = parse("--connections 1,32 --quick --rows replay --no-pin").unwrap();
        assert_eq!(options.connections, [1, 32]);
        assert_eq!((options.rounds, options.pin), (3, false));
        let ids: Vec<_> = options.rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, ["bare", "replay-relaxed", "replay-durable"]);
        assert_eq!(parse("").unwrap().rows.len(), ROWS.len());
    }

    #[test]
    fn what_cannot_be_understood() {
        for line in ["--rounds", "--rounds 0", "--rows nothing", "--what"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
