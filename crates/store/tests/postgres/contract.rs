//! The contract suite, and random sequences against the model.

use crate::clock::{until_waiting, Clock};
use crate::common::START;
use crate::model::{play, step, Step, Subject};
use crate::server::Database;
use crate::suite::holds_on;
use idempotency_store::contract::Harness;
use idempotency_store::{Memory, Postgres, Store};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Real time, and several instances that take turns, case by case.
struct RealTime {
    stores: Vec<Arc<Postgres>>,
    turn: AtomicUsize,
}

#[async_trait::async_trait]
impl Harness for RealTime {
    async fn store(&self) -> Arc<dyn Store> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.stores[turn % self.stores.len()]) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    async fn waiting(&self, count: usize) {
        let all = || self.stores.iter().map(|s| s.waiting()).sum::<usize>();
        while all() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_real_time() {
    let database = Database::new().await;
    let stores = vec![database.open().await, database.open().await];
    let turn = AtomicUsize::new(0);
    holds_on("PostgreSQL", &RealTime { stores, turn }).await;
}

struct MovedTime {
    store: Arc<Postgres>,
    clock: Clock,
}

#[async_trait::async_trait]
impl Harness for MovedTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by).await;
    }

    async fn waiting(&self, count: usize) {
        until_waiting(&self.store, count).await;
    }
}

/// With one connection for everything: nothing waits for a second one.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_moved_clock_and_one_connection() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open_with(|options| options.pool_size = 1).await;
    holds_on("PostgreSQL, moved clock", &MovedTime { store, clock }).await;
}

struct InDatabase {
    database: Database,
    clock: Clock,
    store: Arc<Postgres>,
}

#[async_trait::async_trait]
impl Subject for InDatabase {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms)).await;
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = self.database.open().await;
    }

    fn counts(&self) -> bool {
        false
    }
}

async fn compare(sequences: Vec<Vec<Step>>) -> Result<(), TestCaseError> {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let mut subject = InDatabase {
        database,
        clock,
        store,
    };
    for steps in sequences {
        let client = subject.database.client().await;
        client
            .batch_execute("TRUNCATE idempotency_records")
            .await
            .unwrap();
        let model = Memory::new(subject.clock.model.clone());
        play(steps, &model, &mut subject).await?;
    }
    Ok(())
}

proptest! {
    // A few databases, many sequences in each: making a database takes longer than a sequence.
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_database_does_what_the_model_does(
        sequences in prop::collection::vec(prop::collection::vec(step(), 1..60), 12)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(compare(sequences))?;
    }
}
