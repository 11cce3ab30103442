//! The gateway of a stack: whichever host the filter runs in.

mod config;
mod registry;
mod route;

pub use config::{GatewayConfig, ServiceAddress, TlsAddress};
pub(crate) use registry::register;
pub use registry::service_behind;
pub use route::{Cluster, Route};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::envoy::Envoy;
use crate::error::Error;
use crate::kong::{Body, Kong};
use crate::kong_host::KongHost;
use crate::layer_host::LayerHost;
use crate::nginx::Nginx;
use crate::process::Process;

/// A host of the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A real Envoy.
    Envoy,
    /// Our own Kong, which enforces the rules of the real one.
    KongHost,
    /// A real nginx with Kong's module for WebAssembly, without Kong's Lua.
    Nginx,
    /// A complete Kong.
    Kong,
    /// A complete Kong with the Lua plugin in place of the filter.
    KongLua,
    /// The library's HTTP layer: no filter, and no gateway.
    Layer,
    /// A real Envoy with the filter as a native module in place of the WebAssembly one.
    Native,
}

impl Host {
    /// All of them.
    pub const ALL: [Host; 7] = [
        Host::Envoy,
        Host::KongHost,
        Host::Nginx,
        Host::Kong,
        Host::KongLua,
        Host::Layer,
        Host::Native,
    ];

    /// Its name in the environment's `GATEWAY`.
    pub fn name(self) -> &'static str {
        match self {
            Host::Envoy => "envoy",
            Host::KongHost => "kong-host",
            Host::Nginx => "nginx",
            Host::Kong => "kong",
            Host::KongLua => "kong-lua",
            Host::Layer => "layer",
            Host::Native => "native",
        }
    }

    /// The host that this process starts: the environment's `GATEWAY`, Envoy without it.
    ///
    /// # Panics
    ///
    /// If it says something else.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Host> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let wanted = std::env::var("GATEWAY").unwrap_or_default();
            let wanted = if wanted.is_empty() { "envoy" } else { &wanted };
            match Host::ALL.into_iter().find(|host| host.name() == wanted) {
                Some(host) => host,
                None => panic!(
                    "GATEWAY={wanted} is not one of {}",
                    Host::ALL.map(Host::name).join(", ")
                ),
            }
        })
    }

    /// Whether it is an Envoy, whichever form of the filter runs in it.
    pub fn is_envoy(self) -> bool {
        matches!(self, Host::Envoy | Host::Native)
    }

    /// Whether the filter meets the rules of Kong's WebAssembly there. (The Lua plugin does not.)
    pub fn is_kong(self) -> bool {
        matches!(self, Host::KongHost | Host::Nginx | Host::Kong)
    }
}

/// A running gateway.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Gateway {
    Envoy(Box<Envoy>),
    KongHost(KongHost),
    Nginx(Nginx),
    Kong(Box<Kong>),
    Layer(LayerHost),
}

impl Gateway {
    /// Starts the chosen host with this configuration.
    ///
    /// # Errors
    ///
    /// If it is not there, refuses the configuration or does not get ready.
    pub fn start(config: GatewayConfig) -> Result<Self, Error> {
        Ok(match Host::chosen() {
            Host::Envoy | Host::Native => Gateway::Envoy(Box::new(Envoy::start(config.into())?)),
            Host::KongHost => Gateway::KongHost(KongHost::start(config)?),
            Host::Nginx => Gateway::Nginx(Nginx::start(config)?),
            Host::Kong => Gateway::Kong(Box::new(Kong::start(config, Body::Wasm)?)),
            Host::KongLua => Gateway::Kong(Box::new(Kong::start(config, Body::Lua)?)),
            Host::Layer => Gateway::Layer(LayerHost::start(config)?),
        })
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        match self {
            Gateway::Envoy(envoy) => envoy.gateway(),
            Gateway::KongHost(host) => host.address(),
            Gateway::Nginx(nginx) => nginx.address(),
            Gateway::Kong(kong) => kong.address(),
            Gateway::Layer(host) => host.address(),
        }
    }

    /// The Envoy that it is.
    ///
    /// # Panics
    ///
    /// If it is another host: cases that need Envoy say so.
    pub fn envoy(&self) -> &Envoy {
        match self {
            Gateway::Envoy(envoy) => envoy,
            _ => panic!(
                "this case asks Envoy, and runs on {}",
                Host::chosen().name()
            ),
        }
    }

