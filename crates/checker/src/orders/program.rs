//! The process that is killed.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use idempotency::postgres::{record_from, Transacted};
use idempotency::remote::Remote;
use idempotency::store::sealed::{KeyRing, Keys};
use idempotency::store::{Memory, Postgres, PostgresOptions, Sealed, Store};
use idempotency::{Entry, Execution, Fingerprint, Guard, Outcome};
use tokio_postgres::{Client, NoTls};

use super::{append, fingerprint, key, open, Made, Told, BODY, MADE, NAMESPACE, TENANT, TOLD};

type AnyError = Box<dyn Error + Send + Sync>;

/// How it is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where the gateways find it
    #[arg(long)]
    pub port: u16,
    /// Where its files are
    #[arg(long)]
    pub dir: PathBuf,
    /// The service, for a store that is no database
    #[arg(long)]
    pub service: Option<String>,
    /// The service's token
    #[arg(long, default_value = "")]
    pub token: String,
    /// The database of the records
    #[arg(long)]
    pub database: Option<String>,
    /// The same, by the way that this program's own transactions take
    #[arg(long)]
    pub way: Option<String>,
    /// The file of the services' encryption keys, where records are encrypted
    #[arg(long)]
    pub encryption_keys: Option<PathBuf>,
    /// Lease in milliseconds
    #[arg(long)]
    pub lease_ms: u64,
    /// How many take orders at a time
    #[arg(long)]
    pub clients: u32,
}

/// What all of it shares.
struct Shop {
    guard: Guard,
    /// Where its transactions go; `None`: there are none, and orders are lines of a file.
    way: Option<String>,
    made: Mutex<File>,
    told: Mutex<File>,
    fingerprint: Fingerprint,
}

/// The records, encrypted where there are keys, which are read again as they change.
async fn open_store(
    options: &PostgresOptions,
    keys: Option<&Path>,
) -> Result<Arc<dyn Store>, AnyError> {
    let store: Arc<dyn Store> = Arc::new(Postgres::open(options.clone()).await?);
    let Some(path) = keys else { return Ok(store) };
    let read = |path: &Path| -> Result<Keys, AnyError> {
        Ok(Keys::parse(&std::fs::read_to_string(path)?)?)
    };
    let ring = KeyRing::new(read(path)?);
    let sealed = Sealed::open(store, Arc::clone(&ring)).await?;
    let path = path.to_owned();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if let Ok(keys) = read(&path) {
                let _ = ring.replace(keys);
            }
        }
    });
    Ok(Arc::new(sealed))
}

