//! The example backend is a backend: the contract suite holds on it, and what was acknowledged is
//! there when it is opened again.

mod common;
#[path = "../examples/backend/journal.rs"]
mod journal;
#[path = "common/model.rs"]
mod model;
#[path = "../examples/backend/store.rs"]
mod store;

use common::{acquire, complete, completed, granted, one, response, START};
use idempotency_protocol::Answer;
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::contract::{names, run, ManualHarness};
use idempotency_store::{Memory, Store, StoreError};
use model::{play, step, Step, Subject};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::FileStore;
use tempfile::TempDir;

fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<FileStore, StoreError> {
    FileStore::open(dir, |_| Arc::clone(clock) as Arc<dyn Clock>)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open(dir.path(), &clock).unwrap();
    let harness = ManualHarness::new(store, clock, |store| store.waits().now);
    assert_eq!(run(&harness).await, Ok(names().len()));
    assert!(names().len() > 200);
}

#[tokio::test]
async fn a_torn_end_is_left_out_and_damage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open(dir.path(), &clock).unwrap();
    assert!(open(dir.path(), &clock).is_err(), "two at the same time");
    for name in ["small", "large"] {
        granted(&store, name, 1).await;
    }
    completed(&store, "small", 1, b"x").await;
    let large = vec![7; 100_000];
    completed(&store, "large", 1, &large).await;
    let file = dir.path().join("records");
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(
        one(&store, acquire("torn", 1)).await,
        Answer::Granted(_)
    ));
    drop(store);
    let whole = std::fs::read(&file).unwrap();

    for end in [before.len() + 4, whole.len() - 1] {
        std::fs::write(&file, &whole[..end]).unwrap();
        let store = open(dir.path(), &clock).unwrap();
        for (name, body) in [("small", b"x".as_slice()), ("large", &large)] {
            match one(&store, acquire(name, 2)).await {
                Answer::Stored(stored) => assert_eq!(stored.outcome, response(body)),
                other => panic!("{name}: {other:?}"),
            }
        }
        let lost = one(&store, complete("torn", 1, b"x")).await;
        assert_eq!(lost, Answer::Lost, "cut off at {end}");
    }

    let mut bad = whole.clone();
    bad[before.len() - 1] ^= 1;
    std::fs::write(&file, bad).unwrap();
    let refused = open(dir.path(), &clock).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("damaged"), "{refused}");
}

struct OnDisk {
    dir: TempDir,
    clock: Arc<ManualClock>,
    store: Option<Arc<FileStore>>,
}

impl OnDisk {
    fn open(&mut self) {
        // The one before holds the lock.
        self.store = None;
        self.store = Some(Arc::new(open(self.dir.path(), &self.clock).unwrap()));
    }
}

#[async_trait::async_trait]
impl Subject for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    async fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    async fn reopen(&mut self) {
        self.open();
    }

    fn counts(&self) -> bool {
        true
    }
}

async fn compare(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = Arc::new(ManualClock::at(START));
    let model = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let mut subject = OnDisk {
        dir: tempfile::tempdir().unwrap(),
        clock,
        store: None,
    };
    subject.open();
    play(steps, &model, &mut subject).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(steps))?;
    }
}
