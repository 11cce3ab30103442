//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::plan::{Choice, Size, SIZES};
use crate::rows::{Flavour, Row, ROWS};

/// How to call the program.
pub const USAGE: &str = "\
usage: gateway-bench [--quick] [--rounds N] [--seconds N] [--rows a,b] [--connections 1,64]
                     [--sizes small,large-request,large-response] [--envoy-workers 1,2]
                     [--name NAME] [--out DIR] [--against LIST] [--no-pin] [--no-save]

  --quick        2 rounds (default: 5), the most telling rows, small bodies, one worker
  --rounds       how often every row runs, interleaved with the others
  --seconds      how long one run is; whole seconds, as wrk has it (default: 1)
  --rows         only rows whose name contains one of these; the reference always runs
  --connections  client connections, a list      \\  with one of these named, everything
  --sizes        of requests and answers, a list  } that is named runs with everything
  --envoy-workers  worker threads, a list        /  else (defaults: 1,64; small; 1)
  --name         name of the files (default: `gateway-quick` or `gateway`)
  --out          where they go (default: bench/results)
  --against      compare: each row also runs through an Envoy that differs in these, a list of
                 wasm=FILE, native, tcp, http1, execution-http1
  --no-pin       leave the placing of the parts to the kernel
  --no-save      only print

WRK names the load generator (default: wrk). The other programs are found as the tests find
them: ENVOY_BIN, IDEMPOTENCYD_BIN, DEMO_UPSTREAM_BIN, IDEMPOTENCY_WASM, REDIS_SERVER_BIN,
POSTGRES_BIN.";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often every row runs.
    pub rounds: usize,
    /// How long one run is.
    pub run: Duration,
    /// Which rows.
    pub rows: Vec<Row>,
    /// Which sizes, connections and workers.
    pub choice: Choice,
    /// Name of the result.
    pub name: String,
    /// Directory of the result; `None`: only print.
    pub out: Option<PathBuf>,
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
            rounds: if quick { 2 } else { 5 },
            run: Duration::from_secs(1),
            rows: ROWS.to_vec(),
            choice: Choice {
                quick,
                ..Choice::default()
            },
            name: if quick { "gateway-quick" } else { "gateway" }.to_owned(),
            out: Some(PathBuf::from("bench/results")),
            against: None,
            pin: true,
            wrk: wrk.into(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let choice = &mut options.choice;
            match arg.as_str() {
                "--quick" => {}
                "--rounds" => options.rounds = number(&arg, &value()?)?,
                "--seconds" => {
                    options.run = Duration::from_secs(number(&arg, &value()?)? as u64);
                }
                "--connections" => choice.connections = Some(numbers(&arg, &value()?)?),
                "--sizes" => choice.sizes = Some(sizes(&value()?)?),
                "--envoy-workers" => {
                    let workers = numbers(&arg, &value()?)?;
                    let few = workers.into_iter().map(u16::try_from);
                    let few = few.collect::<Result<_, _>>();
                    choice.workers = Some(few.map_err(|_| format!("{arg}: too many"))?);
                }
                "--rows" => options.rows = chosen(&value()?)?,
                "--name" => options.name = value()?,
                "--out" => options.out = Some(value()?.into()),
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
    /// The native module in place of WebAssembly.
    pub native: bool,
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
                None if part == "native" => against.native = true,
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
    match row.way.flavour() {
        Flavour::Filter => vec![row, Row { other: true, ..row }],
        _ => vec![row],
    }
}

fn numbers(name: &str, list: &str) -> Result<Vec<usize>, String> {
    list.split(',').map(|one| number(name, one)).collect()
}

fn sizes(list: &str) -> Result<Vec<Size>, String> {
    let find = |id: &str| SIZES.into_iter().find(|size| size.id == id.trim());
    list.split(',')
        .map(|id| find(id).ok_or_else(|| format!("no size is called `{id}`")))
        .collect()
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
        assert_eq!(options.choice.connections, Some(vec![1, 32]));
        assert_eq!((options.rounds, options.pin), (2, false));
        let ids: Vec<_> = options.rows.iter().map(|row| row.id).collect();
        let stores = ["relaxed", "durable", "redis", "postgres"];
        let replays = stores.map(|store| format!("replay-{store}"));
        assert_eq!(ids[..2], ["bare", "by-hand-replay"]);
        assert_eq!(ids[2..], replays);
        assert_eq!(parse("").unwrap().rows.len(), ROWS.len());
        let compared = parse("--against tcp --rows lua,unprotected").unwrap().rows;
        assert_eq!(compared.iter().filter(|row| row.other).count(), 1);
    }

    #[test]
    fn what_cannot_be_understood() {
        for line in [
            "--rounds",
            "--rounds 0",
            "--rows nothing",
            "--sizes huge",
            "--envoy-workers 70000",
            "--what",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
