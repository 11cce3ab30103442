//! Settings of the guard.

use crate::redis::options::{Address, RedisOptions, Topology};
use std::time::Duration;

/// Fewer than three have no majority that survives the loss of one.
const FEWEST: usize = 3;

/// Settings of the guard: a lock that must also be held on a majority of independent nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedlockOptions {
    /// The nodes; each a single server that shares nothing with the others or with the main Redis.
    pub nodes: Vec<RedisOptions>,
    /// Longest wait for a majority. Default: 200 ms.
    pub timeout: Duration,
    /// How much faster than ours a node's clock may run, in percent of a lease. Default: 1.
    pub drift_percent: u32,
}

/// What is wrong with the nodes, and with which one, if it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNodes {
    /// Which node; `None`: all of them together.
    pub node: Option<usize>,
    /// What is wrong with it; never with a password in it.
    pub message: String,
}

impl RedlockOptions {
    /// Reads the nodes' URLs: `redis://`, `rediss://` or `redis+unix://`, as
    /// [`RedisOptions::parse`] does.
    ///
    /// # Errors
    ///
    /// A URL that is none, or names more than one server; the same server twice, or one of `main`;
    /// fewer than three nodes.
    pub fn parse(urls: &[String], main: &RedisOptions) -> Result<RedlockOptions, BadNodes> {
        let mut nodes = Vec::with_capacity(urls.len());
        for (at, url) in urls.iter().enumerate() {
            let bad = |message: String| BadNodes {
                node: Some(at),
                message,
            };
            let node = RedisOptions::parse(url).map_err(bad)?;
            check(&node, &nodes, main).map_err(|message| bad(message.to_owned()))?;
            nodes.push(node);
        }
        if nodes.len() < FEWEST {
            let message = format!(
                "{} are too few: a majority of at least {FEWEST} independent nodes is needed",
                nodes.len()
            );
            return Err(BadNodes {
                node: None,
                message,
            });
        }
        Ok(RedlockOptions {
            nodes,
            timeout: Duration::from_millis(200),
            drift_percent: 1,
        })
    }

    /// How many nodes are a majority.
    pub fn quorum(&self) -> usize {
        self.nodes.len() / 2 + 1
    }
}

fn check(
    node: &RedisOptions,
    before: &[RedisOptions],
    main: &RedisOptions,
) -> Result<(), &'static str> {
    let Topology::Single(address) = &node.topology else {
        return Err("a node is a single server: redis://, rediss:// or redis+unix://");
    };
    if before.iter().any(|other| other.topology == node.topology) {
        return Err("this server is there twice");
    }
    let is_main = match (&main.topology, address) {
        (Topology::Single(main), _) => main == address,
        (Topology::Cluster(nodes), Address::Tcp(host, port)) => {
            nodes.iter().any(|(h, p)| (h, p) == (host, port))
        }
        _ => false,
    };
    if is_main {
        return Err("this is the store's own server: what fails with it guards nothing");
    }
    let default = RedisOptions::new(node.topology.clone());
    if node.prefix != default.prefix
        || node.wait != default.wait
        || node.timeout != default.timeout
        || node.high_water_percent != default.high_water_percent
    {
        return Err(
            "`prefix`, `timeout_ms`, `wait_replicas` and `high_water_percent` mean nothing to a \
             node of the guard",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(main: &str, urls: &[&str]) -> Result<RedlockOptions, BadNodes> {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        RedlockOptions::parse(&urls, &RedisOptions::parse(main).unwrap())
    }

    #[test]
    fn majorities() {
        for (count, quorum) in [(3, 2), (4, 3), (5, 3), (7, 4)] {
            let urls: Vec<String> = (0..count).map(|n| format!("redis://h{n}")).collect();
            let main = RedisOptions::parse("redis://main").unwrap();
            let options = RedlockOptions::parse(&urls, &main).unwrap();
            assert_eq!(options.quorum(), quorum, "of {count}");
        }
    }

    #[test]
    fn errors_say_which_node_and_never_the_password() {
        let single = "redis://main";
        let cluster = "redis+cluster://a,main:7";
        for (main, urls, node, part) in [
            (single, vec![], None, "0 are too few"),
            (
                single,
                vec!["redis://a", "redis://b"],
                None,
                "2 are too few",
            ),
            (single, vec!["redis://u:secret@a?x=1"], Some(0), "`x`"),
            (
                single,
                vec!["redis://a", "rediss://:secret@a:6379"],
                Some(1),
                "twice",
            ),
            (
                single,
                vec!["redis://a", "redis://:secret@main:6379"],
                Some(1),
                "own server",
            ),
            (cluster, vec!["redis://main:7"], Some(0), "own server"),
            (single, vec![cluster], Some(0), "single server"),
            (single, vec!["redis://a?prefix=x:"], Some(0), "mean nothing"),
        ] {
            let error = parse(main, &urls).unwrap_err();
            assert_eq!(error.node, node, "{urls:?}");
            assert!(error.message.contains(part), "{error:?}");
            assert!(!error.message.contains("secret"), "{error:?}");
        }
    }
}
