//! `idempotencyd serve`.

use super::files;
use crate::auth;
use crate::config::{self, Settings};
use crate::server::{Server, ServerError};
use crate::telemetry::logs;
use crate::Config;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{signal, SignalKind};

/// Exit code for settings that cannot be used; clap uses the same one for bad flags.
const BAD_SETTINGS: u8 = 2;

/// `idempotencyd serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// File with settings, TOML or JSON (by its name); flags and environment win over it
    #[arg(long, env = "IDEMPOTENCYD_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,

    /// Bring the schema of the database up to date first
    #[arg(long, env = "IDEMPOTENCYD_MIGRATE")]
    migrate: bool,

    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
        // What is written here, by the storage engine as well, is the owner's alone. Sockets have a
        // setting of their own.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let settings = match self.config.as_deref().map(config::read_file) {
            None => self.settings,
            Some(Ok(file)) => self.settings.over(file),
            Some(Err(error)) => return refuse(&[error.to_string()]),
        };
        if let Err(error) = logs::start(&settings) {
            return refuse(&[error]);
        }
        let mut settings = settings;
        if let Err(errors) = config::otel::complete(&mut settings, std::env::vars_os()) {
            return refuse(&errors);
        }
        let threads = settings.threads;
        let mut config = match settings.check() {
            Ok(config) => config,
            Err(errors) => {
                return refuse(&errors.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
        };
        if self.migrate && !config.store.has_schema() {
            return refuse(&["migrate: this store has no schema".to_owned()]);
        }
        if let Err(message) = fit(&mut config) {
            return fail_with(&message);
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all();
        if let Some(threads) = threads {
            builder.worker_threads(threads);
        }
        let runtime = match builder.build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
        let result = runtime.block_on(serve(config, self.migrate));
        // What is still running had its time.
        runtime.shutdown_background();
        match result {
            Ok(()) => ExitCode::SUCCESS,
            // The log has it already.
            Err(ServerError::Broken(_)) => ExitCode::FAILURE,
            Err(error) => fail(&error),
        }
    }
}

/// Makes the budget of connections fit to the number of files that may be open, and says so.
fn fit(config: &mut Config) -> Result<(), String> {
    let files = files::raise();
    match config
        .limits
        .fit(files, config.listen.len() + config.ui_listen.len())
    {
        Ok(None) => {
            let max_connections = config.limits.max_connections;
            tracing::info!(files, max_connections, "the limit of open files is enough");
            Ok(())
        }
        Ok(Some(fitted)) => {
            tracing::warn!(
                files,
                max_connections = fitted.max_connections,
                max_waiters = fitted.max_waiters,
                "the limit of open files is low: fewer connections for each listener"
            );
            Ok(())
        }
        Err(needed) => Err(format!(
            "the limit of open files is {files}; at least {needed} are needed (ulimit -n)"
        )),
    }
}

async fn serve(mut config: Config, migrate: bool) -> Result<(), ServerError> {
    let signals = Signals::new().map_err(|source| ServerError::File {
        what: "the signal handlers",
        source,
    })?;
    if migrate {
        let done = config.store.migrate().await?;
        tracing::info!(done, "migrated");
    }
    let store = config.open_store().await?;
    // The store's lock is held by now, so no other process makes a token in the same place.
    make_token(&mut config).map_err(|source| ServerError::File {
        what: "the gateway token",
        source,
    })?;
    let server = Server::bind(config, store).await?;
    let reloader = server.reloader();
    server.run(signals.stop(move || reload(&reloader))).await
}

/// Makes a token for gateways where nobody configured one, or takes the one made before.
fn make_token(config: &mut Config) -> std::io::Result<()> {
    let Some(path) = config.made_token.clone() else {
        return Ok(());
    };
    if auth::ensure_made(&path)? {
        tracing::warn!(
            file = %path.display(),
            "no token is configured: made one, which gateways have to show"
        );
    } else {
        tracing::info!(file = %path.display(), "gateways have to show the token in this file");
    }
    auth::add_made(&mut config.tokens, &path)?;
    // Read again with the others.
    config.token_files.gateway.push(path);
    Ok(())
}

fn reload(reloader: &crate::server::Reloader) {
    // It logs what became of it.
    let _ = reloader.reload_certificates();
    match reloader.reload() {
        Ok(()) => tracing::info!("tokens read again"),
        Err(errors) => {
            for error in errors {
                tracing::error!(error, "tokens not replaced");
            }
        }
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Ready when the process is asked to stop.
    async fn stop(mut self, on_hangup: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => on_hangup(),
            }
        }
    }
}

pub(super) fn refuse(errors: &[String]) -> ExitCode {
    for error in errors {
        eprintln!("idempotencyd: {error}");
    }
    ExitCode::from(BAD_SETTINGS)
}

pub(super) fn fail(error: &dyn std::error::Error) -> ExitCode {
    fail_with(&error.to_string())
}

pub(super) fn fail_with(message: &str) -> ExitCode {
    eprintln!("idempotencyd: {message}");
    ExitCode::FAILURE
}
