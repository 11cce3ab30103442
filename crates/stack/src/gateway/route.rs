//! Where requests go that the filter lets through.

use std::net::SocketAddr;
use std::time::Duration;

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cluster {
    /// The upstream.
    Upstream,
    /// A cluster without any host.
    NoHosts,
    /// A cluster whose port refuses connections.
    Refused,
    /// Envoy: a cluster of this name.
    Named(String),
    /// Another server. It may close its connections without a word: each has one request.
    At(SocketAddr),
}

/// An ordinary route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Prefix of the path as received.
    pub prefix: String,
    /// Where it leads.
    pub cluster: Cluster,
    /// Envoy: `retry_on: 5xx,reset`, two retries.
    pub retries: bool,
    /// How long the upstream may take, instead of the gateway's timeout.
    pub timeout: Option<Duration>,
    /// Envoy: the filter is disabled on it.
    pub without_filter: bool,
    /// Envoy: in front of the filter, its own CORS filter answers preflights of this origin, and makes the headers.
    pub cors_origin: Option<String>,
}

impl Route {
    /// A route without retries and with the gateway's timeout.
    pub fn new(prefix: &str, cluster: Cluster) -> Self {
        Self {
            prefix: prefix.to_owned(),
            cluster,
            retries: false,
            timeout: None,
            without_filter: false,
            cors_origin: None,
        }
    }

    /// The routes that every test can count on; the first match wins:
    /// `/charges/no-hosts`, `/charges/refused`, `/charges/retried` (with a retry policy), `/`.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::new("/charges/no-hosts", Cluster::NoHosts),
            Self::new("/charges/refused", Cluster::Refused),
            Self {
                retries: true,
                ..Self::new("/charges/retried", Cluster::Upstream)
            },
            Self::new("/", Cluster::Upstream),
        ]
    }
}
