//! The sweeper goes on without a pause while more is due.

use crate::support::*;
use idempotency_protocol::{Answer, Operation};
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::record::MARK_TTL_MS;
use idempotency_store::{Embedded, EmbeddedOptions, Store};
use std::sync::Arc;
use std::time::Duration;

/// November 2023, in microseconds.
const START: u64 = 1_700_000_000_000_000;

/// Slots that hold nothing but a mark are no records, and still they take up room.
#[tokio::test]
async fn marks_are_cleared_at_the_speed_of_records() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let store = Embedded::open_with_clock(EmbeddedOptions::new(dir.path()), |_| manual).unwrap();
    let empty = store.ready().await.unwrap().bytes;
    let fails = (0..500).map(|n| Operation::Fail {
        key: key(&format!("mark {n}")),
        owner: owner(),
        cause: Default::default(),
    });
    let answers = store.apply(fails.collect()).await;
    assert!(answers.iter().all(|answer| *answer == Answer::Marked));
    clock.advance(Duration::from_millis(MARK_TTL_MS + 1));

    let mut settings = settings();
    settings.sweep_batch = Some(10);
    // Only the first turn comes by itself while the test runs.
    settings.sweep_interval = Some("1h".parse().unwrap());
    let store = Arc::new(store);
    let server = TestServer::on(settings, Arc::clone(&store) as Arc<dyn Store>).await;
    eventually("all marks are gone", || async {
        store.ready().await.unwrap().bytes == empty
    })
    .await;
    assert_eq!(server.metric("idempotencyd_swept_expired_total").await, 0);
}
