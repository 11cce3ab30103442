//! `gateway-bench`: what the gateway costs, side by side in one run.
//!
//! A real Envoy without the filter is the reference; other rows go through Envoys with what one
//! might use instead, and through one with the filter: unprotected requests, first requests
//! (executed inline and detached) and replays, on each store. Rows run by turns, so that whatever
//! else the machine does meets all of them. A run counts only if every answer was the expected one
//! and the upstream executed exactly what the answers say. `docs/performance-details.md` tells how to read
//! the numbers.

mod options;
mod others;
mod peer;
mod picture;
mod places;
mod plan;
mod report;
mod rig;
mod rounds;
mod rows;
mod run;
mod seed;
mod summary;

use std::io::Write;
use std::process::ExitCode;

use idempotency_bench::cores::{pin_this_thread, usable};
use idempotency_bench::machine::Machine;
use idempotency_bench::usage::peak_rss;
use idempotency_stack::Error;

use options::Options;
use places::Cores;
use report::Ground;
use rig::Rig;
use rounds::Results;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    // The tests' choice of a store is none of ours: each row has its own.
    if std::env::var_os("STORE").is_some_and(|store| !store.is_empty()) {
        eprintln!("STORE is set; this bench measures all stores, --rows chooses");
        return ExitCode::from(2);
    }
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
    let all_cores = usable();
    let (mut results, mut ground) = (Results::default(), Ground::default());
    for section in options.choice.sections(&options.rows) {
        let rig = Rig::start(options, &section)?;
        rounds::run(options, &section, &rig, &mut results)?;
        ground.envoy = rig.envoy_version();
        let places = Cores::describe(rig.cores.as_ref());
        ground.places.insert(section.workers, places);
        for (name, id) in rig.processes() {
            let most = ground.memory.entry(name).or_default();
            *most = peak_rss(id).max(*most);
        }
        drop(rig);
        // The next section places its parts anew.
        pin_this_thread(&all_cores)?;
    }
    let report = report::report(options, &machine, &ground, &results);
    // Nobody may be reading; the files are written anyhow.
    let _ = std::io::stdout().write_all(report.markdown.as_bytes());
    if let Some(dir) = &options.out {
        report.save(dir, &options.name)?;
    }
    Ok(results.rejected.is_empty())
}
