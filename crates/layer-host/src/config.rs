//! What can be set about the host, and the store that the rules name.

use idempotency::remote::{Remote, ServiceUrl};
use idempotency_core::config;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a route leads.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An upstream.
    Address(SocketAddr),
    /// Nobody.
    Nobody,
}

/// A route; the first prefix that fits wins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Prefix of the path as received.
    pub prefix: String,
    /// Where it leads.
    pub target: Target,
    /// How long the upstream may take, in milliseconds.
    pub timeout_ms: u64,
}

/// Everything about one host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients go.
    pub listen: SocketAddr,
    /// Where `GET /stats` tells what the layer counts.
    pub admin: SocketAddr,
    /// Worker threads.
    pub workers: usize,
    /// The gateway's configuration, as text; `None`: no layer.
    pub filter: Option<String>,
    /// The routes.
    pub routes: Vec<Route>,
    /// What an authentication in front does: the value of the first header becomes the second one, in place
    /// of what a client put there.
    pub identity: Option<(String, String)>,
    /// The access log.
    pub access_log: PathBuf,
}

impl Config {
    /// The route of a path.
    pub fn route(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|r| path.starts_with(&r.prefix))
    }
}

/// The service that the configuration names, and how long a call to it may take. One that cannot be read
/// leads nowhere: the layer refuses the configuration, and says why.
pub fn store(text: &str) -> (Remote, Duration) {
    let service = config::parse(text).ok().map(|plan| plan.service);
    let target = service.as_ref().map_or("", |service| &service.target);
    let url = match target.starts_with("unix:") {
        true => target.parse(),
        false => format!("http://{target}").parse(),
    };
    let url = url.unwrap_or(ServiceUrl::Http("127.0.0.1:1".to_owned()));
    let timeout = service.as_ref().map_or(1_000, |service| service.timeout_ms);
    let timeout = Duration::from_millis(timeout);
    let remote = || Remote::new(url.clone()).timeout(timeout);
    let token = service
        .as_ref()
        .and_then(|service| service.token.as_deref());
    let remote = match token {
        Some(token) => remote().token(token).unwrap_or_else(|_| remote()),
        None => remote(),
    };
    (remote, timeout)
}
