//! What one tenant may have, on the backends that count it.

mod common;

use common::{acquire, complete, completed, fail, granted, key, one, START, TTL_MS};
use idempotency_protocol::{Acquire, Answer, FaultCode, LookupKey, Operation};
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::{Embedded, EmbeddedOptions, Memory, Quotas, Resolution, Resolve, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

async fn memory(quotas: Quotas, clock: &Arc<ManualClock>) -> Arc<dyn Store> {
    let store = Memory::new(Arc::clone(clock) as Arc<dyn Clock>);
    store.set_quotas(quotas).await.unwrap();
    Arc::new(store)
}

fn embedded(dir: &Path, quotas: Quotas, clock: &Arc<ManualClock>) -> Arc<dyn Store> {
    let mut options = EmbeddedOptions::new(dir);
    options.quotas = quotas;
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Arc::new(Embedded::open_with_clock(options, |_| clock).unwrap())
}

async fn refused(store: &dyn Store, operation: Operation) {
    match one(store, operation).await {
        Answer::Fault(fault) => assert_eq!(fault.code, FaultCode::Quota, "{fault}"),
        other => panic!("{other:?}"),
    }
}

/// The same for another tenant.
fn of_another(operation: Operation) -> Operation {
    let Operation::Acquire(acquire) = operation else {
        panic!("{operation:?}");
    };
    Operation::Acquire(Acquire {
        key: LookupKey {
            tenant: "other".into(),
            ..acquire.key
        },
        ..acquire
    })
}

async fn executing(store: &dyn Store, clock: &ManualClock) {
    granted(store, "a", 1).await;
    granted(store, "b", 1).await;
    refused(store, acquire("c", 1)).await;
    let answer = one(store, of_another(acquire("c", 1))).await;
    assert!(matches!(answer, Answer::Granted(_)), "{answer:?}");
    // The same acquire again is no new record.
    granted(store, "a", 1).await;
    // What ends makes room, however it ends.
    completed(store, "a", 1, b"done").await;
    granted(store, "c", 1).await;
    refused(store, acquire("d", 1)).await;
    assert_eq!(one(store, fail("c", 1)).await, Answer::Failed);
    granted(store, "d", 1).await;
    // A key that has a record may be executed again; replays go on.
    granted(store, "c", 2).await;
    let replayed = one(store, acquire("a", 3)).await;
    assert!(matches!(replayed, Answer::Stored(_)), "{replayed:?}");
    refused(store, acquire("e", 1)).await;
    // Nobody ended them: their leases did, and a sweep noticed.
    clock.advance(Duration::from_secs(61));
    store.sweep(100).await.unwrap();
    granted(store, "e", 1).await;
}

async fn records(store: &dyn Store, clock: &ManualClock) {
    for name in ["a", "b"] {
        granted(store, name, 1).await;
        completed(store, name, 1, b"done").await;
    }
    refused(store, acquire("c", 1)).await;
    // An operator's delete makes room, and so does a TTL, once it was swept.
    let record = store.inspect(&key("a")).await.unwrap().unwrap();
    let resolve = Resolve {
        key: key("a"),
        version: record.version,
        to: Resolution::Deleted,
        force: false,
    };
    store.resolve(resolve).await.unwrap();
    granted(store, "c", 1).await;
    refused(store, acquire("d", 1)).await;
    completed(store, "c", 1, b"done").await;
    clock.advance(Duration::from_millis(TTL_MS + 1));
    store.sweep(100).await.unwrap();
    granted(store, "d", 1).await;
    // A mark alone is no record.
    assert_eq!(one(store, fail("mark", 1)).await, Answer::Marked);
    granted(store, "e", 1).await;
    refused(store, acquire("f", 1)).await;
}

async fn bytes(store: &dyn Store, _: &ManualClock) {
    granted(store, "a", 1).await;
    granted(store, "b", 1).await;
    // An execution that was granted is recorded whole, however large.
    let large = vec![7; 20_000];
    completed(store, "a", 1, &large).await;
    refused(store, acquire("c", 1)).await;
    let done = one(store, complete("b", 1, &large)).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
    match one(store, acquire("b", 2)).await {
        Answer::Stored(stored) => assert_eq!(stored.outcome, common::response(&large)),
        other => panic!("{other:?}"),
    }
    for name in ["a", "b"] {
        let record = store.inspect(&key(name)).await.unwrap().unwrap();
        let resolve = Resolve {
            key: key(name),
            version: record.version,
            to: Resolution::Deleted,
            force: false,
        };
        store.resolve(resolve).await.unwrap();
    }
    granted(store, "c", 1).await;
}

#[tokio::test]
async fn quotas_of_executions() {
    let quotas = Quotas {
        executions: Some(2),
        ..Quotas::default()
    };
    let (dir, clock) = (
        tempfile::tempdir().unwrap(),
        Arc::new(ManualClock::at(START)),
    );
    executing(&*memory(quotas, &clock).await, &clock).await;
    executing(&*embedded(dir.path(), quotas, &clock), &clock).await;
}

#[tokio::test]
async fn quotas_of_records() {
    let quotas = Quotas {
        records: Some(2),
        ..Quotas::default()
    };
    let (dir, clock) = (
        tempfile::tempdir().unwrap(),
        Arc::new(ManualClock::at(START)),
    );
    records(&*memory(quotas, &clock).await, &clock).await;
    records(&*embedded(dir.path(), quotas, &clock), &clock).await;
}

#[tokio::test]
async fn quotas_of_bytes() {
    let quotas = Quotas {
        bytes: Some(10_000),
        ..Quotas::default()
    };
    let (dir, clock) = (
        tempfile::tempdir().unwrap(),
        Arc::new(ManualClock::at(START)),
    );
    bytes(&*memory(quotas, &clock).await, &clock).await;
    bytes(&*embedded(dir.path(), quotas, &clock), &clock).await;
}

/// What is counted in memory is counted anew at a start, also what was stored without a quota.
#[tokio::test]
async fn a_restart_counts_what_is_there() {
    let (dir, clock) = (
        tempfile::tempdir().unwrap(),
        Arc::new(ManualClock::at(START)),
    );
    let store = embedded(dir.path(), Quotas::default(), &clock);
    granted(&*store, "a", 1).await;
    granted(&*store, "b", 1).await;
    completed(&*store, "b", 1, b"done").await;
    drop(store);
    let quotas = Quotas {
        executions: Some(2),
        records: Some(3),
        ..Quotas::default()
    };
    let store = embedded(dir.path(), quotas, &clock);
    granted(&*store, "c", 1).await;
    refused(&*store, acquire("d", 1)).await;
    completed(&*store, "a", 1, b"done").await;
    refused(&*store, acquire("d", 1)).await;
}
