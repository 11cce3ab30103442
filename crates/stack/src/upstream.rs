//! The demo upstream as a child.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::error::Error;
use crate::http::Request;
use crate::process::Process;
use crate::{ports, tools};

/// How the upstream is started.
#[derive(Debug, Clone, Default)]
pub struct UpstreamOptions {
    /// `None` takes a free one.
    pub port: Option<u16>,
    /// Worker threads; `None`: one per core.
    pub threads: Option<usize>,
    /// Where its output goes; `None`: a temporary file.
    pub log: Option<PathBuf>,
    /// A file that gets every execution, and survives `kill -9`.
    pub journal: Option<PathBuf>,
    /// The request headers that the journal repeats.
    pub journal_headers: Vec<String>,
}

/// A running demo upstream.
#[derive(Debug)]
pub struct Upstream {
    process: Process,
    options: UpstreamOptions,
    address: SocketAddr,
    log: PathBuf,
    _dir: TempDir,
}

/// `GET /executions`.
#[derive(Debug, Clone, Deserialize)]
pub struct Executions {
    /// All executions.
    pub total: u64,
    /// By `Idempotency-Key`; requests without one under `""`.
    pub by_key: BTreeMap<String, u64>,
    /// Requests that never arrived whole.
    pub cut: u64,
}

impl Executions {
    /// The executions of one key.
    pub fn of(&self, key: &str) -> u64 {
        self.by_key.get(key).copied().unwrap_or(0)
    }
}

/// An entry of `GET /executions/log`; the upstream's documentation explains the fields.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Execution {
    pub seq: u64,
    pub method: String,
    pub path: String,
    pub query: String,
    pub key: String,
    pub fence: Option<String>,
    pub attempt: Option<String>,
    pub body_sha256: String,
    pub finished: bool,
    pub aborted: bool,
    pub started_at: u64,
    pub finished_at: Option<u64>,
}

impl Upstream {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    ///
    /// If its program is not there or does not start.
    pub fn start(options: UpstreamOptions) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let port = options.port.unwrap_or_else(ports::free);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let log = options
            .log
            .clone()
            .unwrap_or_else(|| dir.path().join("upstream.log"));
        let process = launch(&options, address, &log)?;
        Ok(Self {
            process,
            options,
            address,
            log,
            _dir: dir,
        })
    }

    /// Starts it again after a kill: same port, same journal; its counts begin anew.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(&self.options, self.address, &self.log)?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, for signals and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has executed.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn executions(&self) -> Executions {
        self.ask("/executions")
    }

    /// The executions in order.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn log(&self) -> Vec<Execution> {
        self.ask("/executions/log")
    }

    /// Forgets all executions.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn reset(&self) {
        let answer = Request::post("/reset").send(self.address);
        assert_eq!(
            answer.map(|answer| answer.status).ok(),
            Some(204),
            "the upstream's reset"
        );
    }

    fn ask<T: for<'a> Deserialize<'a>>(&self, target: &str) -> T {
        let answer = match Request::get(target).send(self.address) {
            Ok(answer) => answer,
            Err(error) => panic!("the demo upstream does not answer {target}: {error}"),
        };
        match serde_json::from_slice(&answer.body) {
            Ok(value) => value,
            Err(error) => panic!("{target} of the demo upstream: {error}: {}", answer.text()),
        }
    }
}

fn launch(options: &UpstreamOptions, address: SocketAddr, log: &Path) -> Result<Process, Error> {
    let mut command = Command::new(tools::demo_upstream()?);
    command.arg("--listen").arg(address.to_string());
    if let Some(threads) = options.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if let Some(journal) = &options.journal {
        command.arg("--journal").arg(journal);
    }
    for header in &options.journal_headers {
        command.args(["--journal-header", header]);
    }
    let mut process = Process::start("demo-upstream", command, log.to_owned())?;
    let ready = || Request::get("/healthz").send(address).is_ok();
    process.await_ready(Duration::from_secs(20), ready)?;
    Ok(process)
}
