//! The real parts, and the links between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use idempotency_stack::{
    http, ports, Cluster, Envoy, EnvoyConfig, Error, Postgres, PostgresOptions, Process, Redis,
    Route, Service, ServiceAddress, ServiceOptions, Tokens, Upstream, UpstreamOptions,
};
use idempotency_stack::{Backend, Durability};
use std::time::Duration;
use tokio::runtime::Handle;

use crate::history::{FaultKind, Target, EXECUTIONS, OP_HEADER, TENANT_HEADER};
use crate::keys::KeyFile;
use crate::link::Link;
use crate::orders::{self, OrdersOptions};
use crate::stall::Part;
use crate::workload::{Rules, HOP};

/// Where the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// In the service itself.
    Embedded,
    /// In a Redis server.
    Redis,
    /// In a PostgreSQL server.
    Postgres,
}

impl Store {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// What is started.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// Where the records are.
    pub store: Store,
    /// The embedded store's durability.
    pub durability: Durability,
    /// How many Envoys.
    pub gateways: usize,
    /// The rules.
    pub rules: Rules,
    /// Another program instead of `idempotencyd`.
    pub service_program: Option<PathBuf>,
    /// Further arguments for it.
    pub service_args: Vec<String>,
    /// Records are encrypted with the keys in [`Self::dir`].
    pub encrypt: bool,
    /// Where logs and the upstream's journal go.
    pub dir: PathBuf,
}

/// Everything runs. Dropped, it is stopped: first those that call the others.
#[derive(Debug)]
pub struct Rig {
    gateways: Vec<Mutex<Envoy>>,
    /// The second gateway of some paths, to which the others lead. Nothing is done to it.
    _second: Envoy,
    services: Vec<Mutex<Service>>,
    store: Option<Mutex<StoreServer>>,
    upstream: Mutex<Upstream>,
    client_links: Vec<Link>,
    service_links: Vec<Link>,
    store_links: Vec<Link>,
    upstream_links: Vec<Link>,
    service_address: SocketAddr,
    service_addresses: Vec<SocketAddr>,
    admins: Vec<SocketAddr>,
    tokens: Tokens,
    /// Where the gateways look for the order service.
    orders: SocketAddr,
    /// The file of encryption keys.
    keys: Option<PathBuf>,
}

#[derive(Debug)]
enum StoreServer {
    Redis(Redis),
    Postgres(Postgres),
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nth<T>(parts: &[T], number: usize) -> &T {
    match parts.get(number) {
        Some(part) => part,
        None => panic!("there is no part {number}"),
    }
}

impl Rig {
    /// Starts everything.
    ///
    /// # Errors
    ///
    /// If a part is absent or does not start.
    pub fn start(options: &RigOptions, runtime: &Handle) -> Result<Self, Error> {
        let dir = &options.dir;
        let upstream = Upstream::start(UpstreamOptions {
            log: Some(dir.join("upstream.log")),
            journal: Some(dir.join(EXECUTIONS)),
            journal_headers: vec![OP_HEADER.to_owned(), TENANT_HEADER.to_owned()],
            ..UpstreamOptions::default()
        })?;
        let store = StoreServer::start(options.store, dir)?;
        // The embedded store belongs to one process.
        let count = if store.is_some() { options.gateways } else { 1 };
        let mut store_links = Vec::new();
        let mut services = Vec::new();
        for number in 0..count {
            let link = match &store {
                Some(store) => Some(link(runtime, store.address())?),
                None => None,
            };
            services.push(service(options, number, store.as_ref(), link.as_ref())?);
            store_links.extend(link);
        }
        let second = second(options, &upstream, nth(&services, 0))?;
        let at_second = second.gateway();
        let mut rig = Self {
            _second: second,
            service_addresses: services.iter().map(Service::address).collect(),
            service_address: services
                .first()
                .map(Service::address)
                .ok_or_else(|| Error::new("no service"))?,
            tokens: Tokens::default(),
            orders: SocketAddr::from(([127, 0, 0, 1], ports::free())),
            keys: options.encrypt.then(|| KeyFile::path(dir)),
            upstream_links: Vec::new(),
            service_links: Vec::new(),
            client_links: Vec::new(),
            gateways: Vec::new(),
            admins: Vec::new(),
            store_links,
            services: Vec::new(),
            store: store.map(Mutex::new),
            upstream: Mutex::new(upstream),
        };
        for number in 0..options.gateways {
            let service = nth(&services, number % count).address();
            rig.add_gateway(options, runtime, number, service, at_second)?;
        }
        rig.services = services.into_iter().map(Mutex::new).collect();
        Ok(rig)
    }

