//! The library's HTTP layer as a child: in front of a handler that asks the upstream.

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
use crate::kong_host::read_stats;
use crate::process::{read_lossy, Process};
use crate::{ports, tools};

/// A running `layer-host`.
#[derive(Debug)]
pub struct LayerHost {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    access_log: PathBuf,
    _dir: TempDir,
}

impl LayerHost {
    /// Writes the configuration, starts the host and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If its program is not there or does not start.
    pub fn start(config: GatewayConfig) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let at = |name: &str| dir.path().join(name);
        let (file, log) = (at("layer-host.json"), at("layer-host.log"));
        let access_log = at("access.log");
        let [address, admin] =
            [ports::free(), ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = settings(&config, address, admin, &access_log).to_string();
        std::fs::write(&file, text)
            .map_err(|error| Error::new(format!("{}: {error}", file.display())))?;
        Ok(Self {
            process: launch(&file, &log, admin)?,
            address,
            admin,
            config: file,
            log,
            access_log,
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
        self.process = launch(&self.config, &self.log, self.admin)?;
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
        &self.log
    }

    /// The access log up to now.
    pub fn access_log(&self) -> String {
        read_lossy(&self.access_log)
    }

    /// What the layer counts.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        match Request::get("/stats").send(self.admin) {
            Ok(answer) => read_stats(&answer.text()),
            Err(error) => panic!("the layer's host does not tell its counts: {error}"),
        }
    }
}

fn settings(
    config: &GatewayConfig,
    address: SocketAddr,
    admin: SocketAddr,
    access_log: &Path,
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
                "timeout_ms": timeout.unwrap_or(u64::MAX),
            })
        })
        .collect();
    json!({
        "listen": address,
        "admin": admin,
        "workers": config.workers,
        "filter": config.filter_with_address(),
        "routes": routes,
        "identity": config.identity,
        "access_log": access_log,
    })
}

fn launch(config: &Path, log: &Path, admin: SocketAddr) -> Result<Process, Error> {
    let mut command = Command::new(tools::layer_host()?);
    command.arg(config);
    let mut process = Process::start("layer-host", command, log.to_owned())?;
    let ready = || Request::get("/stats").send(admin).is_ok();
    process.await_ready(Duration::from_secs(20), ready)?;
    Ok(process)
}
