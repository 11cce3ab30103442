//! The command line.

use std::path::PathBuf;
use std::time::Duration;

/// How to call the program.
pub const USAGE: &str = "\
usage: store-bench [--quick] [--parts service,stores,records] [--rounds N] [--seconds N]
                   [--records 10000,10000000] [--name NAME] [--out DIR] [--no-save]

  service        the service alone before one Redis, against redis-benchmark with its script
  stores         each store through its trait, against redis-benchmark and pgbench
  records        the embedded store and PostgreSQL, with few and with many records

  --quick        fewer and shorter rounds, and at most a million records
  --parts        which of the three (default: all)
  --rounds       how often everything runs, by turns; `stores` at most three times
  --seconds      how long one run is; whole seconds, for `stores` at most one
  --records      how many records there are; the first number is what the others are compared with
  --name         name of the two files (default: `store-quick` or `store`)
  --out          where they go (default: bench/results)
  --no-save      only print

The programs are found as the tests find them: IDEMPOTENCYD_BIN, REDIS_SERVER_BIN, POSTGRES_BIN.
Ten million records want 12 GB of disk below TMPDIR while the bench runs.";

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The service before one Redis.
    Service,
    /// The stores at different loads.
    Stores,
    /// The stores with different numbers of records.
    Records,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What runs.
    pub parts: Vec<Part>,
    /// How often.
    pub rounds: usize,
    /// How long one run is.
    pub run: Duration,
    /// Numbers of records, the one to compare with first.
    pub records: Vec<u64>,
    /// Name of the result.
    pub name: String,
    /// Directory of the result; `None`: only print.
    pub out: Option<PathBuf>,
}

impl Options {
    /// Reads arguments. `Err` is what to tell the caller.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let args: Vec<String> = args.collect();
        let quick = args.iter().any(|arg| arg == "--quick");
        let mut options = Self {
            parts: vec![Part::Service, Part::Stores, Part::Records],
            rounds: if quick { 2 } else { 5 },
            run: Duration::from_secs(if quick { 1 } else { 2 }),
            records: vec![10_000, if quick { 1_000_000 } else { 10_000_000 }],
            name: if quick { "store-quick" } else { "store" }.to_owned(),
            out: Some(PathBuf::from("bench/results")),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => {}
                "--parts" => options.parts = list(&value()?, part)?,
                "--rounds" => options.rounds = number(&value()?)? as usize,
                "--seconds" => options.run = Duration::from_secs(number(&value()?)?),
                "--records" => options.records = list(&value()?, number)?,
                "--name" => options.name = value()?,
                "--out" => options.out = Some(value()?.into()),
                "--no-save" => options.out = None,
                "--help" | "-h" => return Err(USAGE.to_owned()),
                _ => return Err(format!("unknown option {arg}\n\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(|part| one(part.trim())).collect()
}

fn part(name: &str) -> Result<Part, String> {
    match name {
        "service" => Ok(Part::Service),
        "stores" => Ok(Part::Stores),
        "records" => Ok(Part::Records),
        other => Err(format!("there is no part `{other}`")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("a positive whole number is needed, not `{text}`")),
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
        let options = parse("--parts records --records 10,20 --quick").unwrap();
        assert_eq!(options.parts, [Part::Records]);
        assert_eq!((options.records, options.rounds), (vec![10, 20], 2));
        assert_eq!(parse("").unwrap().parts.len(), 3);
    }

    #[test]
    fn what_cannot_be_understood() {
        for line in [
            "--rounds",
            "--rounds 0",
            "--parts all",
            "--records ,",
            "--what",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
