//! A real nginx with Kong's module for WebAssembly (ngx_wasm_module) as a child.

pub(crate) mod conf;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::gateway::GatewayConfig;
use crate::http::Request;
use crate::kong_host::read_stats;
use crate::process::{read_lossy, Process};
use crate::{ports, tools};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
    /// Lua holds the metrics' lock while it sleeps: a second reader would stop the worker.
    reading: Mutex<()>,
}

impl Nginx {
    /// Writes the configuration, starts nginx and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If nginx or the filter is not there, or nginx does not start.
    pub fn start(config: GatewayConfig) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let [address, admin] =
            [ports::free(), ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let filter = config.filter_with_address();
        let lualib = tools::kong_lualib()?;
        let wasm = tools::wasm()?;
        let conf = conf::Conf {
            config: &config,
            filter: filter.as_deref(),
            wasm: &wasm,
            lualib: &lualib,
            address,
            admin,
            dir: dir.path(),
        };
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text)
                .map_err(|error| Error::new(format!("{}: {error}", path.display())))
        };
        write(conf::FILTER, filter.as_deref().unwrap_or_default())?;
        write(conf::FILE, &conf.text())?;
        Ok(Self {
            process: launch(dir.path(), admin)?,
            address,
            admin,
            dir,
            reading: Mutex::default(),
        })
    }

    /// Starts it again, with the same ports and the same configuration.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(self.dir.path(), self.admin)?;
        Ok(())
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process: nginx's master; signals go to its workers, too.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file with its log.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// The access log up to now.
    pub fn access_log(&self) -> String {
        read_lossy(&self.dir.path().join(conf::ACCESS_LOG))
    }

    /// The filter's metrics.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match Request::get("/stats").send(self.admin) {
            Ok(answer) => read_stats(&answer.text()),
            Err(error) => panic!("nginx does not tell the filter's metrics: {error}"),
        }
    }
}

fn launch(dir: &Path, admin: SocketAddr) -> Result<Process, Error> {
    let mut command = Command::new(tools::kong_nginx()?);
    let conf: PathBuf = dir.join(conf::FILE);
    command.arg("-p").arg(dir).arg("-c").arg(conf);
    let mut process = Process::start_parent("nginx", command, dir.join(conf::LOG))?;
    let ready = || Request::get("/ready").send(admin).is_ok();
    // Compiling the filter on a busy machine takes a while.
    process.await_ready(Duration::from_secs(60), ready)?;
    Ok(process)
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let log = self.process.log();
        let broken: Vec<_> = log.lines().filter(|line| conf::is_broken(line)).collect();
        if broken.is_empty() {
            return;
        }
        let message = format!("nginx had trouble with the filter:\n{}", broken.join("\n"));
        if std::thread::panicking() {
            eprintln!("{message}");
        } else {
            panic!("{message}");
        }
    }
}
