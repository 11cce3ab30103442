//! `idempotencyd migrate`.

use super::serve::{fail, refuse};
use crate::backend::StoreChoice;
use crate::config::{self, Settings};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `idempotencyd migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// File with settings, TOML or JSON (by its name), of which only `store` counts here
    #[arg(long, env = "IDEMPOTENCYD_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,

    /// The database, as `serve --store` names it
    #[arg(
        long,
        env = "IDEMPOTENCYD_STORE",
        value_name = "STORE",
        hide_env_values = true
    )]
    store: Option<String>,
}

impl Migrate {
    pub(crate) fn run(self) -> ExitCode {
        let file = match self.config.as_deref().map(config::read_file) {
            None => Settings::default(),
            Some(Ok(file)) => file,
            Some(Err(error)) => return refuse(&[error.to_string()]),
        };
        let settings = Settings {
            store: self.store.or(file.store),
            ..Settings::default()
        };
        let choice = match StoreChoice::from_settings(&settings) {
            Ok(choice) => choice,
            Err((field, message)) => return refuse(&[format!("{field}: {message}")]),
        };
        if !choice.has_schema() {
            return refuse(&["store: this one has no schema to migrate".to_owned()]);
        }
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
        match runtime.block_on(choice.migrate()) {
            Ok(done) => super::print(&format!("{done}\n")),
            Err(error) => fail(&error),
        }
    }
}