    fn add_gateway(
        &mut self,
        options: &RigOptions,
        runtime: &Handle,
        number: usize,
        service: SocketAddr,
        second: SocketAddr,
    ) -> Result<(), Error> {
        let to_service = link(runtime, service)?;
        let to_upstream = link(runtime, lock(&self.upstream).address())?;
        let mut config = EnvoyConfig::new(
            options.rules.filter(&self.tokens).to_string(),
            to_upstream.address(),
            ServiceAddress::Tcp(to_service.address()),
        );
        config
            .routes
            .insert(0, Route::new(orders::PATH, Cluster::At(self.orders)));
        config.gateway_timeout = timeout(&options.rules, false);
        config.execution_timeout = timeout(&options.rules, true);
        config
            .routes
            .insert(0, Route::new(HOP, Cluster::At(second)));
        // One of a single worker, one of two.
        config.concurrency = 1 + u16::from(number % 2 == 1);
        config.log = Some(options.dir.join(format!("envoy-{number}.log")));
        config.access_log = Some(options.dir.join(format!("access-{number}.log")));
        let envoy = Envoy::start(config)?;
        self.client_links.push(link(runtime, envoy.gateway())?);
        self.admins.push(envoy.admin());
        self.gateways.push(Mutex::new(envoy));
        self.service_links.push(to_service);
        self.upstream_links.push(to_upstream);
        Ok(())
    }

    /// What the order service needs to know. With PostgreSQL there is a table for orders from now on.
    pub fn orders(&self, dir: &Path, lease_ms: u64) -> OrdersOptions {
        let database = self.store.as_ref().and_then(|store| {
            let store = lock(store);
            let StoreServer::Postgres(server) = &*store else {
                return None;
            };
            server.sql(DATABASE, "CREATE TABLE public.orders (key text, id text)");
            Some((store.address(), DATABASE.to_owned()))
        });
        OrdersOptions {
            port: self.orders.port(),
            dir: dir.to_owned(),
            gateways: self.gateways(),
            database,
            service: (self.service_address, self.tokens.gateway.clone()),
            lease_ms,
            keys: self.keys.clone(),
        }
    }

    /// The rows of that table: a key and an id each.
    pub fn ordered(&self) -> String {
        match self.store.as_ref().map(|store| lock(store)).as_deref() {
            Some(StoreServer::Postgres(server)) => {
                server.sql(DATABASE, "SELECT key || ' ' || id FROM public.orders")
            }
            _ => String::new(),
        }
    }

    /// Where clients find the Envoys.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.client_links.iter().map(Link::address).collect()
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Whether a server of its own keeps the records.
    pub fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// A request of an operator.
    ///
    /// # Errors
    ///
    /// Of the connection.
    pub fn operator(&self, target: &str) -> std::io::Result<http::Answer> {
        http::Request::get(target)
            .bearer(&self.tokens.operator)
            .send(self.service_address)
    }

