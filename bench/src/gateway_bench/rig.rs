//! The running parts: one upstream, one Envoy without the filter, and one Envoy with its service
//! for each store. All of them run the whole time, so that rounds can be interleaved.

use std::net::SocketAddr;

use idempotency_stack::{
    filter_config, Durability, Envoy, EnvoyConfig, Error, Service, ServiceAddress, ServiceOptions,
    Upstream, UpstreamOptions,
};
use serde_json::{json, Value};

use idempotency_bench::cores::{pin_process, pin_this_thread};

use crate::options::Options;
use crate::places::Cores;
use crate::rows::{Row, Store, Way};

/// Everything that runs.
#[derive(Debug)]
pub struct Rig {
    gateways: Vec<Gateway>,
    /// The upstream that all of them lead to.
    pub upstream: Upstream,
    /// Its process.
    pub upstream_id: u32,
    /// Where the parts run.
    pub cores: Option<Cores>,
}

/// An Envoy and the service that it asks.
#[derive(Debug)]
pub struct Gateway {
    store: Option<Store>,
    other: bool,
    /// Dropped before the service that it calls.
    pub envoy: Envoy,
    /// Envoy's process.
    pub envoy_id: u32,
    /// The service's process.
    pub service_id: Option<u32>,
    _service: Option<Service>,
}

impl Rig {
    /// Starts what the rows need, each part on its core.
    ///
    /// # Errors
    ///
    /// If a part is absent or does not start.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let cores = options.pin.then(Cores::choose).flatten();
        let mut upstream = Upstream::start(UpstreamOptions {
            threads: cores.map(|_| 1),
            ..UpstreamOptions::default()
        })?;
        let upstream_id = upstream.process().id();
        if let Some(cores) = cores {
            pin_process(upstream_id, &[cores.upstream])?;
        }
        let mut gateways: Vec<Gateway> = Vec::new();
        for row in &options.rows {
            if !gateways.iter().any(|gateway| gateway.is_for(row)) {
                gateways.push(Gateway::start(row, upstream.address(), options, cores)?);
            }
        }
        if let Some(cores) = cores {
            // The load generator is a child of this thread.
            pin_this_thread(&[cores.load])?;
        }
        Ok(Self {
            gateways,
            upstream,
            upstream_id,
            cores,
        })
    }

    /// The gateway that a row's requests go through.
    ///
    /// # Errors
    ///
    /// If it was not started, which only a row that was not asked for can bring about.
    pub fn gateway(&self, row: &Row) -> Result<&Gateway, Error> {
        self.gateways
            .iter()
            .find(|gateway| gateway.is_for(row))
            .ok_or_else(|| Error::new(format!("{}: no such gateway", row)))
    }

    /// Envoy's version.
    pub fn envoy_version(&self) -> String {
        let info = self.gateways.first().map(|gateway| {
            let info = gateway.envoy.ask("GET", "/server_info").json();
            // "commit/version/state/type/library"
            let version = info["version"].as_str().unwrap_or_default();
            version.split('/').nth(1).unwrap_or(version).to_owned()
        });
        info.unwrap_or_default()
    }

    /// All gateways.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }
}

impl Gateway {
    fn start(
        row: &Row,
        upstream: SocketAddr,
        options: &Options,
        cores: Option<Cores>,
    ) -> Result<Self, Error> {
        let service = row.store.map(|store| start_service(store, cores));
        let mut service = service.transpose()?;
        let mut config = match &service {
            Some(service) => {
                let filter = filter_config(service.tokens(), rules());
                let socket = ServiceAddress::Unix(service.socket().to_owned());
                EnvoyConfig::new(filter.to_string(), upstream, socket)
            }
            // Without the filter nobody asks it.
            None => EnvoyConfig::bare(upstream, ServiceAddress::Tcp(([127, 0, 0, 1], 1).into())),
        };
        config.access_logging = false;
        config.concurrency = options.envoy_workers;
        if let (true, Some(against)) = (row.other, &options.against) {
            config.wasm = against.wasm.clone();
            config.service_http2 = !against.http1;
            config.execution_http2 = !against.execution_http1;
            if let (true, Some(service)) = (against.tcp, &service) {
                config.service = ServiceAddress::Tcp(service.address());
            }
        }
        let mut envoy = Envoy::start(config)?;
        let envoy_id = envoy.process().id();
        let service_id = service.as_mut().map(|service| service.process().id());
        if let Some(cores) = cores {
            pin_process(envoy_id, &[cores.envoy])?;
        }
        Ok(Self {
            store: row.store,
            other: row.other,
            envoy,
            envoy_id,
            service_id,
            _service: service,
        })
    }

    fn is_for(&self, row: &Row) -> bool {
        (self.store, self.other) == (row.store, row.other)
    }

    /// In the words of the result: which gateway this is.
    pub fn name(&self) -> String {
        let store = match self.store {
            None => "bare",
            Some(Store::Durable) => "embedded durable",
            Some(Store::Relaxed) => "embedded relaxed",
        };
        let mark = if self.other { " (other)" } else { "" };
        format!("{store}{mark}")
    }
}

fn start_service(store: Store, cores: Option<Cores>) -> Result<Service, Error> {
    let mut options = ServiceOptions {
        durability: match store {
            Store::Durable => Durability::Durable,
            Store::Relaxed => Durability::Relaxed,
        },
        log_level: Some("warn".to_owned()),
        ..ServiceOptions::default()
    };
    if cores.is_some() {
        // As many as its cores, which it cannot see while it starts.
        options.args = vec!["--threads".to_owned(), "1".to_owned()];
    }
    let mut service = Service::start(options)?;
    if let Some(cores) = cores {
        pin_process(service.process().id(), &[cores.service])?;
    }
    Ok(service)
}

/// One rule for each way that is protected. Replays are of detached executions: a record is the
/// same either way, and a detached one survives a client that leaves.
fn rules() -> Value {
    let rule = |way: Way, execution: &str| {
        json!({
            "name": way.path().trim_start_matches('/'),
            "match": { "methods": ["POST"], "path_prefix": way.path() },
            "scope": "global",
            "wait_ms": 0,
            "execution": execution,
        })
    };
    json!([
        rule(Way::Inline, "inline"),
        rule(Way::Detached, "detached"),
        rule(Way::Replay, "detached"),
    ])
}
