//! What can be set about the host.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An upstream.
    Address(SocketAddr),
    /// A service without any healthy target: Kong answers 503 before it runs a filter.
    Nobody,
}

/// A route, found by the longest prefix of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Prefix of the path as nginx normalises it.
    pub prefix: String,
    /// Where it leads.
    pub target: Target,
    /// `write_timeout` and `read_timeout` of the service, in milliseconds.
    #[serde(default = "minute")]
    pub read_timeout_ms: u64,
    /// What an auth plugin does before the filter runs: the value of the first header becomes the
    /// second one, in place of the client's.
    #[serde(default)]
    pub identity: Option<(String, String)>,
}

/// Everything about one host. The defaults are Kong's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients go.
    pub listen: SocketAddr,
    /// Where `GET /stats` tells the filter's metrics, and `/metrics` for Prometheus.
    pub admin: SocketAddr,
    /// Worker threads, each with a VM of its own (1).
    #[serde(default = "one")]
    pub workers: usize,
    /// The filter's configuration, as text. Without one there is no filter.
    pub filter: Option<String>,
    /// The routes.
    pub routes: Vec<Route>,
    /// `client_body_buffer_size` in bytes (8k): larger bodies spill to a file, and the filter
    /// cannot read them.
    #[serde(default = "buffer_size")]
    pub client_body_buffer_size: usize,
    /// Whether bodies are read before the filter runs (yes, as everything that we ship has it: the
    /// plugin `post-function` with `kong.request.get_raw_body()`).
    #[serde(default = "on")]
    pub early_bodies: bool,
    /// `proxy_ignore_client_abort` (on, as everything that we ship has it; nginx's own is off).
    #[serde(default = "on")]
    pub ignore_client_abort: bool,
    /// `KONG_NGINX_WASM_PROXY_WASM_LUA_RESOLVER` (on, as everything that we ship has it; Kong's own is
    /// off): callouts of a root can resolve names.
    #[serde(default = "on")]
    pub tick_resolver: bool,
    /// The access log.
    pub access_log: PathBuf,
    /// Where broken rules are written to.
    pub violations: PathBuf,
}

fn one() -> usize {
    1
}

fn minute() -> u64 {
    60_000
}

fn buffer_size() -> usize {
    8 * 1024
}

fn on() -> bool {
    true
}

impl Config {
    /// The route of a normalised path.
    pub fn route(&self, path: &str) -> Option<&Route> {
        let matching = self.routes.iter().filter(|r| path.starts_with(&r.prefix));
        matching.max_by_key(|route| route.prefix.len())
    }
}
