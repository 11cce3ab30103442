//! The command line.

mod call;
mod change;
mod check;
mod environment;
mod envoy_config;
mod files;
mod keeping;
mod key_args;
mod keys;
mod migrate;
mod output;
mod ready;
mod serve;
mod skip;
mod table;
mod tls_args;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
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
    /// Print a line with a new encryption key, for the file of --encryption-keys
    EncryptionKey(EncryptionKey),
    /// Check configurations of the filter, and what stands around it
    CheckConfig(check::CheckConfig),
    /// Print what has Envoy make the filter only for requests that a rule may concern
    EnvoyConfig(envoy_config::EnvoyConfig),
    /// Print the OpenAPI document
    Openapi,
    /// Print what makes a shell complete this program's arguments
    Completions(Completions),
}

/// `idempotencyd completions`.
#[derive(Debug, Args)]
struct Completions {
    /// The shell
    shell: Shell,
}

/// `idempotencyd encryption-key`.
#[derive(Debug, Args)]
struct EncryptionKey {
    /// Its name, such as the month; `index` for the index key, of which a store has one for ever
    name: String,
}

impl EncryptionKey {
    fn run(&self) -> ExitCode {
        match idempotency_store::sealed::Keys::line(&self.name) {
            Ok(line) => print(&line),
            Err(error) => serve::refuse(&[error.to_string()]),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // What is spelt wrong there would be ignored in silence.
    if command.reads_environment() {
        let unknown = environment::unknown(&Cli::command(), std::env::vars_os());
        if !unknown.is_empty() {
            return serve::refuse(&unknown);
        }
    }
    match command {
        Command::Serve(serve) => serve.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Ready(ready) => ready.run(),
        Command::Keys(keys) => keys.run(),
        Command::EncryptionKey(key) => key.run(),
        Command::CheckConfig(check) => check.run(),
        Command::EnvoyConfig(print) => print.run(),
        Command::Openapi => print(&crate::api::openapi()),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "idempotencyd", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

impl Command {
    fn reads_environment(&self) -> bool {
        match self {
            Command::Serve(_) | Command::Migrate(_) | Command::Ready(_) | Command::Keys(_) => true,
            Command::EncryptionKey(_)
            | Command::CheckConfig(_)
            | Command::EnvoyConfig(_)
            | Command::Openapi
            | Command::Completions(_) => false,
        }
    }
}

/// Prints to standard output; a reader that has gone away is not our error.
pub(crate) fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
