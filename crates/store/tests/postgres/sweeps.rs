//! What is swept, by whom, and what stays.

use crate::clock::Clock;
use crate::common::*;
use crate::server::Database;
use idempotency_protocol::{Answer, LookupKey};
use idempotency_store::record::MARK_TTL_MS;
use idempotency_store::{ListFilter, Postgres, Quotas, RecordState, Store, Swept};
use std::sync::Arc;
use std::time::Duration;

async fn sweep_all(store: Arc<Postgres>) -> Swept {
    let mut total = Swept::default();
    loop {
        let swept = store.sweep(50).await.unwrap();
        total.expired += swept.expired;
        total.lapsed += swept.lapsed;
        if !swept.more {
            return total;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_work() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let stores = [database.open().await, database.open().await];
    let apply = |operations| stores[0].apply(operations);
    let names = |kind: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("{kind}{n}")).collect()
    };
    for chunk in names("done", 1_000).chunks(100) {
        apply(chunk.iter().map(|n| acquire(n, 1)).collect()).await;
        apply(chunk.iter().map(|n| complete(n, 1, b"x")).collect()).await;
    }
    clock.advance(Duration::from_millis(TTL_MS - 5_000)).await;
    for chunk in names("lapsed", 200).chunks(100) {
        apply(chunk.iter().map(|n| acquire_for(n, 1, 1_000)).collect()).await;
    }
    apply(names("live", 50).iter().map(|n| acquire(n, 1)).collect()).await;
    clock.advance(Duration::from_secs(6)).await;

    let begin = Arc::new(tokio::sync::Barrier::new(2));
    let [own, others] = stores.clone().map(|store| {
        let begin = Arc::clone(&begin);
        tokio::spawn(async move {
            begin.wait().await;
            sweep_all(store).await
        })
    });
    let (own, others) = (own.await.unwrap(), others.await.unwrap());
    // One of them may have found the other's rows locked and gone; what is left is little.
    let rest = sweep_all(Arc::clone(&stores[0])).await;
    println!("{own:?} {others:?} {rest:?}");
    assert_eq!(own.expired + others.expired + rest.expired, 1_000);
    assert_eq!(own.lapsed + others.lapsed + rest.lapsed, 200);

    let client = database.client().await;
    let count = "SELECT state, count(*) FROM idempotency_records GROUP BY 1 ORDER BY 1";
    let rows = client.query(count, &[]).await.unwrap();
    let counts: Vec<(&str, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(counts, [("executing", 50), ("unknown", 200)]);
}

/// Rows of which only marks are left are no records, and still are something to do; also where
/// tenants are counted, which takes two statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_counts_rows_that_hold_no_record() {
    for executions in [None, Some(1_000)] {
        let database = Database::new().await;
        let clock = Clock::install(&database, START).await;
        let store = database.open().await;
        let quotas = Quotas {
            executions,
            ..Quotas::default()
        };
        store.set_quotas(quotas).await.unwrap();
        let marks = (0..60).map(|n| fail(&format!("k{n}"), 1)).collect();
        store.apply(marks).await;
        granted_for(store.as_ref(), "lapsed", 1, 10).await;
        clock.advance(Duration::from_millis(MARK_TTL_MS + 1)).await;
        let (mut slots, mut lapsed) = (0, 0);
        loop {
            let swept = store.sweep(20).await.unwrap();
            assert!(swept.slots <= 20, "{swept:?}");
            assert_eq!(swept.expired, 0, "{swept:?}");
            slots += swept.slots;
            lapsed += swept.lapsed;
            if !swept.again() {
                break;
            }
        }
        assert_eq!((slots, lapsed), (61, 1));
    }
}

/// A sweep passes over what somebody else is at.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_does_not_hold_up_a_sweep() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    for name in ["locked", "free"] {
        granted_for(store.as_ref(), name, 1, 10).await;
    }
    clock.advance(Duration::from_secs(1)).await;
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let lock = "SELECT * FROM idempotency_records ORDER BY id DESC LIMIT 1 FOR UPDATE";
    transaction.query(lock, &[]).await.unwrap();
    assert_eq!(store.sweep(100).await.unwrap().lapsed, 1);
    transaction.rollback().await.unwrap();
    assert_eq!(store.sweep(100).await.unwrap().lapsed, 1);
    let state = store.inspect(&key("locked")).await.unwrap().unwrap().state;
    assert_eq!(state, RecordState::Unknown);
}

/// The record is forgotten and the server's clock set back by an hour: fences grow all the same.
#[tokio::test(flavor = "multi_thread")]
async fn fences_grow_over_a_clock_that_is_set_back() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let first = granted(store.as_ref(), "k", 1).await;
    completed(store.as_ref(), "k", 1, b"x").await;
    clock.advance(Duration::from_millis(TTL_MS + 1)).await;
    while store.sweep(10).await.unwrap().more {}
    clock.set_back(3_600).await;
    let second = granted(store.as_ref(), "k", 2).await;
    assert!(second.fence > first.fence, "{second:?} after {first:?}");
    assert_eq!(second.attempt, 1);
    // By the way of a batch, too, where the state machine grants.
    let answers = store
        .apply(vec![acquire("new", 1), acquire("new", 2)])
        .await;
    match answers.as_slice() {
        [Answer::Granted(grant), Answer::InFlight { .. }] => {
            assert!(grant.fence > first.fence, "{grant:?} after {first:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Keys that are too long for an index are keys like any others.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_keys_are_told_apart() {
    let database = Database::new().await;
    let store = database.open().await;
    let long = |tenant: &str, end: &str| LookupKey {
        tenant: tenant.repeat(1_024),
        namespace: "n".repeat(1_024),
        key: format!("{}{end}", "ü".repeat(254)),
        ..key("")
    };
    let keys = [long("a", "x"), long("a", "y"), long("b", "x")];
    for key in &keys {
        let mut asked = acquire("", 1);
        if let idempotency_protocol::Operation::Acquire(a) = &mut asked {
            a.key = key.clone();
        }
        let answer = one(store.as_ref(), asked).await;
        assert!(matches!(answer, Answer::Granted(_)), "{answer:?}");
        let view = store.inspect(key).await.unwrap().unwrap();
        assert_eq!(&view.key, key);
    }
    let mut filter = ListFilter {
        tenant: Some("a".repeat(1_024)),
        namespace: Some("n".repeat(1_024)),
        limit: 1,
        ..ListFilter::default()
    };
    let mut found = Vec::new();
    loop {
        let page = store.list(filter.clone()).await.unwrap();
        found.extend(page.records.into_iter().map(|r| r.key));
        match page.next {
            None => break,
            next => filter.after = next,
        }
    }
    found.sort();
    assert_eq!(found, &keys[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_high_water_mark_only_new_keys_are_refused() {
    let database = Database::new().await;
    let roomy = database.open().await;
    granted(roomy.as_ref(), "before", 1).await;
    let full = database.open_with(|o| o.max_bytes = Some(1)).await;
    assert!(full.ready().await.unwrap().above_high_water);
    let answer = one(full.as_ref(), acquire("new", 1)).await;
    assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    in_flight(one(full.as_ref(), acquire("before", 2)).await);
    completed(full.as_ref(), "before", 1, b"x").await;
}
