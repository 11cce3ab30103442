//! The contract suite, on sealed stores.

use crate::common::START;
use crate::lab::ring;
use crate::suite::holds_on;
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::contract::Harness;
use idempotency_store::{Embedded, EmbeddedOptions, Memory, Sealed, Store};
use std::sync::Arc;
use std::time::Duration;

struct Moved {
    store: Arc<Sealed>,
    clock: Arc<ManualClock>,
}

#[async_trait::async_trait]
impl Harness for Moved {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn hands_out_records(&self) -> bool {
        false
    }

    async fn waiting(&self, count: usize) {
        while self.store.waits().now < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn holds(name: &str, inner: Arc<dyn Store>, clock: Arc<ManualClock>) {
    // With an older key, as after a rotation.
    let store = Sealed::open(inner, ring(&["new", "old"])).await.unwrap();
    let store = Arc::new(store);
    holds_on(name, &Moved { store, clock }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let clock = Arc::new(ManualClock::at(START));
    let inner = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>);
    holds("Memory, encrypted", Arc::new(inner), clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let inner = Embedded::open_with_clock(EmbeddedOptions::new(dir.path()), |_| manual).unwrap();
    holds("Embedded, encrypted", Arc::new(inner), clock).await;
}

/// Two instances on one set of records, as two processes have them.
struct RealTime {
    stores: [Arc<Sealed>; 2],
}

impl RealTime {
    async fn on(inner: [Arc<dyn Store>; 2]) -> RealTime {
        let ring = ring(&["new", "old"]);
        let [a, b] = inner;
        let a = Sealed::open(a, Arc::clone(&ring)).await.unwrap();
        let b = Sealed::open(b, ring).await.unwrap();
        RealTime {
            stores: [Arc::new(a), Arc::new(b)],
        }
    }
}

#[async_trait::async_trait]
impl Harness for RealTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.stores[0]) as Arc<dyn Store>
    }

    async fn other(&self) -> Arc<dyn Store> {
        Arc::clone(&self.stores[1]) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn hands_out_records(&self) -> bool {
        false
    }

    async fn waiting(&self, count: usize) {
        let all = || self.stores.iter().map(|s| s.waits().now).sum::<usize>();
        while all() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    let server = crate::files::redis();
    let open = || async { Arc::new(server.open().await) as Arc<dyn Store> };
    let harness = RealTime::on([open().await, open().await]).await;
    holds_on("Redis, encrypted", &harness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let database = crate::files::Database::new().await;
    let open = || async { Arc::new(database.open().await) as Arc<dyn Store> };
    let harness = RealTime::on([open().await, open().await]).await;
    holds_on("PostgreSQL, encrypted", &harness).await;
}
