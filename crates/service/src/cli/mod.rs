//! The command line.

mod check;
mod files;
mod key_args;
mod keys;
mod migrate;
mod ready;
mod serve;
mod table;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Idempotency service: locks idempotency keys, keeps and replays outcomes.
#[derive(Debug, Parser)]
#[command(name = "idempotencyd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(Box<serve::Serve>),
    /// Bring the schema of a database up to date
    Migrate(migrate::Migrate),
    /// Ask a running service whether it is ready
    Ready(ready::Ready),
    /// Look at records and change them, over HTTP
    Keys(Box<key_args::Keys>),
    /// Check a configuration of the filter
    CheckConfig(check::CheckConfig),
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Ready(ready) => ready.run(),
        Command::Keys(keys) => keys.run(),
        Command::CheckConfig(check) => check.run(),
        Command::Openapi => print(&crate::api::openapi()),
    }
}

/// Prints to standard output; a reader that has gone away is not our error.
pub(crate) fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
