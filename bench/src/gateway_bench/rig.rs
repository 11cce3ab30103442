//! The running parts: one upstream, one service for each store, and the Envoys before them. All of
//! them run the whole time, so that rounds can be interleaved.

use std::net::SocketAddr;

use idempotency_bench::cores::{pin_process, pin_this_thread};
use idempotency_stack::{
    filter_config, Backend, Cluster, Durability, Envoy, EnvoyConfig, Error, Postgres,
    PostgresOptions, Redis, Route, Service, ServiceAddress, ServiceOptions, Upstream,
    UpstreamOptions,
};
use serde_json::{json, Value};

use crate::options::Options;
use crate::others;
use crate::peer::ByHand;
use crate::places::Cores;
use crate::plan::Section;
use crate::rows::{Flavour, Row, Store, Way};

/// Everything that runs.
#[derive(Debug)]
pub struct Rig {
    // Dropped in this order: nobody loses what it still asks.
    gateways: Vec<Gateway>,
    services: Vec<Backing>,
    /// The upstream that all of them lead to.
    pub upstream: Upstream,
    /// Its process.
    pub upstream_id: u32,
    /// Where the parts run.
    pub cores: Option<Cores>,
}

/// A service, and the server of its store.
#[derive(Debug)]
struct Backing {
    store: Store,
    service: Asked,
    service_id: u32,
    server_id: Option<u32>,
    _redis: Option<Redis>,
    _postgres: Option<Postgres>,
}

/// What a gateway asks.
#[derive(Debug)]
enum Asked {
    /// Our service.
    Ours(Box<Service>),
    /// The one that one would write by hand.
    ByHand(Box<ByHand>),
}

impl Asked {
    fn socket(&self) -> &std::path::Path {
        match self {
            Self::Ours(service) => service.socket(),
            Self::ByHand(service) => service.socket(),
        }
    }
}

/// An Envoy.
#[derive(Debug)]
struct Gateway {
    flavour: Flavour,
    store: Option<Store>,
    other: bool,
    envoy: Envoy,
    envoy_id: u32,
}

/// What a row's requests go through.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Where the load generator sends them.
    pub gateway: SocketAddr,
    /// Envoy's process.
    pub envoy_id: u32,
    /// The service's process.
    pub service_id: Option<u32>,
    /// The process of its store's server.
    pub server_id: Option<u32>,
}

impl Rig {
    /// Starts what a section needs, each part on its core.
    ///
    /// # Errors
    ///
    /// If a part is absent or does not start.
    pub fn start(options: &Options, section: &Section) -> Result<Self, Error> {
        let choose = || Cores::choose(section.workers);
        let cores = options.pin.then(choose).flatten();
        let mut upstream = Upstream::start(UpstreamOptions {
            threads: cores.as_ref().map(|_| 1),
            ..UpstreamOptions::default()
        })?;
        let upstream_id = upstream.process().id();
        if let Some(cores) = &cores {
            pin_process(upstream_id, &[cores.upstream])?;
        }
        let mut rig = Self {
            gateways: Vec::new(),
            services: Vec::new(),
            upstream,
            upstream_id,
            cores,
        };
        for cell in &section.cells {
            rig.provide(&cell.row, options, section.workers)?;
        }
        if let Some(cores) = &rig.cores {
            // The load generator is a child of this thread.
            pin_this_thread(&[cores.load])?;
        }
        Ok(rig)
    }

    /// Starts what a row needs and is not there yet.
    fn provide(&mut self, row: &Row, options: &Options, workers: u16) -> Result<(), Error> {
        if self.gateways.iter().any(|gateway| gateway.is_for(row)) {
            return Ok(());
        }
        if let Some(store) = row.store {
            if self.backing(store).is_none() {
                let backing = Backing::start(store, self.cores.as_ref())?;
                self.services.push(backing);
            }
        }
        let service = row.store.and_then(|store| self.backing(store));
        let service = service.map(|backing| &backing.service);
        let mut config = config(row, self.upstream.address(), service);
        config.access_logging = false;
        config.concurrency = workers;
        if let (true, Some(against)) = (row.other, &options.against) {
            config.wasm = against.wasm.clone();
            config.native = against.native;
            config.service_http2 = !against.http1;
            config.execution_http2 = !against.execution_http1;
            if let (true, Some(Asked::Ours(service))) = (against.tcp, service) {
                config.service = ServiceAddress::Tcp(service.address());
            }
        }
        let mut envoy = Envoy::start(config)?;
        let envoy_id = envoy.process().id();
        if let Some(cores) = &self.cores {
            pin_process(envoy_id, &cores.envoy)?;
        }
        self.gateways.push(Gateway {
            flavour: row.way.flavour(),
            store: row.store,
            other: row.other,
            envoy,
            envoy_id,
        });
        Ok(())
    }

    fn backing(&self, store: Store) -> Option<&Backing> {
        self.services.iter().find(|backing| backing.store == store)
    }

