//! The idempotency service, with an embedded store.

use crate::client::{post, Answer};
use crate::process::{free_port, until, Directory, Process};
use crate::tools;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const GATEWAY: &str = "gateway-token-of-the-tests";
const OPERATOR: &str = "operator-token-of-the-tests";

/// A running service.
#[derive(Debug)]
pub struct Service {
    process: Process,
    address: SocketAddr,
    dir: Directory,
}

impl Service {
    /// Starts it and waits until it is ready.
    pub fn start() -> Service {
        let dir = Directory::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = launch(&dir, address);
        let service = Service {
            process,
            address,
            dir,
        };
        service.await_ready();
        service
    }

    fn await_ready(&self) {
        let ready = || {
            self.get("/readyz")
                .is_some_and(|answer| answer.status == 200)
        };
        let log = || std::fs::read_to_string(self.dir.path().join("log"));
        assert!(until(Duration::from_secs(60), ready), "{:?}", log());
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Its TCP address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token of gateways.
    pub fn token(&self) -> &'static str {
        GATEWAY
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with what it has stored.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.dir, self.address);
        self.await_ready();
    }

    /// What it answers to an operator; `None`: nobody is there.
    pub fn get(&self, target: &str) -> Option<Answer> {
        std::net::TcpStream::connect(self.address).ok()?;
        let request = post(target, "none", "")
            .method("GET")
            .without("Idempotency-Key");
        let bearer = format!("Bearer {OPERATOR}");
        Some(request.with("Authorization", &bearer).send(self.address))
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_default().text()
    }
}

fn launch(dir: &Directory, address: SocketAddr) -> Process {
    let socket = dir.path().join("sock");
    let _ = std::fs::remove_file(&socket);
    let program = tools::idempotencyd().expect("the service is built");
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(["--listen", &address.to_string()])
        .args(["--listen", &format!("unix:{}", socket.display())])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--gateway-token", GATEWAY, "--operator-token", OPERATOR]);
    Process::start(command, &dir.path().join("log"))
}
