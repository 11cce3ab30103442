//! A master, a replica, and three Sentinels that watch them.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::server::cli;
use super::Redis;
use crate::error::Error;
use crate::process::Process;
use crate::wait::until;
use crate::{ports, tools};

/// The master's name.
const MASTER: &str = "mymaster";
const PATIENCE: Duration = Duration::from_secs(30);

/// A running group. A master that is silent for half a second is replaced.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The servers: first the one that was master at the start.
    pub servers: Vec<Redis>,
    sentinels: Vec<(Process, u16)>,
    _dir: TempDir,
}

impl RedisSentinel {
    /// Starts it and waits until every Sentinel knows everybody. `settings` are for the servers.
    ///
    /// # Errors
    ///
    /// If a part is not installed or does not start.
    pub fn start(settings: &[&str]) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let master = Redis::start(settings)?;
        let of = format!("127.0.0.1 {}", master.port());
        let replica = Redis::start(&[&["--replicaof", &of], settings].concat())?;
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let port = ports::free();
            // A Sentinel keeps what it learns in its file.
            let file = dir.path().join(format!("sentinel-{number}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor {MASTER} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n",
                dir.path().display(),
                master.port()
            );
            std::fs::write(&file, text)
                .map_err(|error| Error::new(format!("{}: {error}", file.display())))?;
            let mut command = Command::new(tools::redis_server()?);
            command.arg(&file).arg("--sentinel");
            let log = dir.path().join(format!("sentinel-{number}.log"));
            let mut process = Process::start("sentinel", command, log)?;
            let ready = || cli(port, &["PING"]).is_ok_and(|answer| answer == "PONG");
            process.await_ready(PATIENCE, ready)?;
            sentinels.push((process, port));
        }
        let all = Self {
            servers: vec![master, replica],
            sentinels,
            _dir: dir,
        };
        if until(PATIENCE, || all.is_complete()) {
            Ok(all)
        } else {
            Err(Error::new("the Sentinels did not find each other"))
        }
    }

    fn is_complete(&self) -> bool {
        self.sentinels.iter().all(|(_, port)| {
            let state = cli(*port, &["SENTINEL", "MASTER", MASTER]).unwrap_or_default();
            let lines: Vec<&str> = state.lines().collect();
            let has = |name, value| lines.windows(2).any(|pair| pair == [name, value]);
            has("num-slaves", "1") && has("num-other-sentinels", "2") && has("flags", "master")
        }) && self.replicas_follow()
    }

    /// Whether the replica's link to its master is up.
    pub fn replicas_follow(&self) -> bool {
        self.servers
            .iter()
            .filter_map(|server| server.cli(&["INFO", "replication"]).ok())
            .any(|info| info.contains("master_link_status:up"))
    }

    /// The port of who is master now, as the Sentinels say.
    ///
    /// # Errors
    ///
    /// If they do not answer.
    pub fn master_port(&self) -> Result<u16, Error> {
        let (_, port) = self.sentinels.first().ok_or(Error::new("no Sentinels"))?;
        let answer = cli(*port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?;
        let port = answer.lines().nth(1).and_then(|port| port.parse().ok());
        port.ok_or_else(|| Error::new(format!("no master: {answer}")))
    }

    /// As the service's `--store` names it.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self
            .sentinels
            .iter()
            .map(|(_, port)| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis+sentinel://{}/{MASTER}", hosts.join(","))
    }
}
