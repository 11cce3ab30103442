//! `idempotencyd check-config`: the filter's own parser, before the gateway has to refuse.

use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `idempotencyd check-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 usable, 1 not usable (one problem per line), \
                        2 the file cannot be read."
)]
pub(crate) struct CheckConfig {
    /// The filter's configuration (JSON)
    file: PathBuf,
}

impl CheckConfig {
    pub(crate) fn run(self) -> ExitCode {
        let shown = self.file.display();
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{shown}: {error}");
                return ExitCode::from(2);
            }
        };
        match idempotency::config::parse_bytes(&bytes) {
            Ok(plan) => {
                let rules = plan.rules.len();
                let noun = if rules == 1 { "rule" } else { "rules" };
                super::print(&format!("{shown}: usable, {rules} {noun}\n"))
            }
            Err(errors) => {
                for error in errors {
                    eprintln!("{shown}: {error}");
                }
                ExitCode::FAILURE
            }
        }
    }
}
