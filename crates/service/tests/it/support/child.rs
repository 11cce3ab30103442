//! The real binary as a child process.

use super::{Client, GATEWAY, OPERATOR, PATIENCE};
use idempotency_stack::Process;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idempotencyd"));
    // The environment of whoever runs the tests must not matter.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("IDEMPOTENCYD_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running service. Killed on drop.
pub struct Child {
    process: Process,
    pub address: SocketAddr,
    pub dir: Dir,
}

/// Its files; they may outlive it.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("socket")
    }
}

impl Child {
    pub fn start(dir: Dir, args: &[&str]) -> Child {
        Child::start_in(dir, args, &[])
    }

    /// With further variables in its environment.
    pub fn start_in(dir: Dir, args: &[&str], env: &[(&str, &str)]) -> Child {
        let ready = dir.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = binary();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg("--listen")
            .arg(format!("unix:{}", dir.socket().display()))
            .arg("--ready-file")
            .arg(&ready)
            .args(["--log-format", "json"])
            .args(args)
            .envs(env.iter().copied());
        let mut process = Process::start("idempotencyd", command, dir.log()).unwrap();
        let mut text = String::new();
        let written = || {
            text = std::fs::read_to_string(&ready).unwrap_or_default();
            !text.is_empty()
        };
        if let Err(error) = process.await_ready(PATIENCE, written) {
            panic!("{error}");
        }
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["pid"], process.id());
        let address = document["listen"][0].as_str().unwrap().parse().unwrap();
        Child {
            process,
            address,
            dir,
        }
    }

    /// On the embedded store, with tokens for gateway and operator.
    pub fn embedded(dir: Dir, args: &[&str]) -> Child {
        let data = dir.path().join("data");
        let mut all = vec!["--data-dir", data.to_str().unwrap()];
        all.extend(["--gateway-token", GATEWAY, "--operator-token"]);
        let operator = format!("alice:{OPERATOR}");
        all.push(&operator);
        all.extend(args);
        Child::start(dir, &all)
    }

    pub fn gateway(&self) -> Client {
        Client::tcp(self.address).token(GATEWAY)
    }

    /// Its memory in bytes, as the kernel counts it.
    pub fn resident(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib: usize = line
            .and_then(|l| l.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap();
        kib * 1024
    }

    /// The value of a metric; labels are part of the name.
    pub async fn metric(&self, name: &str) -> u64 {
        let reply = Client::unix(&self.dir.socket()).get("/metrics").await;
        super::metric(&reply.text(), name)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap()
            .success());
    }

    /// Stops it in its tracks (SIGSTOP), until [`Child::resume`].
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) {
        self.process.resume();
    }

    pub fn stop(mut self) -> (ExitStatus, Dir) {
        self.signal("TERM");
        let process = &mut self.process;
        let ended = idempotency_stack::until(PATIENCE, || process.exit_status().is_some());
        assert!(ended, "did not end in time");
        (self.process.exit_status().unwrap(), self.dir)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it ends by itself; how it did.
    pub fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        let ended = idempotency_stack::until(PATIENCE, || process.exit_status().is_some());
        assert!(ended, "did not end: {}", self.process.log());
        self.process.exit_status().unwrap()
    }

    pub fn into_dir(self) -> Dir {
        self.dir
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Dir {
        self.process.kill();
        self.dir
    }

    pub fn log(&self) -> String {
        self.process.log()
    }
}
