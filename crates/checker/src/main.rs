//! `gateway-check`: one run of the exactly-once checker, or the verdict on a recorded one.
//!
//! Exit status: 0 nothing was broken, 1 something was, 2 the run could not be made.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use idempotency_checker::report;
use idempotency_checker::rig::Store;
use idempotency_checker::run::{self, run, Options};
use idempotency_stack::{Durability, Error};

/// Drives the real gateway with hundreds of clients while its parts are killed, paused and cut
/// off, and checks from the recorded history that nothing was executed twice and nobody was told
/// anything wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long clients work, in seconds
    #[arg(long, default_value_t = 60)]
    duration: u64,
    /// Where the records are
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Where all random choices come from; the printed one repeats them [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// The embedded store in its relaxed mode
    #[arg(long)]
    relaxed: bool,
    /// Encrypt the records, rotate the keys meanwhile, and lose one now and then
    #[arg(long)]
    encrypt: bool,
    /// Clients at the same time
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Envoys; with a shared store, as many services
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Lease of the rules in milliseconds; the other times follow from it
    #[arg(long, default_value_t = 5_000)]
    lease_ms: u64,
    /// Where a directory for this run's history and logs is made; it stays if something was broken
    /// [default: the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the directory in any case
    #[arg(long)]
    keep: bool,
    /// Run nothing: check the history in this directory again
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["dir", "keep"])]
    verify: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.verify {
        Some(dir) => verify(dir),
        None => check(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", error.to_string().trim_end());
            ExitCode::from(2)
        }
    }
}

fn verify(dir: &Path) -> Result<bool, Error> {
    let verdict = run::verdict(dir).map_err(|error| Error::new(error.to_string()))?;
    print!("{}", report::text(&verdict));
    Ok(verdict.violations.is_empty())
}

fn check(arguments: &Arguments) -> Result<bool, Error> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let store = arguments.store;
    let options = Options {
        encrypt: arguments.encrypt,
        clients: arguments.clients,
        gateways: arguments.gateways.max(1),
        lease_ms: arguments.lease_ms.max(1_000),
        durability: if arguments.relaxed {
            Durability::Relaxed
        } else {
            Durability::Durable
        },
        ..Options::new(store, seed, Duration::from_secs(arguments.duration))
    };
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let failed = |error: std::io::Error| Error::new(format!("{}: {error}", parent.display()));
    std::fs::create_dir_all(&parent).map_err(failed)?;
    let mut dir = tempfile::Builder::new()
        .prefix(&format!("check-{}-{seed}-", store.name()))
        .tempdir_in(&parent)
        .map_err(failed)?;
    let (name, duration) = (store.name(), arguments.duration);
    println!("check: STORE={name} DURATION={duration} SEED={seed}");
    let verdict = run(&options, dir.path());
    let good = verdict.as_ref().is_ok_and(|v| v.violations.is_empty());
    if let Ok(verdict) = &verdict {
        print!("{}", report::text(verdict));
    }
    if arguments.keep || !good {
        dir.disable_cleanup(true);
        println!("history and logs are in {}", dir.path().display());
    }
    if !good {
        println!("again with: make check STORE={name} DURATION={duration} SEED={seed}");
    }
    verdict.map(|_| good)
}
