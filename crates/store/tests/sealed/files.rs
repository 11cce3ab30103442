//! What is left in the files of stores: nothing of a key, a tenant, a body, a header, a path or a fingerprint.
//!
//! Each search is made on a store in clear as well, where it must find everything: else it could not fail.

use crate::lab::*;
use bytes::Bytes;
use idempotency_protocol::{
    About, Answer, Complete, FailCause, Fingerprint, LookupKey, Operation, Origin, Outcome, Owner,
    Scheme, Settle, Settlement, StoredResponse,
};
use idempotency_stack::{Postgres as Server, PostgresOptions as ServerOptions, Redis};
use idempotency_store::{
    Embedded, EmbeddedOptions, Postgres, PostgresOptions, RedisOptions, RedisStore, Resolution,
    Resolve, Resolved, Sealed, Store,
};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A server whose files are not compressed, so that what is there can be found.
pub fn redis() -> RedisServer {
    RedisServer(Redis::start(&["--rdbcompression", "no"]).unwrap())
}

pub struct RedisServer(pub Redis);

impl RedisServer {
    pub async fn open(&self) -> RedisStore {
        let options = RedisOptions::parse(&self.0.url()).unwrap();
        RedisStore::open(options).await.unwrap()
    }
}

/// A database of its own, with the schema.
pub struct Database {
    pub server: Server,
}

impl Database {
    pub async fn new() -> Database {
        let server = Server::start(ServerOptions::default()).unwrap();
        server.create_database("sealed");
        let database = Database { server };
        Postgres::migrate(&database.options()).await.unwrap();
        database
    }

    pub fn options(&self) -> PostgresOptions {
        let url = self.server.url("sealed");
        let mut options = PostgresOptions::from_url_and(&url, |_| None).unwrap();
        options.pool_size = 8;
        options
    }

    pub async fn open(&self) -> Postgres {
        Postgres::open(self.options()).await.unwrap()
    }
}

/// What must not be found; in each a word that no other run has.
struct Secrets {
    tenant: String,
    key: String,
    body: String,
    header: String,
    location: String,
    path: String,
    request_id: String,
    by_hand: String,
    digest: [u8; 32],
}

impl Secrets {
    fn new(run: &str) -> Secrets {
        let word = |what: &str| format!("{what}-of-{run}-secret");
        let mut digest = [0; 32];
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::try_from(n).unwrap() ^ run.as_bytes()[n % run.len()] ^ 0xa5;
        }
        Secrets {
            tenant: word("tenant"),
            key: word("key"),
            body: word("body"),
            header: word("header"),
            location: word("location"),
            path: word("/path"),
            request_id: word("request"),
            by_hand: word("by-hand"),
            digest,
        }
    }

    fn key(&self, n: u32) -> LookupKey {
        LookupKey {
            tenant: self.tenant.clone(),
            namespace: String::new(),
            origin: Origin::Client,
            key: format!("{}-{n}", self.key),
        }
    }

    fn acquire(&self, key: &LookupKey, owner: u8) -> Operation {
        acquire_with(key, owner, |a| {
            a.fingerprint = Fingerprint {
                scheme: Scheme(1),
                digest: self.digest,
            };
            a.about = Some(Arc::new(About {
                path: self.path.clone(),
                request_id: self.request_id.clone(),
                ..About::default()
            }));
        })
    }

    fn response(&self, times: usize) -> Outcome {
        let pair = |name: &'static str, value: &str| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (Bytes::from_static(name.as_bytes()), value)
        };
        Outcome::Response(StoredResponse {
            status: 201,
            headers: vec![pair("x-token", &self.header)],
            body: self.body.repeat(times).into(),
        })
    }

    /// Records in every state, and by every way in which something is stored.
    async fn fill(&self, store: &dyn Store) {
        let owner = |n: u8| Owner([n; 16]);
        for (n, times) in [(0u8, 1), (1, 400), (2, 20_000)] {
            let key = self.key(n.into());
            let granted = one(store, self.acquire(&key, n)).await;
            assert!(matches!(granted, Answer::Granted(_)), "{granted:?}");
            let completed = Operation::Complete(Complete {
                key: key.clone(),
                owner: owner(n),
                outcome: self.response(times).into(),
            });
            let completed = one(store, completed).await;
            assert!(
                matches!(completed, Answer::Completed { .. }),
                "{completed:?}"
            );
            let replay = one(store, self.acquire(&key, 99)).await;
            assert!(matches!(replay, Answer::Stored(_)), "{replay:?}");
        }
        for n in 3..8u8 {
            let key = self.key(n.into());
            let Answer::Granted(grant) = one(store, self.acquire(&key, n)).await else {
                panic!("not granted");
            };
            let owner = owner(n);
            let operation = match n {
                3 => continue,
                4 => {
                    let location = Bytes::copy_from_slice(self.location.as_bytes());
                    let elsewhere = StoredResponse {
                        status: 307,
                        headers: vec![(Bytes::from_static(b"location"), location)],
                        body: Bytes::new(),
                    };
                    let cause = FailCause::Redirected(Box::new(elsewhere));
                    Operation::Fail { key, owner, cause }
                }
                5 => Operation::Settle(Settle {
                    key,
                    fence: grant.fence,
                    settlement: Settlement::Completed(self.response(1)),
                }),
                _ => Operation::Abandon { key, owner },
            };
            one(store, operation).await;
        }
        let key = self.key(7);
        let by_hand = Outcome::Response(StoredResponse {
            status: 200,
            headers: Vec::new(),
            body: Bytes::copy_from_slice(self.by_hand.as_bytes()),
        });
        let resolve = Resolve {
            version: store.inspect(&key).await.unwrap().unwrap().version,
            key,
            to: Resolution::Completed(by_hand),
            force: false,
        };
        let resolved = store.resolve(resolve).await.unwrap();
        assert!(matches!(resolved, Resolved::Done(Some(_))));
    }

    fn all(&self) -> Vec<&[u8]> {
        let Secrets {
            tenant,
            key,
            body,
            header,
            location,
            path,
            request_id,
            by_hand,
            digest,
        } = self;
        let words = [
            tenant, key, body, header, location, path, request_id, by_hand,
        ];
        let words = words.map(|word| word.as_bytes());
        words.into_iter().chain([digest.as_slice()]).collect()
    }

    /// Which of them are in the files of this folder.
    fn found(&self, dir: &Path) -> Vec<String> {
        let found = self.all().into_iter().filter(|secret| is_in(dir, secret));
        found
            .map(|secret| String::from_utf8_lossy(secret).into_owned())
            .collect()
    }
}

