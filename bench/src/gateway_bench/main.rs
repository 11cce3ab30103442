//! `gateway-bench`: what the gateway costs, side by side in one run.
//!
//! A real Envoy without the filter is the reference; the other rows go through an Envoy with it:
//! unprotected requests, first requests (executed inline and detached) and replays, on the
//! embedded store, durable and relaxed. Rows run by turns, so that whatever else the machine does
//! meets all of them. A run counts only if every answer was the expected one and the upstream
//! executed exactly what the answers say. `docs/performance.md` tells how to read the numbers.

mod options;
mod places;
mod report;
mod rig;
mod rounds;
mod rows;
mod run;
mod seed;
mod summary;
mod wrk;

use std::io::Write;
use std::process::ExitCode;

use idempotency_bench::machine::Machine;
use idempotency_stack::Error;

use options::Options;
use rig::Rig;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match bench(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("some runs were rejected; the result says which and why");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all and says whether every run counted.
fn bench(options: &Options) -> Result<bool, Error> {
    let machine = Machine::look();
    let rig = Rig::start(options)?;
    let results = rounds::run(options, &rig)?;
    let report = report::report(options, &rig, &machine, &results);
    // Nobody may be reading; the files are written anyhow.
    let _ = std::io::stdout().write_all(report.markdown.as_bytes());
    if let Some(dir) = &options.out {
        report.save(dir, &options.name)?;
    }
    Ok(results.rejected.is_empty())
}
