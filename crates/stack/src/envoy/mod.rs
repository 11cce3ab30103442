//! A real Envoy as a child, and the configuration that it runs with.

mod config;
pub(crate) mod parts;

pub use config::EnvoyConfig;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::http::{Answer, Request};
use crate::process::{read_lossy, tail, Process};
use crate::tools;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    config: EnvoyConfig,
    files: Files,
    _dir: TempDir,
}

#[derive(Debug)]
struct Files {
    bootstrap: PathBuf,
    log: PathBuf,
}

impl Envoy {
    /// Writes the configuration, starts Envoy and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If Envoy is not there, refuses the configuration or does not get ready.
    pub fn start(mut config: EnvoyConfig) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        if config.access_log.is_none() {
            config.access_log = Some(dir.path().join("access.log"));
        }
        let log = config
            .log
            .clone()
            .unwrap_or_else(|| dir.path().join("envoy.log"));
        let files = Files {
            bootstrap: dir.path().join("envoy.json"),
            log,
        };
        let bootstrap = serde_json::to_vec_pretty(&config.bootstrap()?);
        let bootstrap = bootstrap.map_err(|error| Error::new(error.to_string()))?;
        std::fs::write(&files.bootstrap, bootstrap)
            .map_err(|error| Error::new(format!("{}: {error}", files.bootstrap.display())))?;
        let process = launch(&config, &files)?;
        Ok(Self {
            process,
            config,
            files,
            _dir: dir,
        })
    }

    /// Starts it again after [`Self::kill`]: same ports, same configuration.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(&self.config, &self.files)?;
        Ok(())
    }

    /// Where clients go.
    pub fn gateway(&self) -> SocketAddr {
        self.config.gateway_address()
    }

    /// The admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.config.admin_address()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its process, for signals (pause, resume) and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file with its log, the filter's lines among them.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// Its log up to now.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The access log up to now; Envoy writes it with a delay of at most 50 ms.
    pub fn access_log(&self) -> String {
        self.config
            .access_log
            .as_deref()
            .map(read_lossy)
            .unwrap_or_default()
    }

    /// Counters and gauges whose name contains `part`.
    ///
    /// # Panics
    ///
    /// If Envoy does not answer.
    pub fn stats(&self, part: &str) -> BTreeMap<String, u64> {
        let text = self.ask("GET", "/stats").text();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs
            .filter(|(name, _)| name.contains(part))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// A request to the admin interface.
    ///
    /// # Panics
    ///
    /// If Envoy does not answer.
    pub fn ask(&self, method: &str, target: &str) -> Answer {
        match Request::new(method, target).send(self.admin()) {
            Ok(answer) => answer,
            Err(error) => panic!("Envoy's admin does not answer {method} {target}: {error}"),
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- Envoy's access log ends:\n{}----",
                tail(&self.access_log(), 40)
            );
        }
    }
}

/// Has Envoy check a configuration without running it.
///
/// # Errors
///
/// With Envoy's words, if it refuses.
pub fn validate(bootstrap: &Path) -> Result<(), Error> {
    let mut command = Command::new(tools::envoy()?);
    command
        .arg("--mode")
        .arg("validate")
        .arg("-c")
        .arg(bootstrap);
    let output = command
        .output()
        .map_err(|error| Error::new(format!("envoy: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "{} is refused:\n{}",
        bootstrap.display(),
        tail(&said, 20)
    )))
}

fn launch(config: &EnvoyConfig, files: &Files) -> Result<Process, Error> {
    let mut command = Command::new(tools::envoy()?);
    command
        .arg("-c")
        .arg(&files.bootstrap)
        .envs(config.environment.iter().cloned())
        .arg("--use-dynamic-base-id")
        .arg("--disable-hot-restart")
        .args(["--concurrency", &config.concurrency.to_string()])
        .args(["--log-level", &config.log_level])
        .args([
            "--component-log-level",
            &format!(
                "wasm:{level},dynamic_modules:{level}",
                level = config.wasm_log_level
            ),
        ])
        .args(["--file-flush-interval-msec", "50"]);
    if config.native {
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", tools::native_module()?);
    }
    let mut process = Process::start("envoy", command, files.log.clone())?;
    let admin = config.admin_address();
    let ready = || {
        Request::get("/ready")
            .send(admin)
            .is_ok_and(|answer| answer.status == 200)
    };
    // Compiling the filter on a busy machine takes a while.
    process.await_ready(Duration::from_secs(60), ready)?;
    Ok(process)
}
