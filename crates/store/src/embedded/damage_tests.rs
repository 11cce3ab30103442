//! Records that cannot be read, and those of the first releases.

use super::engine::Engine;
use super::{Embedded, EmbeddedOptions};
use crate::history::History;
use crate::store::{ListFilter, Store};
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Complete, FailCause, Fingerprint, LookupKey, OnUnknown,
    Operation, Origin, Outcome, Owner, Retention, Scheme, StoredResponse,
};
use tempfile::TempDir;

fn key(name: &str) -> LookupKey {
    LookupKey {
        tenant: String::new(),
        namespace: String::new(),
        origin: Origin::Client,
        key: name.into(),
    }
}

fn acquire(name: &str, owner: u8) -> Operation {
    Operation::Acquire(Acquire {
        key: key(name),
        owner: Owner([owner; 16]),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        },
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: 60_000,
            unknown_ttl_ms: 60_000,
        },
        on_unknown: OnUnknown::Retry,
        kind: AttemptKind::Gateway,
        about: None,
    })
}

fn complete(name: &str, owner: u8, size: usize) -> Operation {
    Operation::Complete(Complete {
        key: key(name),
        owner: Owner([owner; 16]),
        outcome: Outcome::Response(StoredResponse {
            status: 201,
            headers: Vec::new(),
            body: vec![b'x'; size].into(),
        })
        .into(),
    })
}

fn open(dir: &TempDir) -> Embedded {
    Embedded::open(EmbeddedOptions::new(dir.path())).unwrap()
}

async fn one(store: &Embedded, operation: Operation) -> Answer {
    store.apply(vec![operation]).await.remove(0)
}

/// A store in which `done` was completed with a body of that size; then the change on disk.
async fn changed(size: usize, change: impl FnOnce(&Engine, &[u8])) -> (TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for name in ["done", "other"] {
        let granted = one(&store, acquire(name, 1)).await;
        assert!(matches!(granted, Answer::Granted(_)), "{granted:?}");
        let completed = one(&store, complete(name, 1, size)).await;
        assert!(
            matches!(completed, Answer::Completed { .. }),
            "{completed:?}"
        );
    }
    store.close().await;
    drop(store);
    let (engine, _) = Engine::open(&EmbeddedOptions::new(dir.path())).unwrap();
    change(&engine, &key("done").to_bytes());
    drop(engine);
    let store = open(&dir);
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn done_with_a_body_that_is_lost_or_damaged_is_done_and_never_executed_again() {
    for body in [None, Some(&b"\xffdamaged"[..])] {
        let (_dir, store) = changed(10_000, |engine, key| engine.replace_body(key, body)).await;
        for owner in 2..4 {
            let answer = one(&store, acquire("done", owner)).await;
            assert!(
                matches!(answer, Answer::Unreadable { status: 201, .. }),
                "{answer:?}"
            );
        }
        let other = one(&store, acquire("other", 2)).await;
        assert!(matches!(other, Answer::Stored(_)), "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_never_granted_or_rewritten_and_hides_no_other() {
    for bytes in [&b"\x09later"[..], b"", b"\x02cut"] {
        let (dir, store) = changed(10, |engine, key| engine.replace_record(key, bytes)).await;
        let granted = one(&store, acquire("done", 2)).await;
        assert_eq!(granted, Answer::NotComparable);
        let fail = Operation::Fail {
            key: key("done"),
            owner: Owner([1; 16]),
            cause: FailCause::Other,
        };
        for operation in [complete("done", 1, 5), fail] {
            let answer = one(&store, operation).await;
            assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
        }
        store.sweep(100).await.unwrap();
        assert!(store.inspect(&key("done")).await.is_err());
        let filter = ListFilter {
            limit: 10,
            ..ListFilter::default()
        };
        let listed = store.list(filter).await.unwrap().records;
        assert_eq!(listed.len(), 1, "{listed:?}");
        store.close().await;
        drop(store);
        let (engine, _) = Engine::open(&EmbeddedOptions::new(dir.path())).unwrap();
        assert_eq!(engine.record(&key("done").to_bytes()), bytes);
    }
}

/// The form of the first releases is that of today without its history.
fn as_first_release(bytes: &[u8]) -> Vec<u8> {
    // Up to the history: format, version, fence, no marks, an execution with an owner, its
    // fingerprint, attempt, two retentions and two times.
    let head = 1 + 8 + 8 + 1 + 1 + 1 + 16 + 8 + 32 + 4 + 8 + 8 + 8 + 8;
    let mut rest = bytes::Bytes::copy_from_slice(&bytes[head..]);
    History::take(&mut rest).expect("a history");
    let mut old = bytes[..head].to_vec();
    old[0] = 1;
    old.extend_from_slice(&rest);
    old
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_first_releases_are_replayed() {
    let (_dir, store) = changed(10, |engine, key| {
        let old = as_first_release(&engine.record(key));
        engine.replace_record(key, &old);
    })
    .await;
    let answer = one(&store, acquire("done", 2)).await;
    let Answer::Stored(stored) = answer else {
        panic!("{answer:?}");
    };
    let Outcome::Response(response) = stored.outcome.into_outcome() else {
        panic!("a tombstone");
    };
    assert_eq!(
        (response.status, &response.body[..]),
        (201, &b"xxxxxxxxxx"[..])
    );
}
