//! The real binary as a child process.

use super::{Client, GATEWAY, OPERATOR, PATIENCE};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idempotencyd"));
    // The environment of whoever runs the tests must not matter.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IDEMPOTENCYD_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running service. Killed on drop.
pub struct Child {
    process: std::process::Child,
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
        let ready = dir.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.log())
            .unwrap();
        let mut process = binary()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg("--listen")
            .arg(format!("unix:{}", dir.socket().display()))
            .arg("--ready-file")
            .arg(&ready)
            .args(["--log-format", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let document = loop {
            if let Ok(text) = std::fs::read_to_string(&ready) {
                break text;
            }
            let ended = process.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "ended: {}",
                std::fs::read_to_string(dir.log()).unwrap()
            );
            assert!(Instant::now() < deadline, "not ready in time");
            std::thread::sleep(Duration::from_millis(5));
        };
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
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

    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap()
            .success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end in time");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stop(mut self) -> (ExitStatus, Dir) {
        self.signal("TERM");
        let status = self.wait();
        (status, self.take_dir())
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Dir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.take_dir()
    }

    fn take_dir(&mut self) -> Dir {
        std::mem::replace(&mut self.dir, Dir::new())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.log()).unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