/// Whether these bytes, among which is no line feed, are in a file of the folder. Files of servers are large, and `grep`
/// is quick.
pub fn is_in(dir: &Path, bytes: &[u8]) -> bool {
    assert!(!bytes.contains(&b'\n'));
    let pattern: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    // A server may remove a file meanwhile, which is told as an error.
    for _ in 0..3 {
        let grep = Command::new("grep")
            .env("LC_ALL", "C")
            .args(["-rqaP", "-D", "skip", "-e", &pattern])
            .arg(dir)
            .stderr(Stdio::null())
            .status();
        match grep.unwrap().code() {
            Some(0) => return true,
            Some(1) => return false,
            _ => {}
        }
    }
    panic!("grep cannot read {}", dir.display());
}

pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

/// Fills a store in clear and a sealed one, and looks what is in the files of both.
async fn check(in_clear: &Secrets, clear: &Path, sealed: &Secrets, encrypted: &Path) {
    assert_eq!(
        in_clear.found(clear).len(),
        in_clear.all().len(),
        "the search finds what is there"
    );
    assert_eq!(sealed.found(encrypted), Vec::<String>::new());
    // The keys are nowhere, either.
    for name in ["index", "a"] {
        let line = line(name);
        let key = line.split_whitespace().nth(1).unwrap().to_owned();
        assert!(!is_in(encrypted, key.as_bytes()));
    }
}

async fn sealing(inner: impl Store) -> Sealed {
    Sealed::open(Arc::new(inner), ring(&["a"])).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_holds_nothing_in_clear() {
    let (clear, encrypted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &Path| Embedded::open(EmbeddedOptions::new(dir)).unwrap();
    let (in_clear, secrets) = (Secrets::new("clear"), Secrets::new("sealed"));
    let plain = open(clear.path());
    in_clear.fill(&plain).await;
    plain.close().await;
    drop(plain);
    let store = sealing(open(encrypted.path())).await;
    secrets.fill(&store).await;
    store.close().await;
    drop(store);
    check(&in_clear, clear.path(), &secrets, encrypted.path()).await;
    // In tables, too.
    let store = sealing(open(encrypted.path())).await;
    assert!(store.scrub().await.unwrap());
    store.close().await;
    assert_eq!(secrets.found(encrypted.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_nothing_in_clear() {
    let (clear, encrypted) = (redis(), redis());
    let (in_clear, secrets) = (Secrets::new("clear"), Secrets::new("sealed"));
    in_clear.fill(&clear.open().await).await;
    secrets.fill(&sealing(encrypted.open().await).await).await;
    for server in [&clear, &encrypted] {
        assert_eq!(server.0.cli(&["SAVE"]).unwrap(), "OK");
    }
    check(&in_clear, clear.0.dir(), &secrets, encrypted.0.dir()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_holds_nothing_in_clear() {
    let (clear, encrypted) = (Database::new().await, Database::new().await);
    let (in_clear, secrets) = (Secrets::new("clear"), Secrets::new("sealed"));
    in_clear.fill(&clear.open().await).await;
    secrets.fill(&sealing(encrypted.open().await).await).await;
    for database in [&clear, &encrypted] {
        database.server.sql("sealed", "CHECKPOINT");
    }
    // Tables, their large values, indexes, the log of writes.
    check(
        &in_clear,
        clear.server.data(),
        &secrets,
        encrypted.server.data(),
    )
    .await;
}
