//! What the suite needs from a backend besides the store itself.

use crate::clock::ManualClock;
use crate::store::Store;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// A backend under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store.
    async fn store(&self) -> Arc<dyn Store>;

    /// Another instance on the same records, as another process has it; for a backend of one
    /// process the same one. A new one, or always the same.
    async fn other(&self) -> Arc<dyn Store> {
        self.store().await
    }

    /// Lets at least that much store time pass: moves the clock, or waits.
    async fn advance(&self, by: Duration);

    /// Whether the store hands whole records out ([`Store::export`]): so does every backend that can be encrypted. One
    /// that does not must say so.
    fn hands_out_records(&self) -> bool {
        true
    }

    /// Returns when at least `count` waits are registered in all instances, or when they must be.
    async fn waiting(&self, count: usize);
}

/// A harness for stores in this process that run on a [`ManualClock`].
pub struct ManualHarness<S> {
    store: Arc<S>,
    clock: Arc<ManualClock>,
    waiting: fn(&S) -> usize,
}

impl<S: Store> ManualHarness<S> {
    /// `waiting` tells how many waits are registered: `|store| store.waits().now`.
    pub fn new(store: S, clock: Arc<ManualClock>, waiting: fn(&S) -> usize) -> ManualHarness<S> {
        ManualHarness {
            store: Arc::new(store),
            clock,
            waiting,
        }
    }
}

#[async_trait]
impl<S: Store> Harness for ManualHarness<S> {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn waiting(&self, count: usize) {
        while (self.waiting)(&self.store) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
