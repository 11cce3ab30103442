//! An empty store of every kind. Servers are shared by the tests of a process, and end with the last one.

use idempotency::store::{
    Embedded, EmbeddedOptions, Memory, Postgres, PostgresOptions, RedisOptions, RedisStore, Store,
};
use idempotency_stack::{Postgres as PostgresServer, Redis};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;

pub fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::default())
}

pub fn embedded() -> (Arc<dyn Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(EmbeddedOptions::new(dir.path().join("store"))).unwrap();
    (Arc::new(store), dir)
}

/// With keys of its own on the shared server.
pub async fn redis() -> (Arc<dyn Store>, Arc<Redis>) {
    static SHARED: Mutex<Weak<Redis>> = Mutex::new(Weak::new());
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let server = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Redis::start(&[]).unwrap());
            *shared = Arc::downgrade(&server);
            server
        })
    };
    let mut options = RedisOptions::parse(&server.url()).unwrap();
    options.prefix = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let store = RedisStore::open(options).await.unwrap();
    (Arc::new(store), server)
}

/// In a database of its own on the shared server.
pub async fn postgres() -> (Arc<dyn Store>, Arc<PostgresServer>) {
    let server = PostgresServer::shared().unwrap();
    let mut options = PostgresOptions::from_url_and(&server.fresh_database(), |_| None).unwrap();
    options.pool_size = 4;
    Postgres::migrate(&options).await.unwrap();
    let store = Postgres::open(options).await.unwrap();
    (Arc::new(store), server)
}