    /// The complete Kong that it is.
    ///
    /// # Panics
    ///
    /// If it is another host: cases that need it say so.
    pub fn kong(&mut self) -> &mut Kong {
        match self {
            Gateway::Kong(kong) => kong,
            _ => panic!("this case asks Kong, and runs on {}", Host::chosen().name()),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// Starts it again after [`Self::kill`]: same ports, same configuration.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        match self {
            Gateway::Envoy(envoy) => envoy.restart(),
            Gateway::KongHost(host) => host.restart(),
            Gateway::Nginx(nginx) => nginx.restart(),
            Gateway::Kong(kong) => kong.restart(),
            Gateway::Layer(host) => host.restart(),
        }
    }

    /// Stops it in its tracks until [`Self::resume`], with its workers.
    pub fn pause(&mut self) {
        self.process().pause_tree();
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.process().resume_tree();
    }

    /// Its process; nginx's workers are children of it.
    pub fn process(&mut self) -> &mut Process {
        match self {
            Gateway::Envoy(envoy) => envoy.process(),
            Gateway::KongHost(host) => host.process(),
            Gateway::Nginx(nginx) => nginx.process(),
            Gateway::Kong(kong) => kong.process(),
            Gateway::Layer(host) => host.process(),
        }
    }

    /// The file with its log, the filter's lines among them.
    pub fn log_path(&self) -> &Path {
        match self {
            Gateway::Envoy(envoy) => envoy.log_path(),
            Gateway::KongHost(host) => host.log_path(),
            Gateway::Nginx(nginx) => nginx.log_path(),
            Gateway::Kong(kong) => kong.log_path(),
            Gateway::Layer(host) => host.log_path(),
        }
    }

    /// Its log up to now.
    pub fn log(&self) -> String {
        crate::process::read_lossy(self.log_path())
    }

    /// The access log up to now: a line per request that ended.
    pub fn access_log(&self) -> String {
        match self {
            Gateway::Envoy(envoy) => envoy.access_log(),
            Gateway::KongHost(host) => host.access_log(),
            Gateway::Nginx(nginx) => nginx.access_log(),
            Gateway::Kong(kong) => kong.access_log(),
            Gateway::Layer(host) => host.access_log(),
        }
    }

    /// The filter's metrics whose name begins so, e.g. `idempotency_problem`. Of a histogram, the
    /// number of its samples; Envoy tells none of those.
    ///
    /// # Panics
    ///
    /// If the gateway does not answer.
    pub fn metrics(&self, begin: &str) -> BTreeMap<String, u64> {
        const ENVOYS: &str = "wasmcustom.";
        let all = match self {
            Gateway::Envoy(envoy) => {
                // What was counted is told at the filter's next tick, within 50 ms, and nothing says that it has come.
                std::thread::sleep(Duration::from_millis(100));
                envoy.stats(&format!("{ENVOYS}{begin}"))
            }
            Gateway::KongHost(host) => host.stats(),
            Gateway::Nginx(nginx) => nginx.stats(),
            Gateway::Kong(kong) => kong.stats(),
            Gateway::Layer(host) => host.stats(),
        };
        all.into_iter()
            .map(|(name, value)| (name.replace(ENVOYS, ""), value))
            .filter(|(name, _)| name.starts_with(begin))
            .collect()
    }

    /// A metric of the filter, e.g. `idempotency_executed`; 0 while there is none.
    ///
    /// # Panics
    ///
    /// If the gateway does not answer.
    pub fn metric(&self, name: &str) -> u64 {
        self.metrics(name).get(name).copied().unwrap_or(0)
    }

    /// How much is under way: requests and callouts, as far as the gateway counts them.
    ///
    /// # Panics
    ///
    /// If the gateway does not answer.
    pub fn busy(&self) -> u64 {
        match self {
            Gateway::Envoy(envoy) => {
                let gauges = [
                    "http.gateway.downstream_rq_active",
                    "http.execution.downstream_rq_active",
                    "cluster.idempotency.upstream_rq_active",
                ];
                let values = gauges.map(|gauge| envoy.stats(gauge).values().sum::<u64>());
                values.iter().sum()
            }
            Gateway::KongHost(_) => self.callouts_out(),
            Gateway::Nginx(_) | Gateway::Kong(_) | Gateway::Layer(_) => 0,
        }
    }

    /// How many callouts to the service are out and not answered.
    ///
    /// # Panics
    ///
    /// If the gateway does not answer, or does not know.
    pub fn callouts_out(&self) -> u64 {
        match self {
            Gateway::Envoy(envoy) => {
                let active = envoy.stats("cluster.idempotency.upstream_rq_active");
                active.values().sum()
            }
            Gateway::KongHost(host) => host.stats().get("host.callouts").copied().unwrap_or(0),
            Gateway::Layer(layer) => layer.stats().get("host_calls_out").copied().unwrap_or(0),
            Gateway::Nginx(_) | Gateway::Kong(_) => {
                panic!("this host does not count its callouts: the case must say so")
            }
        }
    }
}
