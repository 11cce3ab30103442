//! A store that can be held up: calls of `apply` wait at a gate.

use async_trait::async_trait;
use idempotency_protocol::{Answer, LookupKey, Operation, Outcome, Wait};
use idempotency_store::search::{Found, Search};
use idempotency_store::{
    ListFilter, Memory, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
    WaitCounts,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use tokio::sync::watch;

pub struct Gate {
    inner: Memory,
    shut: watch::Sender<bool>,
    pub arrived: AtomicUsize,
    pub broken: AtomicBool,
}

impl Gate {
    pub fn new() -> Arc<Gate> {
        Arc::new(Gate {
            inner: Memory::default(),
            shut: watch::Sender::new(false),
            arrived: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        })
    }

    /// Calls that arrive from now on wait.
    pub fn shut(&self) {
        self.shut.send_replace(true);
    }

    pub fn open(&self) {
        self.shut.send_replace(false);
    }

    pub fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for Gate {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let _ = self.shut.subscribe().wait_for(|shut| !shut).await;
        self.inner.apply(operations).await
    }

    async fn wait(&self, wait: Wait) -> Answer {
        self.inner.wait(wait).await
    }

    fn waits(&self) -> WaitCounts {
        self.inner.waits()
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
        self.inner.sweep(limit).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Transient("the disk has left".into()));
        }
        self.inner.ready().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
