//! A main server, and independent ones that hold locks.

use super::Redis;
use crate::error::Error;
use crate::relay::Relay;

/// A running group; the nodes know nothing of each other.
#[derive(Debug)]
pub struct RedisRedlock {
    /// The server with the records.
    pub main: Redis,
    /// The servers with the locks.
    pub nodes: Vec<Redis>,
    /// The way to each node.
    pub ways: Vec<Relay>,
}

impl RedisRedlock {
    /// Starts a main server and `nodes` others.
    ///
    /// # Errors
    ///
    /// If one is not installed or does not start.
    pub fn start(nodes: usize) -> Result<Self, Error> {
        let main = Redis::start(&[])?;
        let nodes: Result<Vec<_>, _> = (0..nodes).map(|_| Redis::start(&[])).collect();
        let nodes = nodes?;
        let ways: Result<Vec<_>, _> = nodes.iter().map(|node| Relay::to(node.port())).collect();
        Ok(Self {
            main,
            nodes,
            ways: ways?,
        })
    }

    /// The nodes, over their relays, as the service's `--redlock-node` names them.
    pub fn urls(&self) -> Vec<String> {
        let url = |way: &Relay| format!("redis://127.0.0.1:{}", way.port());
        self.ways.iter().map(url).collect()
    }
}
