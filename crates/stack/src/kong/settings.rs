//! The settings of a complete Kong: those that we ship, and what a test changes about them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::Body;
use crate::error::Error;
use crate::gateway::GatewayConfig;
use crate::tools;

/// Kong's own directory.
pub(super) const PREFIX: &str = "kong";
/// The directory of the filter.
pub(super) const FILTERS: &str = "filters";
/// The declarative configuration.
pub(super) const DOCUMENT: &str = "kong.json";
/// The drain's switch.
pub(super) const DRAIN: &str = "idempotency-drain.conf";
/// Kong's log.
pub(super) const LOG: &str = "kong.log";
/// The access log, in the prefix.
pub(super) const ACCESS_LOG: &str = "access.log";

/// What we ship.
const SHIPPED: &str = include_str!("../../../../kong/kong.env");
const SHIPPED_DRAIN: &str = include_str!("../../../../kong/idempotency-drain.conf");
/// The schema of the filter's configuration.
pub(super) const SCHEMA: &str = include_str!("../../../../kong/idempotency.meta.json");

/// A change to the declarative configuration.
type Change = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// What only a complete Kong can be told.
#[derive(Clone, Default)]
pub struct KongSettings {
    /// Variables, over the ones that we ship. An empty value takes one away.
    pub environment: Vec<(String, String)>,
    /// Changes to the declarative configuration.
    pub(super) changes: Vec<Change>,
}

impl std::fmt::Debug for KongSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KongSettings")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl KongSettings {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Changes the declarative configuration: services `service-N` with a route `route-N` each, in the
    /// order of the gateway's routes.
    pub fn change(&mut self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.changes.push(Arc::new(change));
    }
}

/// The drain's switch for a Kong in this prefix.
pub(super) fn drain(prefix: &Path) -> String {
    SHIPPED_DRAIN.replace("/usr/local/kong/", &format!("{}/", prefix.display()))
}

/// `NAME=value` per line; what a shell would read otherwise is in single quotes.
fn shipped() -> impl Iterator<Item = (String, String)> {
    SHIPPED.lines().filter_map(|line| {
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim_matches('\'');
        Some((name.to_owned(), value.to_owned()))
    })
}

pub(super) fn environment(
    config: &GatewayConfig,
    body: Body,
    dir: &Path,
    address: SocketAddr,
    status: SocketAddr,
) -> Result<Vec<(String, String)>, Error> {
    let at = |name: &str| dir.join(name).display().to_string();
    // As Kong listens by default: the kernel parts connections among the workers. Without it, one worker
    // gets them all as long as it keeps up.
    let parted = if config.workers > 1 { " reuseport" } else { "" };
    let of_tests = [
        ("KONG_PREFIX", at(PREFIX)),
        ("KONG_DECLARATIVE_CONFIG", at(DOCUMENT)),
        ("KONG_PROXY_LISTEN", format!("{address} http2{parted}")),
        ("KONG_STATUS_LISTEN", status.to_string()),
        ("KONG_NGINX_DAEMON", "off".to_owned()),
        ("KONG_NGINX_WORKER_PROCESSES", config.workers.to_string()),
        // Crowds come over one connection.
        (
            "KONG_NGINX_PROXY_HTTP2_MAX_CONCURRENT_STREAMS",
            "1024".to_owned(),
        ),
        ("KONG_NGINX_EVENTS_WORKER_CONNECTIONS", "16384".to_owned()),
        (
            "KONG_NGINX_HTTP_LOG_FORMAT",
            "cases '\"$request\" $status key=$http_idempotency_key'".to_owned(),
        ),
        ("KONG_PROXY_ACCESS_LOG", format!("{ACCESS_LOG} cases")),
        ("KONG_PROXY_ERROR_LOG", "/dev/stderr".to_owned()),
        ("KONG_STATUS_ERROR_LOG", "/dev/stderr".to_owned()),
        ("KONG_LOG_LEVEL", "info".to_owned()),
        ("KONG_ANONYMOUS_REPORTS", "off".to_owned()),
    ];
    let of_body = match body {
        Body::Wasm => vec![
            ("KONG_WASM_FILTERS_PATH", at(FILTERS)),
            ("KONG_NGINX_PROXY_INCLUDE", at(DRAIN)),
            (
                "KONG_NGINX_HTTP_CLIENT_BODY_BUFFER_SIZE",
                config.buffer_bytes.to_string(),
            ),
        ],
        Body::Lua => of_plugin()?,
    };
    // What we ship is for the filter; the plugin needs nothing of it.
    let mut all: Vec<_> = match body {
        Body::Wasm => shipped().collect(),
        Body::Lua => Vec::new(),
    };
    let mut set = |name: &str, value: String| {
        all.retain(|(known, _)| known != name);
        if !value.is_empty() {
            all.push((name.to_owned(), value));
        }
    };
    for (name, value) in of_tests.into_iter().chain(of_body) {
        set(name, value);
    }
    // Sockets and logs of the tests belong to whom runs them.
    if rustix::process::getuid().is_root() {
        set("KONG_NGINX_USER", "root root".to_owned());
    }
    if !config.environment.is_empty() {
        // What nginx hands on to its workers, and so to the filter.
        let names = config.environment.iter().map(|(name, _)| name.as_str());
        let names: Vec<_> = names.collect();
        set("KONG_NGINX_MAIN_ENV", names.join("; env "));
    }
    for (name, value) in config.environment.iter().chain(&config.kong.environment) {
        set(name, value.clone());
    }
    Ok(all)
}

/// What the Lua plugin is loaded with.
fn of_plugin() -> Result<Vec<(&'static str, String)>, Error> {
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kong/plugin");
    let library = tools::core_library()?;
    Ok(vec![
        ("KONG_DATABASE", "off".to_owned()),
        ("KONG_ADMIN_LISTEN", "off".to_owned()),
        ("KONG_ADMIN_GUI_LISTEN", "off".to_owned()),
        ("KONG_PLUGINS", "bundled,idempotency".to_owned()),
        ("KONG_LUA_PACKAGE_PATH", format!("{plugin}/?.lua;;")),
        (
            "KONG_LUA_PACKAGE_CPATH",
            format!("{}/?.so;;", library.display()),
        ),
        // Behind another gateway of ours.
        ("KONG_NGINX_PROXY_PROXY_NEXT_UPSTREAM", "off".to_owned()),
    ])
}
