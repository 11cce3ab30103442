//! Our own Kong as a child: the native filter in a host that enforces the rules of the real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::error::Error;
use crate::gateway::{Cluster, GatewayConfig};
use crate::http::Request;
use crate::process::{read_lossy, Process};
use crate::{ports, tools};

/// A running `kong-host`. If the filter broke a rule of Kong's host, dropping it panics.
#[derive(Debug)]
pub struct KongHost {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    files: Files,
    _dir: TempDir,
}

#[derive(Debug)]
struct Files {
    config: PathBuf,
    log: PathBuf,
    access_log: PathBuf,
    violations: PathBuf,
    environment: Vec<(String, String)>,
}

impl KongHost {
    /// Writes the configuration, starts the host and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If its program is not there or does not start.
    pub fn start(config: GatewayConfig) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            config: at("kong-host.json"),
            log: at("kong-host.log"),
            access_log: at("access.log"),
            violations: at("violations"),
            environment: config.environment.clone(),
        };
        let [address, admin] =
            [ports::free(), ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = settings(&config, address, admin, &files).to_string();
        std::fs::write(&files.config, text)
            .map_err(|error| Error::new(format!("{}: {error}", files.config.display())))?;
        Ok(Self {
            process: launch(&files, admin)?,
            address,
            admin,
            files,
            _dir: dir,
        })
    }

    /// Starts it again, with the same ports and the same configuration.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(&self.files, self.admin)?;
        Ok(())
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file with its log.
    pub fn log_path(&self) -> &Path {
        &self.files.log
    }

    /// The access log up to now.
    pub fn access_log(&self) -> String {
        read_lossy(&self.files.access_log)
    }

    /// The filter's metrics, and `host.callouts`.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        match Request::get("/stats").send(self.admin) {
            Ok(answer) => read_stats(&answer.text()),
            Err(error) => panic!("the Kong host does not tell its metrics: {error}"),
        }
    }
}

/// `name: value` per line.
pub(crate) fn read_stats(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

fn settings(
    config: &GatewayConfig,
    address: SocketAddr,
    admin: SocketAddr,
    files: &Files,
) -> Value {
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|route| {
            let target = match &route.cluster {
                Cluster::Upstream => json!({ "address": config.upstream }),
                Cluster::At(address) => json!({ "address": address }),
                Cluster::Refused => json!({ "address": ports::REFUSED }),
                Cluster::NoHosts | Cluster::Named(_) => json!("nobody"),
            };
            let timeout = u64::try_from(config.timeout(route).as_millis());
            json!({
                "prefix": route.prefix,
                "target": target,
                "read_timeout_ms": timeout.unwrap_or(u64::MAX),
                "identity": config.identity,
            })
        })
        .collect();
    json!({
        "listen": address,
        "admin": admin,
        "workers": config.workers,
        "filter": config.filter_with_address(),
        "routes": routes,
        "client_body_buffer_size": config.buffer_bytes,
        "access_log": files.access_log,
        "violations": files.violations,
    })
}

fn launch(files: &Files, admin: SocketAddr) -> Result<Process, Error> {
    let mut command = Command::new(tools::kong_host()?);
    command
        .arg(&files.config)
        .envs(files.environment.iter().cloned());
    let mut process = Process::start("kong-host", command, files.log.clone())?;
    let ready = || Request::get("/stats").send(admin).is_ok();
    process.await_ready(Duration::from_secs(20), ready)?;
    Ok(process)
}

impl Drop for KongHost {
    fn drop(&mut self) {
        let broken = read_lossy(&self.files.violations);
        if broken.is_empty() {
            return;
        }
        let message = format!("the filter broke rules of Kong's host:\n{broken}");
        if std::thread::panicking() {
            eprintln!("{message}");
        } else {
            panic!("{message}");
        }
    }
}
