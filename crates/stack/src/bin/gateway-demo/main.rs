//! `make run`: the whole gateway on this machine, until Ctrl-C.
//!
//! Exit status: 0 after Ctrl-C or SIGTERM, 1 if something is missing, in the way, wrong or died;
//! then one line says what, and nothing is left running.

mod settings;
mod walkthrough;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use idempotency_stack::{
    terminate_with_parent, Envoy, EnvoyConfig, Error, Process, Service, ServiceAddress,
    ServiceOptions, Upstream, UpstreamOptions,
};
use settings::Settings;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Lines of a dead child's log that are shown.
const TAIL: usize = 15;

struct Demo {
    envoy: Envoy,
    service: Service,
    upstream: Upstream,
}

impl Demo {
    fn start(settings: &Settings) -> Result<Self, Error> {
        let upstream = Upstream::start(UpstreamOptions {
            port: Some(settings.upstream_port),
            log: Some(settings.logs.join("upstream.log")),
            ..UpstreamOptions::default()
        })?;
        let service = Service::start(ServiceOptions {
            port: Some(settings.service_port),
            backend: settings.backend.clone(),
            data_dir: Some(settings.store.clone()),
            tokens: settings.filter.tokens.clone(),
            log_level: Some(settings.log_level.clone()),
            log: Some(settings.logs.join("service.log")),
            ..ServiceOptions::default()
        })?;
        let envoy = Envoy::start(EnvoyConfig {
            gateway_port: settings.gateway_port,
            admin_port: settings.admin_port,
            concurrency: settings.concurrency,
            limits: true,
            wasm_log_level: settings.log_level.clone(),
            log: Some(settings.logs.join("envoy.log")),
            access_log: Some(settings.logs.join("access.log")),
            ..EnvoyConfig::new(
                settings.filter.text.clone(),
                upstream.address(),
                ServiceAddress::Tcp(service.address()),
            )
        })?;
        Ok(Self {
            envoy,
            service,
            upstream,
        })
    }

    /// In the order in which they stop: first the one that calls the others.
    fn processes(&mut self) -> [&mut Process; 3] {
        [
            self.envoy.process(),
            self.service.process(),
            self.upstream.process(),
        ]
    }

    fn dead(&mut self) -> Option<String> {
        self.processes().into_iter().find_map(|process| {
            let status = process.exit_status()?;
            let (name, log) = (process.name(), process.log_path().display());
            Some(format!(
                "{name} died ({status}); {log} ends:\n{}",
                process.tail(TAIL)
            ))
        })
    }

    fn stop(&mut self) {
        for process in self.processes() {
            process.stop(Duration::from_secs(12));
        }
    }
}

/// Where a signal goes: nowhere but out while the parts are starting, to the main loop later.
fn signals() -> Result<(Receiver<()>, Arc<Mutex<bool>>), Error> {
    let failed = |error| Error::new(format!("cannot wait for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let (sender, receiver) = channel();
    let running = Arc::new(Mutex::new(false));
    let seen_running = running.clone();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if !*seen_running.lock().unwrap_or_else(PoisonError::into_inner) {
                // The kernel kills the children with this process.
                std::process::exit(0);
            }
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    Ok((receiver, running))
}

fn run() -> Result<(), Error> {
    // Started by make, it must not outlive a make that is killed.
    if std::env::var_os("STOP_WITH_PARENT").is_some() {
        terminate_with_parent().map_err(|error| Error::new(error.to_string()))?;
    }
    if let Some(argument) = std::env::args().nth(1) {
        return Err(Error::new(format!(
            "unexpected argument {argument:?}: settings are environment variables: GATEWAY_PORT, \
             ENVOY_ADMIN_PORT, SERVICE_PORT, UPSTREAM_PORT, CONCURRENCY, LOG, STORE, DATA_DIR, FILTER_CONFIG"
        )));
    }
    let settings = Settings::from_env()?;
    let (stop, running) = signals()?;
    let mut demo = Demo::start(&settings)?;
    *running.lock().unwrap_or_else(PoisonError::into_inner) = true;
    say(&walkthrough::text(&settings));
    loop {
        if stop.recv_timeout(Duration::from_millis(100)).is_ok() {
            say("stopping\n");
            demo.stop();
            return Ok(());
        }
        if let Some(message) = demo.dead() {
            demo.stop();
            return Err(Error::new(message));
        }
    }
}

/// A closed stdout is no reason to stop.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.to_string().trim_end());
            ExitCode::FAILURE
        }
    }
}