    /// What a row's requests go through.
    ///
    /// # Errors
    ///
    /// If it was not started, which only a row that was not asked for can bring about.
    pub fn path(&self, row: &Row) -> Result<Path, Error> {
        let gateway = self.gateways.iter().find(|gateway| gateway.is_for(row));
        let gateway = gateway.ok_or_else(|| Error::new(format!("{row}: no such gateway")))?;
        let backing = row.store.and_then(|store| self.backing(store));
        Ok(Path {
            gateway: gateway.envoy.gateway(),
            envoy_id: gateway.envoy_id,
            service_id: backing.map(|backing| backing.service_id),
            server_id: backing.and_then(|backing| backing.server_id),
        })
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

    /// The processes whose memory is of interest, and what they are.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let gateways = self
            .gateways
            .iter()
            .map(|gateway| (gateway.name(), gateway.envoy_id));
        let services = self
            .services
            .iter()
            .map(|one| (format!("service, {}", one.store.name()), one.service_id));
        gateways.chain(services).collect()
    }
}

impl Gateway {
    fn is_for(&self, row: &Row) -> bool {
        (self.flavour, self.store, self.other) == (row.way.flavour(), row.store, row.other)
    }

    fn name(&self) -> String {
        let mark = if self.other { " (other)" } else { "" };
        match (self.flavour, self.store) {
            (Flavour::ExtAuthz, _) => "Envoy, `ext_authz`".to_owned(),
            (Flavour::Lua, _) => "Envoy, Lua".to_owned(),
            (Flavour::ByHand, _) => "Envoy, Lua, by hand".to_owned(),
            (Flavour::Filter, Some(store)) => format!("Envoy, {}{mark}", store.name()),
            _ => "Envoy, bare".to_owned(),
        }
    }
}

fn config(row: &Row, upstream: SocketAddr, service: Option<&Asked>) -> EnvoyConfig {
    let Some(service) = service else {
        // Nobody asks it.
        return EnvoyConfig::bare(upstream, ServiceAddress::Tcp(([127, 0, 0, 1], 1).into()));
    };
    let socket = ServiceAddress::Unix(service.socket().to_owned());
    let mut config = EnvoyConfig::bare(upstream, socket);
    let service = match service {
        Asked::Ours(service) => service,
        Asked::ByHand(_) => {
            config.service_http2 = false;
            config.filters_before = vec![others::by_hand()];
            return config;
        }
    };
    match row.way.flavour() {
        Flavour::Bare | Flavour::ByHand => {}
        Flavour::ExtAuthz => config.filters_before = vec![others::ext_authz()],
        Flavour::Lua => config.filters_before = vec![others::lua(&service.tokens().gateway)],
        Flavour::Filter => {
            config.filter = Some(filter_config(service.tokens(), rules()).to_string());
            let disabled = Route {
                without_filter: true,
                ..Route::new(Way::Disabled.path(), Cluster::Upstream)
            };
            config.routes.insert(0, disabled);
        }
    }
    config
}

impl Backing {
    fn start(store: Store, cores: Option<&Cores>) -> Result<Self, Error> {
        if store == Store::ByHand {
            return Self::by_hand(cores);
        }
        let (mut redis, mut postgres) = (None, None);
        let mut options = ServiceOptions {
            durability: match store {
                Store::Relaxed => Durability::Relaxed,
                _ => Durability::Durable,
            },
            log_level: Some("warn".to_owned()),
            ..ServiceOptions::default()
        };
        match store {
            Store::Relaxed | Store::Durable | Store::ByHand => {}
            Store::Redis => {
                let server = Redis::start(&[])?;
                options.backend = Backend::Named(server.url());
                redis = Some(server);
            }
            Store::Postgres => {
                let server = Postgres::start(PostgresOptions {
                    fsync: true,
                    settings: vec!["shared_buffers = 256MB".to_owned()],
                    ..PostgresOptions::default()
                })?;
                server.create_database("bench");
                options.backend = Backend::Named(server.url("bench"));
                options.args.push("--migrate".to_owned());
                postgres = Some(server);
            }
        }
        let server_id = redis
            .as_mut()
            .map(|server: &mut Redis| server.process().id())
            .or(postgres.as_mut().map(|server| server.process().id()));
        if let Some(cores) = cores {
            if let Some(id) = server_id {
                pin_process(id, &[cores.upstream])?;
            }
            // As many as its cores, which it cannot see while it starts.
            options
                .args
                .extend(["--threads".to_owned(), "1".to_owned()]);
        }
        let mut service = Service::start(options)?;
        let service_id = service.process().id();
        if let Some(cores) = cores {
            pin_process(service_id, &[cores.service])?;
        }
        Ok(Self {
            store,
            service: Asked::Ours(Box::new(service)),
            service_id,
            server_id,
            _redis: redis,
            _postgres: postgres,
        })
    }

    fn by_hand(cores: Option<&Cores>) -> Result<Self, Error> {
        let mut peer = ByHand::start()?;
        let (service_id, server_id) = (peer.id(), peer.redis_id());
        if let Some(cores) = cores {
            pin_process(service_id, &[cores.service])?;
            pin_process(server_id, &[cores.upstream])?;
        }
        Ok(Self {
            store: Store::ByHand,
            service: Asked::ByHand(Box::new(peer)),
            service_id,
            server_id: Some(server_id),
            _redis: None,
            _postgres: None,
        })
    }
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
