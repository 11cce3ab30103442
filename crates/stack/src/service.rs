//! The idempotency service as a child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::gateway::{Host, TlsAddress};
use crate::http::{Answer, Request};
use crate::pki::{self, Pki};
use crate::postgres::Postgres;
use crate::process::Process;
use crate::redis::Redis;
use crate::{ports, tools};

/// When an acknowledged operation is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged.
    #[default]
    Durable,
    /// Shortly after.
    Relaxed,
}

/// Where the service keeps its records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backend {
    /// The embedded store, in [`ServiceOptions::data_dir`].
    #[default]
    Embedded,
    /// A Redis server that is started for it, and ends with it.
    Redis,
    /// A database of its own, on a PostgreSQL server that the services of this process share.
    Postgres,
    /// Another one, as `idempotencyd serve --store` names it, e.g. `memory:`.
    Named(String),
}

impl Backend {
    /// As the environment's `STORE` says: `embedded` (or nothing), `redis`, `postgres`.
    ///
    /// # Errors
    ///
    /// If it says something else.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var("STORE").unwrap_or_default().as_str() {
            "" | "embedded" => Ok(Self::Embedded),
            "redis" => Ok(Self::Redis),
            "postgres" => Ok(Self::Postgres),
            other => Err(Error::new(format!(
                "STORE={other} is not one of embedded, redis, postgres"
            ))),
        }
    }
}

/// A file of encryption keys for tests, always the same: services that are started one after the other on the same
/// records need the same ones. The index key, and the one that seals.
pub const ENCRYPTION_KEYS: &str = "\
index MTIzNDU2Nzg5MGluZGV4LWtleS1vZi10aGUtdGVzdHM=
test c2VhbGluZy1rZXktb2YtdGhlLXRlc3RzLTEyMzQ1Njc=
";

/// Whether the environment's `ENCRYPTION` is `on`: then services encrypt their records.
fn encrypts() -> bool {
    std::env::var("ENCRYPTION").is_ok_and(|on| on == "on")
}

/// The bearer tokens of the three roles; an empty one is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The filter's.
    pub gateway: String,
    /// An upstream's, for settle.
    pub upstream: String,
    /// An operator's.
    pub operator: String,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            gateway: "demo-gateway-token".to_owned(),
            upstream: "demo-upstream-token".to_owned(),
            operator: "demo-operator-token".to_owned(),
        }
    }
}

/// How the service is started.
#[derive(Debug, Clone, Default)]
pub struct ServiceOptions {
    /// Another program that takes the arguments of `idempotencyd`; `None`: that one.
    pub program: Option<PathBuf>,
    /// `None` takes a free one.
    pub port: Option<u16>,
    /// Where the records are. The embedded one gives way to what the environment's `STORE` says,
    /// unless `data_dir` is named.
    pub backend: Backend,
    /// Where the embedded store lives; `None`: a temporary directory, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// When an acknowledged operation is on disk.
    pub durability: Durability,
    /// The roles' tokens.
    pub tokens: Tokens,
    /// Certificates: it listens on one more port, with mTLS. `None`: as the environment's `TRANSPORT` says.
    pub tls: Option<Arc<Pki>>,
    /// Further arguments of `idempotencyd serve`. Without `--encryption-keys` among them, the environment's
    /// `ENCRYPTION` says whether records are encrypted: `on`, with [`ENCRYPTION_KEYS`].
    pub args: Vec<String>,
    /// Log level, as the service knows it; `None`: its default.
    pub log_level: Option<String>,
    /// Where its output goes; `None`: a temporary file.
    pub log: Option<PathBuf>,
}

/// A running service. It listens on a TCP port and on a Unix socket, and with certificates on a TCP port with TLS
/// as well.
#[derive(Debug)]
pub struct Service {
    process: Process,
    options: ServiceOptions,
    address: SocketAddr,
    data_dir: PathBuf,
    tls_address: Option<SocketAddr>,
    socket: PathBuf,
    log: PathBuf,
    // Dropped after the process that uses them.
    redis: Option<Redis>,
    _postgres: Option<Arc<Postgres>>,
    _dir: TempDir,
}

