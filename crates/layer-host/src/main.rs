//! `layer-host CONFIG.json`: the library's HTTP layer in front of a handler that asks an upstream. It reads
//! the gateway's rules and shares the records of a service, so that the end-to-end cases run against the
//! layer as against any gateway. It decides nothing itself, and must never know a case.
#![forbid(unsafe_code)]

mod config;
mod counted;
mod proxy;
mod server;
mod stats;

use std::process::ExitCode;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layer-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let config: config::Config = serde_json::from_slice(&std::fs::read(path)?)?;
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.max(1))
        .enable_all()
        .build()?;
    runtime.block_on(server::run(config))?;
    Ok(())
}
