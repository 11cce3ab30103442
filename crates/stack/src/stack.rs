//! All parts together.

use std::net::SocketAddr;

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::envoy::{Envoy, EnvoyConfig};
use crate::error::Error;
use crate::gateway::{register, Gateway, GatewayConfig, Host, ServiceAddress};
use crate::service::{Service, ServiceOptions, Tokens};
use crate::upstream::{Upstream, UpstreamOptions};

/// A gateway with the filter, the service and the upstream. The fields are public: tests kill, pause
/// and restart them one by one.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order: first the one that calls the others.
    /// The gateway.
    pub gateway: Gateway,
    /// The idempotency service.
    pub service: Service,
    /// The upstream.
    pub upstream: Upstream,
}

/// A change to a configuration, made when the other parts' addresses are known.
type Change<T> = Box<dyn FnOnce(&mut T)>;

/// Chooses what a [`Stack`] is made of.
#[derive(Default)]
#[must_use]
pub struct StackBuilder {
    filter: Option<String>,
    service: ServiceOptions,
    service_over_tcp: bool,
    gateway: Vec<Change<GatewayConfig>>,
    envoy: Vec<Change<EnvoyConfig>>,
    envoy_only: bool,
}

impl std::fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StackBuilder")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// The demo's configuration: `POST` below `/charges`, detached, duplicates wait 5 s.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// `http://127.0.0.1:PORT` and this path.
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address())
    }
}

impl StackBuilder {
    /// The filter's whole configuration; see [`filter_config`] for one from rules.
    pub fn filter(self, config: Value) -> Self {
        self.filter_text(config.to_string())
    }

    /// As [`Self::filter`], where it is no JSON.
    pub fn filter_text(mut self, config: impl Into<String>) -> Self {
        self.filter = Some(config.into());
        self
    }

    /// The demo's filter configuration with these rules (a JSON array).
    pub fn rules(self, rules: Value) -> Self {
        let config = filter_config(&self.service.tokens, rules);
        self.filter(config)
    }

    /// Changes how the service is started.
    pub fn service(mut self, change: impl FnOnce(&mut ServiceOptions)) -> Self {
        change(&mut self.service);
        self
    }

    /// The gateway reaches the service over TCP instead of its Unix socket.
    pub fn service_over_tcp(mut self) -> Self {
        self.service_over_tcp = true;
        self
    }

    /// Changes the gateway's configuration, after everything else is known.
    pub fn gateway(mut self, change: impl FnOnce(&mut GatewayConfig) + 'static) -> Self {
        self.gateway.push(Box::new(change));
        self
    }

    /// Changes what only an Envoy has, for cases that are for Envoy alone.
    pub fn envoy(mut self, change: impl FnOnce(&mut EnvoyConfig) + 'static) -> Self {
        self.envoy_only = true;
        self.on_envoy(change)
    }

    /// Changes what only an Envoy has; another gateway goes without it.
    pub fn on_envoy(mut self, change: impl FnOnce(&mut EnvoyConfig) + 'static) -> Self {
        self.envoy.push(Box::new(change));
        self
    }

    /// Starts all of it and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If a part is absent or does not start; the message says what to do.
    pub fn start(self) -> Stack {
        match self.try_start() {
            Ok(stack) => stack,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Self::start`], without the panic.
    ///
    /// # Errors
    ///
    /// If a part is absent or does not start.
    pub fn try_start(self) -> Result<Stack, Error> {
        let upstream = Upstream::start(UpstreamOptions::default())?;
        let service = Service::start(self.service)?;
        let filter = self.filter.unwrap_or_else(|| {
            filter_config(service.tokens(), json!([charges_rule()])).to_string()
        });
        let address = match service.tls() {
            // Whoever else is called by certificates alone has no way to show one.
            Some(tls) if Host::chosen().is_envoy() => ServiceAddress::Tls(tls),
            _ if self.service_over_tcp => ServiceAddress::Tcp(service.address()),
            _ => ServiceAddress::Unix(service.socket().to_owned()),
        };
        let mut config = GatewayConfig::new(filter, upstream.address(), address);
        for change in self.gateway {
            change(&mut config);
        }
        let gateway = match Host::chosen() {
            Host::Envoy | Host::Native => {
                let mut config = config.into();
                for change in self.envoy {
                    change(&mut config);
                }
                Gateway::Envoy(Box::new(Envoy::start(config)?))
            }
            host if self.envoy_only => {
                let name = host.name();
                let message = format!("this stack is made for Envoy; on {name} it has no meaning");
                return Err(Error::new(message));
            }
            _ => Gateway::start(config)?,
        };
        register(
            gateway.address(),
            service.address(),
            &service.tokens().operator,
        );
        Ok(Stack {
            gateway,
            service,
            upstream,
        })
    }
}

/// A filter configuration with these rules (a JSON array), for the clusters of an [`EnvoyConfig`];
/// on Kong, the service's address takes the place of its cluster.
///
/// With `BATCH=off` in the environment, every operation has a callout of its own.
pub fn filter_config(tokens: &Tokens, rules: Value) -> Value {
    let mut config = json!({
        "service": {
            "target": "idempotency",
            "timeout_ms": 1000,
            "token": tokens.gateway,
        },
        "detached": { "cluster": "idempotency_execution" },
        "rules": rules,
    });
    if !calls_are_shared() {
        config["service"]["batch"] = json!({ "max_in_flight": 0 });
    }
    config
}

/// Whether operations of several requests may share a callout, as they do unless the environment says `BATCH=off`.
pub fn calls_are_shared() -> bool {
    std::env::var("BATCH").map_or(true, |batch| batch != "off")
}

/// The demo's rule.
pub fn charges_rule() -> Value {
    json!({
        "name": "charges",
        "match": { "methods": ["POST"], "path_prefix": "/charges" },
        "scope": "global",
        "wait_ms": 5000,
        "execution": "detached",
    })
}

/// A directory for one part's files, removed with its handle. It is in the system's directory for
/// temporary files since the path of a Unix socket must be short.
pub(crate) fn temp_dir() -> Result<TempDir, Error> {
    tempfile::Builder::new()
        .prefix("idempotency-")
        .tempdir()
        .map_err(|error| Error::new(format!("no temporary directory: {error}")))
}
