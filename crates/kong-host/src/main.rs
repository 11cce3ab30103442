//! `kong-host CONFIG.json`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use idempotency_kong_host::config::Config;
use idempotency_kong_host::{report, server};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kong-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let config: Config = serde_json::from_slice(&std::fs::read(path)?)?;
    report::install(config.violations.clone());
    server::run(config)?;
    Ok(())
}