impl Service {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If its program is not there or does not start.
    pub fn start(mut options: ServiceOptions) -> Result<Self, Error> {
        if options.backend == Backend::Embedded && options.data_dir.is_none() {
            options.backend = Backend::from_env()?;
        }
        // Programs of other releases do not know how.
        if options.tls.is_none() && options.program.is_none() && mtls_is_chosen()? {
            options.tls = Some(Pki::shared()?);
        }
        let mut redis = None;
        let mut postgres = None;
        match options.backend {
            Backend::Embedded | Backend::Named(_) => {}
            Backend::Redis => {
                let server = Redis::start(&[])?;
                options.backend = Backend::Named(server.url());
                redis = Some(server);
            }
            Backend::Postgres => {
                let server = Postgres::shared()?;
                options.backend = Backend::Named(server.fresh_database());
                options.args.push("--migrate".to_owned());
                postgres = Some(server);
            }
        }
        let dir = crate::stack::temp_dir()?;
        let flag = "--encryption-keys";
        if encrypts() && !options.args.iter().any(|given| given == flag) {
            let keys = dir.path().join("keys");
            std::fs::write(&keys, ENCRYPTION_KEYS).map_err(|e| Error::new(e.to_string()))?;
            options
                .args
                .extend([flag.to_owned(), keys.display().to_string()]);
        }
        let port = options.port.unwrap_or_else(ports::free);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let data_dir = options
            .data_dir
            .clone()
            .unwrap_or_else(|| dir.path().join("data"));
        let log = options
            .log
            .clone()
            .unwrap_or_else(|| dir.path().join("service.log"));
        let socket = dir.path().join("service.sock");
        let tls_address = options.tls.as_ref().map(|_| {
            let port = ports::free();
            SocketAddr::from(([127, 0, 0, 1], port))
        });
        let process = launch(&options, (address, tls_address), &data_dir, &socket, &log)?;
        Ok(Self {
            process,
            options,
            address,
            tls_address,
            data_dir,
            socket,
            log,
            redis,
            _postgres: postgres,
            _dir: dir,
        })
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`]: same port, same data.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(
            &self.options,
            (self.address, self.tls_address),
            &self.data_dir,
            &self.socket,
            &self.log,
        )?;
        Ok(())
    }

    /// Where it listens, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with mTLS, and what a gateway needs for it.
    pub fn tls(&self) -> Option<TlsAddress> {
        let pki = self.options.tls.as_ref()?;
        Some(TlsAddress::new(self.tls_address?, pki))
    }

    /// Its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its store.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The Redis server that was started for it.
    pub fn redis(&mut self) -> Option<&mut Redis> {
        self.redis.as_mut()
    }

    /// The roles' tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.options.tokens
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and patience for what is in flight.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.process.stop(Duration::from_secs(15))
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process, for signals (pause, resume) and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A request as an operator.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn operator(&self, method: &str, target: &str, body: &str) -> Answer {
        let mut request = Request::new(method, target).bearer(&self.options.tokens.operator);
        if !body.is_empty() {
            request = request
                .header("Content-Type", "application/json")
                .body(body);
        }
        match request.send(self.address) {
            Ok(answer) => answer,
            Err(error) => panic!("the service does not answer {method} {target}: {error}"),
        }
    }

    /// The service's metrics in Prometheus' text form.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn metrics(&self) -> String {
        self.operator("GET", "/metrics", "").text()
    }
}

/// Whether the environment's `TRANSPORT` asks for mTLS between gateway and service: `plain` (or nothing), `mtls`.
fn mtls_is_chosen() -> Result<bool, Error> {
    match std::env::var("TRANSPORT").unwrap_or_default().as_str() {
        "" | "plain" => Ok(false),
        "mtls" if Host::chosen().is_envoy() => Ok(true),
        "mtls" => Err(Error::new(
            "TRANSPORT=mtls is for Envoy: no other host shows a certificate",
        )),
        other => Err(Error::new(format!(
            "TRANSPORT={other} is not one of plain, mtls"
        ))),
    }
}

fn launch(
    options: &ServiceOptions,
    (address, tls_address): (SocketAddr, Option<SocketAddr>),
    data_dir: &Path,
    socket: &Path,
    log: &Path,
) -> Result<Process, Error> {
    let durability = match options.durability {
        Durability::Durable => "durable",
        Durability::Relaxed => "relaxed",
    };
    let program = options.program.clone();
    let mut command = Command::new(program.map_or_else(tools::idempotencyd, Ok)?);
    command.arg("serve");
    match (&options.tls, tls_address) {
        (Some(pki), Some(tls_address)) => command
            .args(["--listen", &format!("plain:{address}")])
            .args(["--listen", &tls_address.to_string()])
            .arg("--tls-cert")
            .arg(pki.service.path(pki::CERT))
            .arg("--tls-key")
            .arg(pki.service.path(pki::KEY))
            .arg("--tls-client-ca")
            .arg(pki.service.path(pki::CA))
            .arg("--tls-roles")
            .arg(&pki.roles),
        _ => command.args(["--listen", &address.to_string()]),
    };
    command
        .args(["--listen", &format!("unix:{}", socket.display())])
        // Kong's host opens a connection for every call, and tests send it crowds of thousands.
        .args(["--max-stranger-bytes", "1GiB"]);
    match &options.backend {
        Backend::Embedded => command
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--durability", durability]),
        Backend::Named(store) => command.args(["--store", store]),
        // Named by now.
        Backend::Redis | Backend::Postgres => &mut command,
    };
    let Tokens {
        gateway,
        upstream,
        operator,
    } = &options.tokens;
    for (flag, token) in [
        ("--gateway-token", gateway),
        ("--upstream-token", upstream),
        ("--operator-token", operator),
    ] {
        if !token.is_empty() {
            command.args([flag, token]);
        }
    }
    if let Some(level) = &options.log_level {
        command.args(["--log", level]);
    }
    command.args(&options.args);
    let mut process = Process::start("idempotencyd", command, log.to_owned())?;
    let ready = || {
        Request::get("/readyz")
            .send(address)
            .is_ok_and(|answer| answer.status == 200)
    };
    process.await_ready(Duration::from_secs(30), ready)?;
    Ok(process)
}
