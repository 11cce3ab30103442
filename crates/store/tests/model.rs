//! The embedded store against the model: the same random sequences, the same answers.

#[path = "common/model.rs"]
mod model;

use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::{Durability, Embedded, EmbeddedOptions, Memory, Store};
use model::{play, step, Step, Subject};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct OnDisk {
    dir: TempDir,
    clock: Arc<ManualClock>,
    store: Option<Arc<Embedded>>,
}

impl OnDisk {
    fn open(&mut self) {
        let manual = Arc::clone(&self.clock) as Arc<dyn Clock>;
        // The fsync itself is not what is compared here.
        let durability = Durability::Relaxed {
            interval: Duration::from_secs(60),
        };
        let options = EmbeddedOptions {
            durability,
            ..EmbeddedOptions::new(self.dir.path())
        };
        self.store = Some(Arc::new(
            Embedded::open_with_clock(options, |_| manual).unwrap(),
        ));
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
        self.store = None;
        self.open();
    }

    fn counts(&self) -> bool {
        true
    }
}

async fn compare(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
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
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(steps))?;
    }
}
