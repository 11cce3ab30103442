//! `store-bench`: what the service and its stores can do, beside what their servers can do by
//! themselves.
//!
//! Three parts: the service alone on two cores before one Redis; every store through its trait at
//! different loads; the embedded store and PostgreSQL with few and with many records. Everything
//! runs by turns, and every answer must be the expected one, else the bench ends with an error.
//! `docs/performance-details.md` tells how to read the numbers.

mod http_load;
mod options;
mod pgbench;
mod places;
mod records;
mod redis_bench;
mod report;
mod service;
mod store_load;
mod stores;
mod work;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use idempotency_bench::machine::Machine;
use idempotency_stack::Error;

use options::{Options, Part};
use places::Places;
use report::{Report, Results};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match bench(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<(), Error> {
    let machine = Machine::look();
    let places = Places::choose();
    let mut results = Results::default();
    let (rounds, run) = (options.rounds, options.run);
    for part in &options.parts {
        match part {
            Part::Service => results.service = Some(service::measure(rounds, run, &places)?),
            Part::Stores => {
                // It has many rows.
                let run = run.min(Duration::from_secs(1));
                results.stores = stores::measure(rounds.min(3), run, &places)?;
            }
            Part::Records => {
                results.records = records::measure(rounds, run, &options.records, &places)?;
            }
        }
    }
    let report = Report::of(options, &machine, &places, &results);
    // Nobody may be reading; the files are written anyhow.
    let _ = std::io::stdout().write_all(report.markdown.as_bytes());
    match &options.out {
        Some(dir) => report.save(dir, &options.name),
        None => Ok(()),
    }
}
