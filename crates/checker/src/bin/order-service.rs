//! The order service of the checker: see `idempotency_checker::orders`. It is in no product.
#![forbid(unsafe_code)]

use clap::Parser;
use idempotency_checker::orders::program;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    arguments: program::Arguments,
}

#[tokio::main]
async fn main() {
    if let Err(error) = program::run(Cli::parse().arguments).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
