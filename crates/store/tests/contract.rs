//! The contract suite over the backends that need nothing but this process.

use idempotency_store::clock::{Clock, ManualClock, SystemClock};
use idempotency_store::contract::{run, Harness, ManualHarness};
use idempotency_store::{Durability, Embedded, EmbeddedOptions, Memory, Store};
use std::sync::Arc;
use std::time::Duration;

/// November 2023, in microseconds.
const START: u64 = 1_700_000_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let clock = Arc::new(ManualClock::at(START));
    let store = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let cases = run(&ManualHarness::new(store, clock, Memory::waiting))
        .await
        .unwrap();
    assert!(cases > 200, "only {cases} cases");
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let store = Embedded::open_with_clock(EmbeddedOptions::new(dir.path()), |_| manual).unwrap();
    run(&ManualHarness::new(store, clock, Embedded::waiting))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_relaxed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let durability = Durability::Relaxed {
        interval: Duration::from_millis(20),
    };
    let options = EmbeddedOptions {
        durability,
        ..EmbeddedOptions::new(dir.path())
    };
    let store = Embedded::open_with_clock(options, |_| manual).unwrap();
    run(&ManualHarness::new(store, clock, Embedded::waiting))
        .await
        .unwrap();
}

/// A store whose clock cannot be moved, as a store on another machine is.
struct RealTime(Arc<Memory>);

#[async_trait::async_trait]
impl Harness for RealTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    async fn waiting(&self, count: usize) {
        while self.0.waiting() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_in_real_time() {
    let clock = Arc::new(SystemClock::starting_after(0));
    run(&RealTime(Arc::new(Memory::new(clock)))).await.unwrap();
}
