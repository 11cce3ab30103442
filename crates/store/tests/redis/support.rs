//! Stores on servers of this test's own.

use crate::common::one;
use crate::storm::acquire_as;
use async_trait::async_trait;
use idempotency_protocol::{Answer, FaultCode, Grant, LookupKey, Owner};
use idempotency_stack::Redis;
use idempotency_store::contract::Harness;
use idempotency_store::{RedisOptions, RedisStore, Store};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn server(settings: &[&str]) -> Redis {
    Redis::start(settings).unwrap()
}

/// The name of a record in the server, with the default prefix.
pub fn name(key: &LookupKey) -> Vec<u8> {
    let lookup = key.to_bytes();
    let digest: [u8; 32] = Sha256::digest(&lookup).into();
    let tag: String = digest[..4].iter().map(|b| format!("{b:02x}")).collect();
    [format!("idem:{{{tag}}}").as_bytes(), &lookup].concat()
}

pub fn options(url: &str) -> RedisOptions {
    RedisOptions::parse(url).unwrap()
}

pub async fn open(url: &str) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(options(url)).await.unwrap())
}

/// Two instances on the same servers, whose clock cannot be moved.
pub struct RealTime(pub [Arc<RedisStore>; 2]);

impl RealTime {
    pub async fn on(url: &str) -> RealTime {
        RealTime([open(url).await, open(url).await])
    }
}

#[async_trait]
impl Harness for RealTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0[0]) as Arc<dyn Store>
    }

    async fn other(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0[1]) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    async fn waiting(&self, count: usize) {
        let all = || self.0.iter().map(|store| store.waiting()).sum::<usize>();
        until(|| async { all() >= count }).await;
    }
}

/// Asks until it holds; nobody would tell us.
pub async fn until<F: std::future::Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The answer is a fault of that class.
pub fn is_fault(answer: &Answer, code: FaultCode) -> bool {
    matches!(answer, Answer::Fault(fault) if fault.code == code)
}

/// Waits until the store is ready.
pub async fn until_ready(store: &RedisStore) {
    until(|| async { store.ready().await.is_ok() }).await;
}

/// Asks, by a new owner each time, until the key is granted; nobody would tell us.
pub async fn granted_in_the_end(store: &RedisStore, name: &str) -> Grant {
    let asked = AtomicU64::new(0);
    let answer = Mutex::new(None);
    until(|| async {
        let mut owner = [0xaa; 16];
        let number = asked.fetch_add(1, Ordering::SeqCst);
        owner[..8].copy_from_slice(&number.to_be_bytes());
        match one(store, acquire_as(name, Owner(owner))).await {
            Answer::Granted(grant) => *answer.lock().unwrap() = Some(grant),
            answer => assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}"),
        }
        answer.lock().unwrap().is_some()
    })
    .await;
    let grant = *answer.lock().unwrap();
    grant.unwrap()
}