    /// Waits until every service has these keys, and seals with one of those; false: it was told to stop before. One that
    /// is down or stopped is waited for.
    pub fn all_have(&self, keys: &[&String], sealing: &[&String], stop: &AtomicBool) -> bool {
        let has = |address: SocketAddr| {
            let metrics = http::Request::get("/metrics").timeout(Duration::from_secs(1));
            let Ok(answer) = metrics.send(address) else {
                return false;
            };
            let text = answer.text();
            let key = |name: &String, used: &str| {
                text.contains(&format!(
                    "encryption_key_info{{key=\"{name}\",use=\"{used}\"}} 1"
                ))
            };
            let known = |name: &&String| key(name, "seals") || key(name, "opens");
            keys.iter().all(known) && sealing.iter().all(|name| key(name, "seals"))
        };
        for address in &self.service_addresses {
            while !has(*address) {
                if stop.load(Ordering::Relaxed) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        true
    }

    /// A whole pass of a rewrap, by the first service: how many records are left. `None`: it did not come to its end.
    pub fn rewrap(&self, stop: &AtomicBool) -> Option<u64> {
        let (mut after, mut left) = (String::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            let target = format!("/v1/records/rewrap?limit=100{after}");
            let request = http::Request::new("POST", &target).bearer(&self.tokens.operator);
            let batch = request
                .timeout(Duration::from_secs(5))
                .send(self.service_address);
            let batch = match batch {
                Ok(answer) if answer.status == 200 => answer.text(),
                // It is down, or its store is: the batch is asked for again.
                _ => {
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let batch: serde_json::Value = serde_json::from_str(&batch).ok()?;
            let count = |name: &str| batch.get(name).and_then(serde_json::Value::as_u64);
            left += count("busy")? + count("unreadable")?;
            match batch.get("next").and_then(serde_json::Value::as_str) {
                Some(next) => after = format!("&after={next}"),
                None => return Some(left),
            }
        }
        None
    }

    /// How many settlements are still in the outboxes of all Envoys.
    ///
    /// # Errors
    ///
    /// Of the connection.
    pub fn undelivered(&self) -> std::io::Result<u64> {
        let mut sum = 0;
        for admin in &self.admins {
            let stats = http::Request::get("/stats?filter=idempotency_outbox$").send(*admin)?;
            let text = stats.text();
            let values = text.lines().filter_map(|line| line.rsplit_once(": "));
            sum += values
                .filter_map(|(_, value)| value.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(sum)
    }

    fn link(&self, target: Target) -> Option<&Link> {
        match target {
            Target::ClientLink(number) => self.client_links.get(number),
            Target::ServiceLink(number) => self.service_links.get(number),
            Target::StoreLink(number) => self.store_links.get(number),
            Target::UpstreamLink(number) => self.upstream_links.get(number),
            _ => None,
        }
    }

    /// Does something to a part.
    pub fn inject(&self, target: Target, kind: FaultKind) {
        if let Some(link) = self.link(target) {
            return link.cut(kind);
        }
        self.with_process(target, |process| match kind {
            FaultKind::Pause => process.pause_tree(),
            _ => process.kill_tree(),
        });
    }

    /// Undoes it, and waits until the part is ready.
    ///
    /// # Errors
    ///
    /// If it does not get ready, perhaps because another part that it needs is not.
    pub fn heal(&self, target: Target, kind: FaultKind) -> Result<(), Error> {
        if let Some(link) = self.link(target) {
            link.heal();
            return Ok(());
        }
        if kind == FaultKind::Pause {
            self.with_process(target, Process::resume_tree);
            return Ok(());
        }
        match target {
            Target::Gateway(number) => lock(nth(&self.gateways, number)).restart(),
            Target::Service(number) => lock(nth(&self.services, number)).restart(),
            Target::Upstream => lock(&self.upstream).restart(),
            Target::Store => match &self.store {
                Some(store) => lock(store).restart(),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn with_process(&self, target: Target, act: impl FnOnce(&mut Process)) {
        match target {
            Target::Gateway(number) => act(lock(nth(&self.gateways, number)).process()),
            Target::Service(number) => act(lock(nth(&self.services, number)).process()),
            Target::Upstream => act(lock(&self.upstream).process()),
            Target::Store => {
                if let Some(store) = &self.store {
                    act(lock(store).process());
                }
            }
            _ => {}
        }
    }

    /// What runs now; parts that are being started are left out.
    pub fn parts(&self) -> Vec<Part> {
        // The links are in this process.
        let own = i32::try_from(std::process::id()).into_iter().collect();
        let mut parts = vec![(None, own)];
        let mut add = |part: Target, process: &Process, tree: bool| {
            let mut ids = if tree {
                process.descendants()
            } else {
                Vec::new()
            };
            ids.extend(i32::try_from(process.id()));
            parts.push((Some(part), ids));
        };
        for (number, gateway) in self.gateways.iter().enumerate() {
            if let Ok(mut gateway) = gateway.try_lock() {
                add(Target::Gateway(number), gateway.process(), false);
            }
        }
        for (number, service) in self.services.iter().enumerate() {
            if let Ok(mut service) = service.try_lock() {
                add(Target::Service(number), service.process(), false);
            }
        }
        if let Ok(mut upstream) = self.upstream.try_lock() {
            add(Target::Upstream, upstream.process(), false);
        }
        if let Some(Ok(mut store)) = self.store.as_ref().map(Mutex::try_lock) {
            let tree = matches!(*store, StoreServer::Postgres(_));
            add(Target::Store, store.process(), tree);
        }
        parts
    }

    /// Copies the logs that are not in the run's directory yet.
    pub fn save_logs(&self, dir: &Path) {
        if let Some(store) = &self.store {
            if let StoreServer::Redis(redis) = &mut *lock(store) {
                let _ = std::fs::copy(redis.process().log_path(), dir.join("redis.log"));
            }
        }
    }
}

/// The gateway that stands behind the others on some paths, as a sidecar of the upstream does.
fn second(options: &RigOptions, upstream: &Upstream, service: &Service) -> Result<Envoy, Error> {
    let filter = options.rules.last_filter(&Tokens::default());
    let service = ServiceAddress::Tcp(service.address());
    let mut config = EnvoyConfig::new(filter.to_string(), upstream.address(), service);
    // Its clients are gateways, which know when to give up.
    config.gateway_timeout = Duration::ZERO;
    config.execution_timeout = timeout(&options.rules, true);
    config.log = Some(options.dir.join("envoy-second.log"));
    config.access_log = Some(options.dir.join("access-second.log"));
    Envoy::start(config)
}

fn link(runtime: &Handle, target: SocketAddr) -> Result<Link, Error> {
    Link::start(runtime, target).map_err(|error| Error::new(format!("a link: {error}")))
}

/// When executions of this kind are given up.
fn timeout(rules: &Rules, detached: bool) -> Duration {
    let rules = rules.rules.iter().filter(|rule| rule.detached == detached);
    Duration::from_millis(rules.map(|rule| rule.timeout_ms).max().unwrap_or_default())
}

fn service(
    options: &RigOptions,
    number: usize,
    store: Option<&StoreServer>,
    link: Option<&Link>,
) -> Result<Service, Error> {
    let mut args = options.service_args.clone();
    args.extend(["--sweep-interval", "500ms"].map(str::to_owned));
    if options.encrypt {
        let keys = KeyFile::path(&options.dir).display().to_string();
        args.extend(["--encryption-keys".to_owned(), keys]);
    }
    let mut backend = Backend::Embedded;
    let mut data_dir = Some(options.dir.join("data"));
    if let Some((store, link)) = store.zip(link) {
        backend = Backend::Named(store.url(link.address()));
        data_dir = None;
        if matches!(store, StoreServer::Postgres(_)) {
            args.push("--migrate".to_owned());
        }
    }
    Service::start(ServiceOptions {
        program: options.service_program.clone(),
        backend,
        data_dir,
        durability: options.durability,
        args,
        log: Some(options.dir.join(format!("service-{number}.log"))),
        ..ServiceOptions::default()
    })
}

/// The database of the services.
const DATABASE: &str = "check";

impl StoreServer {
    fn start(store: Store, dir: &Path) -> Result<Option<Self>, Error> {
        Ok(match store {
            Store::Embedded => None,
            // With `everysec` a write may be held back in the process while the disk is slow, and
            // a kill would lose it: that is no promise, so nothing could be checked.
            Store::Redis => Some(Self::Redis(Redis::start(&["--appendfsync", "always"])?)),
            Store::Postgres => {
                let postgres = Postgres::start(PostgresOptions {
                    settings: vec!["max_connections = 200".to_owned()],
                    log: Some(dir.join("postgres.log")),
                    ..PostgresOptions::default()
                })?;
                postgres.create_database(DATABASE);
                Some(Self::Postgres(postgres))
            }
        })
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Self::Redis(redis) => redis.process(),
            Self::Postgres(postgres) => postgres.process(),
        }
    }

    fn restart(&mut self) -> Result<(), Error> {
        match self {
            Self::Redis(redis) => redis.restart(),
            Self::Postgres(postgres) => postgres.start_again(),
        }
    }

    fn address(&self) -> SocketAddr {
        let port = match self {
            Self::Redis(redis) => redis.port(),
            Self::Postgres(postgres) => postgres.port(),
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// As the service's `--store` names it, by another way.
    fn url(&self, way: SocketAddr) -> String {
        match self {
            Self::Redis(_) => format!("redis://{way}"),
            Self::Postgres(_) => format!("postgres://postgres@{way}/{DATABASE}"),
        }
    }
}
