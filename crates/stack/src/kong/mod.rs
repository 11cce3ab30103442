//! A complete Kong as a child: without a database, with the settings that we ship.

mod document;
mod settings;

pub use settings::KongSettings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use tempfile::TempDir;

use crate::error::Error;
use crate::gateway::GatewayConfig;
use crate::http::{Answer, Request};
use crate::nginx::conf;
use crate::process::{read_lossy, Process};
use crate::wait::until;
use crate::{ports, tools};

/// What of ours runs in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The WebAssembly filter.
    Wasm,
    /// The Lua plugin.
    Lua,
}

/// A running Kong.
#[derive(Debug)]
pub struct Kong {
    process: Process,
    body: Body,
    address: SocketAddr,
    status: SocketAddr,
    environment: Vec<(String, String)>,
    dir: TempDir,
    /// Kong holds the metrics' lock while it sleeps, so the settings let in one reader at a time.
    reading: Mutex<()>,
    /// Signs of trouble in the log that a test has made itself.
    forgiven: Vec<String>,
}

impl Kong {
    /// Writes the configuration, starts Kong and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If Kong or the filter is not there, or Kong does not start.
    pub fn start(config: GatewayConfig, body: Body) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let [address, status] =
            [ports::free(), ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let document = document::of(&config, body)?;
        let at = |name: &str| dir.path().join(name);
        let write = |path: PathBuf, text: &str| {
            std::fs::write(&path, text)
                .map_err(|error| Error::new(format!("{}: {error}", path.display())))
        };
        if body == Body::Wasm {
            let wasm = tools::wasm()?;
            let filters = at(settings::FILTERS);
            let made = std::fs::create_dir(&filters)
                .and_then(|()| std::fs::copy(&wasm, filters.join("idempotency.wasm")));
            made.map_err(|error| Error::new(format!("{}: {error}", filters.display())))?;
            // Without it, the filter gets what no schema would let pass.
            if document.fits_the_schema {
                write(filters.join("idempotency.meta.json"), settings::SCHEMA)?;
            }
            write(at(settings::DRAIN), &settings::drain(&at(settings::PREFIX)))?;
        }
        write(at(settings::DOCUMENT), &document.value.to_string())?;
        let environment = settings::environment(&config, body, dir.path(), address, status)?;
        Ok(Self {
            process: launch(dir.path(), &environment, status)?,
            body,
            address,
            status,
            environment,
            dir,
            reading: Mutex::default(),
            forgiven: Vec::new(),
        })
    }

    /// Starts it again, with the same ports and the same configuration.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill_tree();
        // nginx had no time to take it away.
        let _ = std::fs::remove_file(self.prefix().join("pids/nginx.pid"));
        self.process = launch(self.dir.path(), &self.environment, self.status)?;
        Ok(())
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its state and its metrics are.
    pub fn status(&self) -> SocketAddr {
        self.status
    }

    /// The directory with its files.
    pub fn prefix(&self) -> PathBuf {
        self.dir.path().join(settings::PREFIX)
    }

    /// The declarative configuration that it was started with.
    pub fn document(&self) -> PathBuf {
        self.dir.path().join(settings::DOCUMENT)
    }

    /// Its process: `kong start`, whose children nginx and its workers are.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The workers that serve requests, and are not about to end.
    pub fn workers(&self) -> Vec<i32> {
        let all = self.process.descendants().into_iter();
        let serving = all.filter(|id| {
            let title = read_lossy(Path::new(&format!("/proc/{id}/cmdline")));
            title.contains("worker process") && !title.contains("shutting down")
        });
        serving.collect()
    }

