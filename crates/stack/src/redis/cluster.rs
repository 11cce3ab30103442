//! A Cluster of three masters and three replicas.

use std::time::Duration;

use super::Redis;
use crate::error::Error;
use crate::ports;
use crate::wait::until;

/// One past the last hash slot.
const SLOTS: usize = 16_384;
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Cluster. A master that is silent for a second is replaced.
#[derive(Debug)]
pub struct RedisCluster {
    /// Its nodes; at the start, the first half are masters and node `n + 3` is the replica of `n`.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts it and waits until every node says that it is whole.
    ///
    /// # Errors
    ///
    /// If a node is not installed or does not start.
    pub fn start(settings: &[&str]) -> Result<Self, Error> {
        let masters = 3;
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..2 * masters {
            // The default, 10000 above the port, is in the range of outgoing connections.
            let bus = ports::free().to_string();
            let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            all.extend(["--cluster-port", &bus]);
            all.extend(settings);
            nodes.push(Redis::start(&all)?);
            buses.push(bus);
        }
        let cluster = Self { nodes };
        let (first, rest) = cluster.nodes.split_first().ok_or(Error::new("no nodes"))?;
        for (node, bus) in rest.iter().zip(buses.iter().skip(1)) {
            let port = node.port().to_string();
            first.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
        }
        for (number, node) in cluster.nodes.iter().take(masters).enumerate() {
            let from = (number * SLOTS / masters).to_string();
            let to = ((number + 1) * SLOTS / masters - 1).to_string();
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &from, &to])?;
            // Epochs of their own, or the nodes quarrel about them first.
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])
                .ok();
        }
        let (of, replicas) = cluster.nodes.split_at(masters);
        for (master, replica) in of.iter().zip(replicas) {
            let id = master.cli(&["CLUSTER", "MYID"])?;
            let replicate = || replica.cli(&["CLUSTER", "REPLICATE", &id]).is_ok();
            if !until(PATIENCE, replicate) {
                return Err(Error::new("a node does not become a replica"));
            }
        }
        if until(PATIENCE, || cluster.is_whole(2 * masters)) {
            Ok(cluster)
        } else {
            Err(Error::new("the Cluster does not become whole"))
        }
    }

    fn is_whole(&self, count: usize) -> bool {
        let known = format!("cluster_known_nodes:{count}");
        let slots = format!("cluster_slots_ok:{SLOTS}");
        self.nodes.iter().all(|node| {
            let info = node.cli(&["CLUSTER", "INFO"]).unwrap_or_default();
            let role = node.cli(&["INFO", "replication"]).unwrap_or_default();
            let parts = ["cluster_state:ok", "cluster_size:3", &known, &slots];
            parts.iter().all(|part| info.contains(part))
                && (role.contains("role:master") || role.contains("master_link_status:up"))
        })
    }

    /// Moves slots, with the keys in them, from one master to another.
    ///
    /// # Errors
    ///
    /// If `redis-cli` cannot do it.
    pub fn move_slots(&self, from: usize, to: usize, count: usize) -> Result<(), Error> {
        let node = |number: usize| {
            let node = self.nodes.get(number);
            node.ok_or_else(|| Error::new(format!("there is no node {number}")))
        };
        let (source, target) = (node(from)?, node(to)?);
        let address = format!("127.0.0.1:{}", source.port());
        let from = source.cli(&["CLUSTER", "MYID"])?;
        let to = target.cli(&["CLUSTER", "MYID"])?;
        let count = count.to_string();
        let mut command = vec!["--cluster", "reshard", &address, "--cluster-from", &from];
        command.extend([
            "--cluster-to",
            &to,
            "--cluster-slots",
            &count,
            "--cluster-yes",
        ]);
        source.cli(&command).map(drop)?;
        // The news travels from node to node; until all have it, redis-cli refuses the next move.
        let agreed = until(PATIENCE, || {
            source.cli(&["--cluster", "check", &address]).is_ok()
        });
        if agreed {
            return Ok(());
        }
        Err(Error::new("the nodes do not agree about the moved slots"))
    }

    /// As the service's `--store` names it.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}
