//! One region: a gateway, a service, a Redis and an upstream, all inside of its namespace.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idempotency_stack::http::Request;
use idempotency_stack::{filter_config, tools, EnvoyConfig, Process, ServiceAddress, Tokens};
use serde_json::{json, Value};
use tempfile::TempDir;

use super::network::Network;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the store is.
    Home,
    /// The other one.
    Away,
}

impl Place {
    pub const BOTH: [Place; 2] = [Place::Home, Place::Away];

    pub fn number(self) -> u8 {
        self as u8
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Everybody has a machine of one's own, so ports are what they always are.
const GATEWAY: u16 = 10_000;
const SERVICE: u16 = 7_480;
const UPSTREAM: u16 = 7_481;
const REDIS: u16 = 6_379;

/// A region. Dropped, it ends.
#[derive(Debug)]
pub struct Region {
    space: String,
    address: IpAddr,
    // Dropped in this order: first the one that calls the others.
    gateway: Option<Process>,
    service: Option<Process>,
    redis: Option<Process>,
    _upstream: Process,
    dir: TempDir,
}

impl Region {
    /// With nothing but its upstream.
    pub fn new(network: &Network, place: Place) -> Region {
        let space = network.space(place);
        let address = network.inside(place);
        let dir = tempfile::tempdir().unwrap();
        let upstream = SocketAddr::new(address, UPSTREAM);
        let program = tools::demo_upstream().unwrap();
        let mut process = start(
            &space,
            "demo-upstream",
            &program,
            &["--listen", &format!("0.0.0.0:{UPSTREAM}")],
            dir.path(),
        );
        let ready = || Request::get("/healthz").send(upstream).is_ok();
        process.await_ready(PATIENCE, ready).unwrap();
        Region {
            space,
            address,
            gateway: None,
            service: None,
            redis: None,
            _upstream: process,
            dir,
        }
    }

    /// Where its clients go.
    pub fn gateway(&self) -> SocketAddr {
        SocketAddr::new(self.address, GATEWAY)
    }

    /// Its Redis, as others reach it.
    pub fn redis(&self) -> SocketAddr {
        SocketAddr::new(self.address, REDIS)
    }

    /// A Redis that keeps what it is given; with further settings.
    pub fn start_redis(&mut self, settings: &[&str]) {
        let port = REDIS.to_string();
        let dir = self.dir.path().display().to_string();
        let common = [
            "--bind",
            "0.0.0.0",
            "--port",
            &port,
            "--protected-mode",
            "no",
            "--dir",
            &dir,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let arguments = [&common[..], settings].concat();
        let program = tools::redis_server().unwrap();
        let mut process = self.start("redis", &program, &arguments);
        let ready = || self.redis_cli(&["PING"]).contains("PONG");
        process.await_ready(PATIENCE, ready).unwrap();
        self.redis = Some(process);
    }

    /// What `redis-cli` prints.
    pub fn redis_cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", &self.address.to_string(), "-p", &REDIS.to_string()])
            .args(command)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The service, on this store.
    pub fn start_service(&mut self, store: &str) {
        let tokens = Tokens::default();
        let listen = format!("0.0.0.0:{SERVICE}");
        let arguments = [
            "serve",
            "--listen",
            &listen,
            "--store",
            store,
            "--gateway-token",
            &tokens.gateway,
            "--operator-token",
            &tokens.operator,
        ];
        let program = tools::idempotencyd().unwrap();
        let mut process = self.start("idempotencyd", &program, &arguments);
        let address = SocketAddr::new(self.address, SERVICE);
        let ready = || {
            let answer = Request::get("/readyz").send(address);
            answer.is_ok_and(|answer| answer.status == 200)
        };
        process.await_ready(PATIENCE, ready).unwrap();
        self.service = Some(process);
    }

    pub fn stop_service(&mut self) {
        self.service.take().unwrap().kill();
    }

    /// A real Envoy with the filter, in front of this region's upstream and service.
    pub fn start_gateway(&mut self) {
        let rules = json!([{
            "name": "charges",
            "match": { "methods": ["POST"], "path_prefix": "/charges" },
            "scope": "global",
            "wait_ms": 5_000,
        }]);
        let mut filter = filter_config(&Tokens::default(), rules);
        filter["service"]["timeout_ms"] = json!(2_000);
        let [upstream, service] =
            [UPSTREAM, SERVICE].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let config = EnvoyConfig {
            gateway_port: GATEWAY,
            ..EnvoyConfig::new(filter.to_string(), upstream, ServiceAddress::Tcp(service))
        };
        let mut bootstrap = config.bootstrap().unwrap();
        for address in [
            "/static_resources/listeners/0/address/socket_address/address",
            "/admin/address/socket_address/address",
        ] {
            *bootstrap.pointer_mut(address).unwrap() = Value::from("0.0.0.0");
        }
        let file = self.dir.path().join("envoy.json");
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let file = file.display().to_string();
        let arguments = ["-c", &file, "--use-dynamic-base-id", "--concurrency", "1"];
        let program = tools::envoy().unwrap();
        let mut process = self.start("envoy", &program, &arguments);
        let admin = SocketAddr::new(self.address, config.admin_port);
        let ready = || {
            let answer = Request::get("/ready").send(admin);
            answer.is_ok_and(|answer| answer.status == 200)
        };
        process.await_ready(PATIENCE, ready).unwrap();
        self.gateway = Some(process);
    }

    /// How often its upstream has executed under this key.
    pub fn executions(&self, key: &str) -> u64 {
        let upstream = SocketAddr::new(self.address, UPSTREAM);
        let counted = Request::get("/executions").send(upstream).unwrap().json();
        counted["by_key"][key].as_u64().unwrap_or(0)
    }

    fn start(&self, name: &str, program: &Path, arguments: &[&str]) -> Process {
        start(&self.space, name, program, arguments, self.dir.path())
    }
}

/// Starts a program in a namespace.
fn start(space: &str, name: &str, program: &Path, arguments: &[&str], dir: &Path) -> Process {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", space])
        .arg(program)
        .args(arguments);
    Process::start(name, command, dir.join(format!("{name}.log"))).unwrap()
}
