//! What the tests share: stores, and a store that does what a test tells it to.
#![allow(dead_code)]

pub mod servers;

use async_trait::async_trait;
use idempotency::store::search::{Found, Search};
use idempotency::store::{
    ListFilter, Memory, Page, RecordState, RecordView, Resolve, Resolved, Store, StoreError, Swept,
    Usage,
};
use idempotency_protocol::{Answer, Fault, FaultCode, LookupKey, Operation, Outcome, Wait};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// The stores that need no server, with what has to live as long.
pub fn stores() -> Vec<(&'static str, Arc<dyn Store>, Option<TempDir>)> {
    let (embedded, dir) = servers::embedded();
    vec![
        ("memory", servers::memory(), None),
        ("embedded", embedded, Some(dir)),
    ]
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "never: {what}");
}

/// The only record.
pub async fn record(store: &dyn Store) -> Option<RecordView> {
    let filter = ListFilter {
        limit: 2,
        ..ListFilter::default()
    };
    let mut records = store.list(filter).await.unwrap().records;
    assert!(records.len() < 2, "{records:?}");
    records.pop()
}

/// The state of the only record.
pub async fn state(store: &dyn Store) -> Option<RecordState> {
    record(store).await.map(|record| record.state)
}

/// A store in front of another one, which counts, and which fails where it is told to.
pub struct Spy {
    inner: Arc<dyn Store>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    waits: AtomicU64,
    down: AtomicBool,
    /// Renewals are not answered.
    pub deaf: AtomicBool,
    /// Acquires are applied, and never answered.
    pub mute: AtomicBool,
    /// While it is set, completes wait.
    pub holds_completes: AtomicBool,
    /// Milliseconds for which an acquire stops the thread after it was applied.
    pub stall_ms: AtomicU64,
}

impl Spy {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Spy> {
        Arc::new(Spy {
            inner,
            counts: Mutex::default(),
            waits: AtomicU64::new(0),
            down: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            holds_completes: AtomicBool::new(false),
            stall_ms: AtomicU64::new(0),
        })
    }

    pub fn memory() -> Arc<Spy> {
        Spy::new(Arc::new(Memory::default()))
    }

    /// How many operations of this name were asked for.
    pub fn count(&self, name: &str) -> u64 {
        let counts = self.counts.lock().unwrap();
        counts.get(name).copied().unwrap_or(0)
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.counts.lock().unwrap().values().sum::<u64>() + self.waits.load(Ordering::SeqCst)
    }

    /// From now on nothing is answered but that the store cannot be reached.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn unavailable(&self) -> Option<Answer> {
        self.down.load(Ordering::SeqCst).then(|| {
            Answer::Fault(Fault {
                code: FaultCode::Unavailable,
                detail: "the test says so".to_owned(),
            })
        })
    }
}

#[async_trait]
impl Store for Spy {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let acquires = operations
            .iter()
            .any(|o| matches!(o, Operation::Acquire(_)));
        {
            let mut counts = self.counts.lock().unwrap();
            for operation in &operations {
                *counts.entry(operation.name()).or_default() += 1;
            }
        }
        let renewals = operations
            .iter()
            .all(|o| matches!(o, Operation::Extend { .. }));
        if renewals && self.deaf.load(Ordering::SeqCst) {
            return Vec::new();
        }
        if let Some(answer) = self.unavailable() {
            return operations.iter().map(|_| answer.clone()).collect();
        }
        let completes = operations
            .iter()
            .any(|o| matches!(o, Operation::Complete(_)));
        while completes && self.holds_completes.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answers = self.inner.apply(operations).await;
        if acquires && self.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if acquires {
            let stall = Duration::from_millis(self.stall_ms.load(Ordering::SeqCst));
            std::thread::sleep(stall);
        }
        answers
    }

    async fn wait(&self, wait: Wait) -> Answer {
        self.waits.fetch_add(1, Ordering::SeqCst);
        match self.unavailable() {
            Some(answer) => answer,
            None => self.inner.wait(wait).await,
        }
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.inner.inspect(key).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.inner.list(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.inner.search(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.inner.stored(key).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.inner.resolve(resolve).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let swept = self.inner.sweep(limit).await?;
        let mut counts = self.counts.lock().unwrap();
        *counts.entry("sweep").or_default() += 1;
        *counts.entry("swept").or_default() += swept.expired as u64;
        Ok(swept)
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.inner.ready().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
