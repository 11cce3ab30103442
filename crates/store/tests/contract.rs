//! The contract suite over the backends that need nothing but this process.

#[path = "common/suite.rs"]
mod suite;

use idempotency_store::clock::{Clock, ManualClock, SystemClock};
use idempotency_store::contract::{Harness, ManualHarness};
use idempotency_store::{Durability, Embedded, EmbeddedOptions, Memory, Store};
use std::sync::Arc;
use std::time::Duration;
use suite::holds_on;

/// November 2023, in microseconds.
const START: u64 = 1_700_000_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let clock = Arc::new(ManualClock::at(START));
    let store = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>);
    holds_on("Memory", &ManualHarness::new(store, clock, Memory::waiting)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let store = Embedded::open_with_clock(EmbeddedOptions::new(dir.path()), |_| manual).unwrap();
    let harness = ManualHarness::new(store, clock, Embedded::waiting);
    holds_on("Embedded", &harness).await;
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
    let harness = ManualHarness::new(store, clock, Embedded::waiting);
    holds_on("Embedded, relaxed", &harness).await;
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
    let harness = RealTime(Arc::new(Memory::new(clock)));
    holds_on("Memory, real time", &harness).await;
}

#[test]
fn the_page_of_the_documentation_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/contract.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == suite::page(),
        "docs/contract.md is stale: cargo run -q -p idempotency-store --example contract_table \
         page > docs/contract.md"
    );
}

#[test]
fn no_two_cases_have_one_name() {
    let names = idempotency_store::contract::names();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}