    /// `kill -9` for one worker; nginx starts another one.
    pub fn kill_worker(&self, id: i32) {
        if let Some(pid) = Pid::from_raw(id) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Lines of the log with these words are no trouble of the filter's: the test made them.
    pub fn forgive(&mut self, words: &str) {
        self.forgiven.push(words.to_owned());
    }

    /// A command of Kong's, e.g. `reload`; or another program for this Kong, which finds `kong` on its
    /// PATH.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let bin = tools::kong().ok();
        let bin = bin.as_deref().and_then(Path::parent);
        let path = std::env::var("PATH").unwrap_or_default();
        if let Some(bin) = bin {
            command.env("PATH", format!("{}:{path}", bin.display()));
        }
        command.envs(self.environment.iter().cloned());
        command.env("STATUS_URL", format!("http://{}", self.status));
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Runs `kong` with these arguments for this Kong.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let program = tools::kong().expect("the program that was started before");
        let prefix = self.prefix();
        let mut command = self.command(&program);
        command.args(arguments).arg("--prefix").arg(prefix);
        command.output().expect("a program that runs")
    }

    /// The file with its log.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// The access log up to now.
    pub fn access_log(&self) -> String {
        read_lossy(&self.prefix().join(settings::ACCESS_LOG))
    }

    /// Its page for Prometheus.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn metrics_page(&self) -> String {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = None;
        let told = until(Duration::from_secs(30), || {
            // The connection of the reader before is closed by Kong when it comes to it.
            let answer = Request::get("/metrics").send(self.status).ok();
            page = answer.filter(|answer| answer.status == 200);
            page.is_some()
        });
        assert!(told, "Kong does not tell its metrics");
        page.as_ref().map(Answer::text).unwrap_or_default()
    }

    /// The filter's metrics.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        const FILTER: &str = "pw_idempotency_";
        if self.body == Body::Lua {
            // Kong's workers put their counters together once a second, and nothing says that it was done.
            std::thread::sleep(Duration::from_millis(1100));
        }
        let page = self.metrics_page();
        if self.body == Body::Lua {
            return plugin_stats(&page);
        }
        let lines = page.lines().filter_map(|line| line.strip_prefix(FILTER));
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        pairs.collect()
    }
}

/// The plugin's counters by the filter's names: those of all rules together.
fn plugin_stats(page: &str) -> BTreeMap<String, u64> {
    const COUNTER: &str = "kong_idempotency_requests_total{";
    /// What is no problem.
    const ENDS: [&str; 9] = [
        "executed",
        "replayed",
        "waited",
        "relayed",
        "not_sent",
        "unknown",
        "withheld",
        "lease_renewed",
        "lease_lost",
    ];
    let mut stats = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix(COUNTER)) {
        let outcome = line.split("outcome=\"").nth(1);
        let outcome = outcome.and_then(|rest| rest.split('"').next());
        let value = line.rsplit_once(' ');
        let value = value.and_then(|(_, value)| value.parse::<u64>().ok());
        if let (Some(outcome), Some(value)) = (outcome, value) {
            let kind = match ENDS.contains(&outcome) {
                true => "",
                false => "problem_",
            };
            *stats
                .entry(format!("idempotency_{kind}{outcome}"))
                .or_default() += value;
        }
    }
    stats
}

fn launch(
    dir: &Path,
    environment: &[(String, String)],
    status: SocketAddr,
) -> Result<Process, Error> {
    let mut command = Command::new(tools::kong()?);
    command.arg("start").envs(environment.iter().cloned());
    let mut process = Process::start_parent("kong", command, dir.join(settings::LOG))?;
    let ready = || {
        let answer = Request::get("/status/ready").send(status);
        answer.is_ok_and(|answer| answer.status == 200)
    };
    // Compiling the filter on a busy machine takes a while.
    process.await_ready(Duration::from_secs(120), ready)?;
    Ok(process)
}

impl Drop for Kong {
    fn drop(&mut self) {
        let log = self.process.log();
        let forgiven = |line: &str| self.forgiven.iter().any(|words| line.contains(words));
        let broken = log
            .lines()
            .filter(|line| conf::is_broken(line) && !forgiven(line));
        let broken: Vec<_> = broken.collect();
        if broken.is_empty() {
            return;
        }
        let message = format!("Kong had trouble with the filter:\n{}", broken.join("\n"));
        if std::thread::panicking() {
            eprintln!("{message}");
        } else {
            panic!("{message}");
        }
    }
}
