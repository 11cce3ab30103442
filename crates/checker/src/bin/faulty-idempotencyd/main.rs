//! `idempotencyd` with a bug, for the tests of the checker: it must be caught. Never shipped.
#![forbid(unsafe_code)]

mod bug;
mod faulty;

use std::process::ExitCode;
use std::sync::Arc;

use bug::Bug;
use clap::Parser;
use faulty::Faulty;
use idempotency_service::{Server, Settings};

/// `idempotencyd serve` with a bug that its tests choose.
#[derive(Debug, Parser)]
struct Arguments {
    /// `serve`, as for the real one
    #[arg(value_parser = ["serve"])]
    command: String,
    /// What is wrong with it
    #[arg(long, value_enum)]
    bug: Bug,
    #[command(flatten)]
    settings: Settings,
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = arguments.settings.check().map_err(|errors| {
        let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
        all.join("\n")
    })?;
    let store = config.open_store().await?;
    let store = Arc::new(Faulty::new(store, arguments.bug));
    let server = Server::bind(config, store).await?;
    // It ends with the test that started it.
    server.run(std::future::pending()).await?;
    Ok(())
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("faulty-idempotencyd: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faulty-idempotencyd: {error}");
            ExitCode::FAILURE
        }
    }
}