/// Takes orders until it is killed.
///
/// # Errors
///
/// If it cannot begin.
pub async fn run(arguments: Arguments) -> Result<(), AnyError> {
    let store: Arc<dyn Store> = match (&arguments.database, &arguments.service) {
        (Some(url), _) => {
            let mut options = PostgresOptions::from_url_and(url, |_| None)?;
            options.pool_size = 4;
            loop {
                // The server may be down at this moment.
                match open_store(&options, arguments.encryption_keys.as_deref()).await {
                    Ok(store) => break store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
        (None, Some(url)) => Arc::new(Remote::new(url.parse()?).token(&arguments.token)?),
        (None, None) => Arc::new(Memory::default()),
    };
    let shop = Arc::new(Shop {
        guard: Guard::new(store)
            .namespace(NAMESPACE)
            .tenant(TENANT)
            .lease(Duration::from_millis(arguments.lease_ms))
            .timeout(Duration::from_secs(1)),
        way: arguments.way,
        made: Mutex::new(open(&arguments.dir.join(MADE))?),
        told: Mutex::new(open(&arguments.dir.join(TOLD))?),
        fingerprint: fingerprint().ok_or("no fingerprint")?,
    });
    for _ in 0..arguments.clients {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            loop {
                shop.order().await;
                let pause = fastrand::u64(..60);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shop = Arc::clone(&shop);
                async move { shop.handle(request).await }
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

fn outcome(id: &str) -> Result<Outcome, AnyError> {
    Ok(Outcome::bytes(201, "text/plain", id.to_owned())?)
}

/// What was replayed.
fn named(done: &idempotency::Done) -> Option<String> {
    let body = done.body()?;
    Some(String::from_utf8_lossy(body).into_owned())
}

impl Shop {
    fn tell(&self, key: &str, by: &str, end: &str, id: Option<String>) {
        let told = Told {
            key: key.to_owned(),
            by: by.to_owned(),
            end: end.to_owned(),
            id,
        };
        let mut file = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = append(&mut file, &told) {
            eprintln!("{error}");
        }
    }

    async fn connect(&self) -> Result<Option<Client>, AnyError> {
        let Some(way) = &self.way else {
            return Ok(None);
        };
        let connect = tokio_postgres::connect(way, NoTls);
        let (client, connection) = tokio::time::timeout(Duration::from_secs(2), connect).await??;
        tokio::spawn(connection);
        Ok(Some(client))
    }

    /// An order that no transaction holds.
    async fn make(&self, client: Option<&Client>, key: &str, id: &str) -> Result<(), AnyError> {
        if let Some(client) = client {
            return insert(client, key, id).await;
        }
        let made = Made {
            key: key.to_owned(),
            id: id.to_owned(),
        };
        let mut file = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(append(&mut file, &made)?)
    }

    /// One order, in one of the ways.
    async fn order(&self) {
        let key = key(&mut fastrand::Rng::new());
        let client = match self.connect().await {
            Ok(client) => client,
            Err(_) => return self.tell(&key, "nobody", "no connection", None),
        };
        let way = fastrand::u8(..100);
        let (by, end) = match client {
            Some(client) if way < 55 => ("transaction", self.transaction(client, &key).await),
            Some(client) if way < 80 => ("by hand", self.by_hand(client, &key).await),
            client => ("plain", self.plain(client, &key).await),
        };
        match end {
            Ok((end, id)) => self.tell(&key, by, end, id),
            // What it was is of no concern, as long as nothing is promised.
            Err(_) => self.tell(&key, by, "error", None),
        }
    }

    async fn transaction(
        &self,
        mut client: Client,
        key: &str,
    ) -> Result<(&'static str, Option<String>), AnyError> {
        let id = id();
        let work = async |tx: &mut tokio_postgres::Transaction<'_>, _: &Execution| {
            insert(tx, key, &id).await?;
            pause().await;
            match fastrand::u8(..10) {
                0 => Err("changed its mind".into()),
                _ => outcome(&id),
            }
        };
        let done = self
            .guard
            .transaction(&mut client, key, self.fingerprint, work)
            .await;
        use idempotency::postgres::TransactionError as E;
        Ok(match done {
            Ok(Transacted::Committed(done)) => ("committed", named(&done)),
            Ok(Transacted::Replay(done)) => ("replay", named(&done)),
            Ok(Transacted::InFlight(_)) => ("in flight", None),
            Ok(Transacted::Mismatch) => ("mismatch", None),
            Ok(Transacted::NotComparable) => ("not comparable", None),
            Ok(Transacted::Unknown(_)) => ("unknown", None),
            Err(E::Work(_)) => ("rolled back, of its own", None),
            Err(E::RolledBack(_)) => ("rolled back", None),
            Err(E::Unknown(_)) => ("commit unknown", None),
            Err(E::Record(_)) => ("lost", None),
            Err(_) => ("refused", None),
        })
    }

    async fn by_hand(
        &self,
        mut client: Client,
        key: &str,
    ) -> Result<(&'static str, Option<String>), AnyError> {
        let asked = self.guard.acquire_for_transaction(key, self.fingerprint);
        let mut execution = match asked.await? {
            Entry::Execute(execution) => execution,
            other => return Ok(entry(&other)),
        };
        let id = id();
        let mut tx = client.transaction().await?;
        insert(&tx, key, &id).await?;
        let outcome = outcome(&id)?;
        execution.complete_in_tx(&mut tx, &outcome).await?;
        pause().await;
        match tx.commit().await {
            Ok(()) => execution.committed(),
            Err(lost) => {
                if execution.read_back(&outcome, lost).await.is_err() {
                    return Ok(("not committed", None));
                }
            }
        }
        Ok(("committed", Some(id)))
    }

    async fn plain(
        &self,
        client: Option<Client>,
        key: &str,
    ) -> Result<(&'static str, Option<String>), AnyError> {
        let execution = match self.guard.acquire(key, self.fingerprint).await? {
            Entry::Execute(execution) => execution,
            other => return Ok(entry(&other)),
        };
        let id = id();
        if fastrand::u8(..10) == 0 {
            // Nothing was done.
            execution.fail().await?;
            return Ok(("failed", None));
        }
        self.make(client.as_ref(), key, &id).await?;
        pause().await;
        execution.complete(outcome(&id)?).await?;
        Ok(("completed", Some(id)))
    }

    /// Behind the gateway.
    async fn handle(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, http::Error> {
        let (head, body) = request.into_parts();
        let settled = match body.collect().await {
            Ok(body) => self.settle(&head.headers, &body.to_bytes()).await,
            Err(error) => Err(error.into()),
        };
        let (status, text) = match settled {
            Ok(id) => (201, id),
            Err(error) => (500, error.to_string()),
        };
        http::Response::builder()
            .status(status)
            .header("content-type", "text/plain")
            .body(Full::new(text.into()))
    }

    async fn settle(&self, headers: &http::HeaderMap, body: &[u8]) -> Result<String, AnyError> {
        if body != BODY.as_bytes() {
            return Err("another order".into());
        }
        let key = headers.get("idempotency-key").ok_or("no key")?.to_str()?;
        let id = id();
        let Some(mut client) = self.connect().await? else {
            self.make(None, key, &id).await?;
            pause().await;
            return Ok(id);
        };
        let record = record_from(headers)?;
        let mut tx = client.transaction().await?;
        insert(&tx, key, &id).await?;
        let settled = outcome(&id)?;
        self.guard.settle_in_tx(&mut tx, &record, &settled).await?;
        pause().await;
        tx.commit().await?;
        pause().await;
        Ok(id)
    }
}

async fn insert(
    client: &impl tokio_postgres::GenericClient,
    key: &str,
    id: &str,
) -> Result<(), AnyError> {
    let insert = "INSERT INTO public.orders (key, id) VALUES ($1, $2)";
    client.execute(insert, &[&key, &id]).await?;
    Ok(())
}

/// Long enough to be killed in.
async fn pause() {
    let longest = if fastrand::u8(..20) == 0 { 1_000 } else { 20 };
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..longest))).await;
}

fn entry(entry: &Entry) -> (&'static str, Option<String>) {
    match entry {
        Entry::Execute(_) => ("granted", None),
        Entry::Replay(done) => ("replay", named(done)),
        Entry::InFlight(_) => ("in flight", None),
        Entry::Mismatch => ("mismatch", None),
        Entry::NotComparable => ("not comparable", None),
        Entry::Unknown(_) => ("unknown", None),
    }
}
