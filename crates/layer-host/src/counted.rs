//! The store, with a count of the calls that are out: cases wait for one to be on its way.

use async_trait::async_trait;
use idempotency::remote::Remote;
use idempotency::store::search::{Found, Search};
use idempotency::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use idempotency_protocol::{Answer, LookupKey, Operation, Outcome, Wait};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Counts what is out.
pub struct Counted {
    store: Remote,
    out: Arc<AtomicU64>,
}

impl Counted {
    pub fn new(store: Remote) -> (Counted, Arc<AtomicU64>) {
        let out = Arc::<AtomicU64>::default();
        let counted = Counted {
            store,
            out: Arc::clone(&out),
        };
        (counted, out)
    }
}

/// A call, as long as it is out.
struct Out<'a>(&'a AtomicU64);

impl Out<'_> {
    fn new(out: &AtomicU64) -> Out<'_> {
        out.fetch_add(1, Ordering::Relaxed);
        Out(out)
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Counted {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let _out = Out::new(&self.out);
        self.store.apply(operations).await
    }

    async fn wait(&self, wait: Wait) -> Answer {
        let _out = Out::new(&self.out);
        self.store.wait(wait).await
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.store.inspect(key).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.store.list(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.store.search(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.store.stored(key).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.store.resolve(resolve).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        self.store.sweep(limit).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.store.ready().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
