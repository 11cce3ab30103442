//! Records that this release cannot read whole, because a later one wrote them or because they are damaged.

use crate::clock::Clock;
use crate::common::*;
use crate::server::Database;
use idempotency_protocol::{Answer, FaultCode, Operation, Owner, Settle, Settlement, Wait};
use idempotency_store::{ListFilter, Resolution, Resolve, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;

const NAMES: [&str; 4] = ["executing", "completed", "failed", "unknown"];

/// What changes a record into one of a later release; what a damaged one looks like.
const STRANGE: [&str; 4] = [
    "format = 2",
    "history = set_byte(history, 0, 2)",
    "history = history || '\\x00'",
    "marks = '\\x00'",
];

async fn rows(database: &Database) -> Vec<String> {
    let client = database.client().await;
    // That somebody waits is noted beside the record.
    let rows = "SELECT (to_jsonb(r) - 'waited_until')::text FROM idempotency_records r
        WHERE id <> $1 ORDER BY id";
    let fine = key("fine").to_bytes();
    let rows = client.query(rows, &[&fine]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_neither_granted_nor_rewritten() {
    for strange in STRANGE {
        let database = Database::new().await;
        let clock = Clock::install(&database, START).await;
        let store = database.open().await;
        let store = store.as_ref();
        let mut fences = Vec::new();
        for name in NAMES {
            fences.push((name, granted(store, name, 1).await.fence));
        }
        completed(store, "completed", 1, b"x").await;
        one(store, fail("failed", 1)).await;
        one(store, abandon("unknown", 1)).await;
        let client = database.client().await;
        let update = format!("UPDATE idempotency_records SET {strange}");
        client.batch_execute(&update).await.unwrap();
        granted(store, "fine", 1).await;
        let before = rows(&database).await;
        assert_eq!(before.len(), 4);

        for (name, fence) in &fences {
            let settle = Operation::Settle(Settle {
                key: key(name),
                fence: *fence,
                settlement: Settlement::Completed(response(b"y")),
            });
            let extend = Operation::Extend {
                key: key(name),
                owner: Owner([1; 16]),
                lease_ms: 60_000,
            };
            // A complete takes a way of its own, unless it comes with others; so do acquires.
            assert_eq!(
                one(store, acquire(name, 2)).await,
                Answer::NotComparable,
                "{strange}: {name}"
            );
            if !(strange.starts_with("history = history") || strange.starts_with("marks")) {
                is_illegible(one(store, complete(name, 1, b"z")).await, strange, name);
            }
            let asked = vec![
                acquire(name, 1),
                fail(name, 1),
                fail(name, 9),
                abandon(name, 1),
                extend,
                settle,
                complete(name, 1, b"y"),
                acquire("fine", 1),
            ];
            let mut answers = store.apply(asked).await;
            let fine = answers.pop().unwrap();
            assert!(matches!(fine, Answer::Granted(_)), "{fine:?}");
            assert_eq!(answers.remove(0), Answer::NotComparable);
            for answer in answers {
                is_illegible(answer, strange, name);
            }
            let wait = Wait {
                key: key(name),
                fingerprint: fingerprint(),
                fence: *fence,
                wait_ms: 10,
            };
            assert_eq!(store.wait(wait).await, Answer::Changed);
            let looked = store.inspect(&key(name)).await;
            assert!(
                matches!(looked, Err(StoreError::Permanent(_))),
                "{looked:?}"
            );
            let resolve = Resolve {
                key: key(name),
                version: *fence,
                to: Resolution::Deleted,
                force: true,
            };
            let resolved = store.resolve(resolve).await;
            assert!(
                matches!(resolved, Err(StoreError::Permanent(_))),
                "{resolved:?}"
            );
        }
        let page = store.list(ListFilter {
            limit: 10,
            ..ListFilter::default()
        });
        let listed: Vec<String> = page
            .await
            .unwrap()
            .records
            .into_iter()
            .map(|r| r.key.key)
            .collect();
        assert_eq!(listed, ["fine"], "{strange}");
        assert_eq!(rows(&database).await, before, "{strange}");
        // What has an end is swept where it is the format that this release knows, and else stays.
        clock.advance(Duration::from_millis(3 * TTL_MS)).await;
        while store.sweep(100).await.unwrap().more {}
        if strange.starts_with("format") || strange.contains("set_byte") {
            assert_eq!(rows(&database).await, before, "{strange}");
        }
    }
}

fn is_illegible(answer: Answer, strange: &str, name: &str) {
    match answer {
        Answer::Fault(fault) if fault.code == FaultCode::Internal => {}
        other => panic!("{strange}: {name}: {other:?}"),
    }
}

/// Done, and nobody can say any more with which answer: that is told, and never executed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_outcome_is_told_as_unreadable() {
    let database = Database::new().await;
    let store = database.open().await;
    let grant = granted(store.as_ref(), "k", 1).await;
    completed(store.as_ref(), "k", 1, b"x").await;
    let client = database.client().await;
    client
        .batch_execute("UPDATE idempotency_records SET outcome = '\\x0102'")
        .await
        .unwrap();
    let is_unreadable = |answer: Answer| match answer {
        Answer::Unreadable { status, fence, .. } => (status, fence) == (201, grant.fence),
        _ => false,
    };
    assert!(is_unreadable(one(store.as_ref(), acquire("k", 2)).await));
    let wait = Wait {
        key: key("k"),
        fingerprint: fingerprint(),
        fence: grant.fence,
        wait_ms: 10,
    };
    assert!(is_unreadable(store.wait(wait).await));
    // A mark beside it leaves it as it is.
    assert_eq!(one(store.as_ref(), fail("k", 3)).await, Answer::Refused);
    assert!(is_unreadable(one(store.as_ref(), acquire("k", 2)).await));
}

/// What people search by stands in a column of its own, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_is_kept_with_its_attempt() {
    let database = Database::new().await;
    let store = database.open().await;
    let client = database.client().await;
    let described = |name: &str, owner: u8, path: &str| {
        let mut operation = acquire(name, owner);
        if let Operation::Acquire(acquire) = &mut operation {
            acquire.about = Some(Arc::new(idempotency_protocol::About {
                method: "POST".into(),
                path: path.into(),
                ..idempotency_protocol::About::default()
            }));
        }
        operation
    };
    let found = |path: &'static str| {
        let client = &client;
        async move {
            let find = "SELECT id FROM idempotency_records WHERE about @> jsonb_build_object('path', $1::text)
                AND about ->> 'method' = 'POST' AND position('/charges' IN history::text) = 0";
            let rows = client.query(find, &[&path]).await.unwrap();
            rows.iter()
                .map(|row| row.get::<_, Vec<u8>>(0))
                .collect::<Vec<_>>()
        }
    };
    one(store.as_ref(), described("k", 1, "/charges\u{0}1")).await;
    assert_eq!(found("/charges\u{fffd}1").await, [key("k").to_bytes()]);
    // Every change of the attempt leaves it.
    let extend = Operation::Extend {
        key: key("k"),
        owner: Owner([1; 16]),
        lease_ms: 60_000,
    };
    one(store.as_ref(), extend).await;
    one(store.as_ref(), fail("k", 1)).await;
    assert_eq!(found("/charges\u{fffd}1").await.len(), 1);
    // The next attempt has another one, also by the way of a batch.
    one(store.as_ref(), described("k", 2, "/charges/2")).await;
    assert_eq!(found("/charges\u{fffd}1").await.len(), 0);
    assert_eq!(found("/charges/2").await.len(), 1);
    completed(store.as_ref(), "k", 2, b"x").await;
    assert_eq!(found("/charges/2").await.len(), 1);
    let both = vec![described("l", 1, "/charges/3"), acquire("l", 2)];
    store.apply(both).await;
    assert_eq!(found("/charges/3").await, [key("l").to_bytes()]);
}
