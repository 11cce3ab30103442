//! Quotas: what they cost, where they are kept, and what they survive.

use crate::common::{acquire, acquire_for, complete, completed, fail, granted, one};
use crate::support::{open, server, until};
use crate::together::calls;
use idempotency_protocol::{Answer, Operation};
use idempotency_stack::{Redis, RedisCluster};
use idempotency_store::{Quota, Quotas, RedisStore, Store};
use std::sync::atomic::{AtomicU32, Ordering};

const RECORDS: Quotas = Quotas {
    executions: None,
    records: Some(2),
    bytes: None,
};

fn keys_of_quotas(server: &Redis) -> Vec<String> {
    let keys = server.cli(&["KEYS", "*quota*"]).unwrap();
    let keys = keys.lines().filter(|line| !line.trim().is_empty());
    keys.map(str::to_owned).collect()
}

fn refused(answer: &Answer) -> Option<Quota> {
    Quota::refused(answer)
}

/// Calls of the server that an operation takes.
async fn cost(server: &Redis, store: &RedisStore, operation: Operation) -> (u64, Answer) {
    let before = calls(server);
    let answer = one(store, operation).await;
    (calls(server) - before, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quotas_an_operation_is_one_call_and_nothing_is_kept() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    store.set_quotas(Quotas::default()).await.unwrap();
    granted(&*store, "warm-up", 1).await;
    for (operation, name) in [
        (acquire("k", 1), "granted"),
        (complete("k", 1, b"done"), "completed"),
        (acquire("k", 2), "stored"),
    ] {
        let (calls, answer) = cost(&server, &store, operation).await;
        assert_eq!((calls, answer.name()), (1, name));
    }
    assert!(keys_of_quotas(&server).is_empty());
}

/// As `docs/operations.md` says it.
#[tokio::test(flavor = "multi_thread")]
async fn what_quotas_cost_in_calls() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    store.set_quotas(RECORDS).await.unwrap();
    granted(&*store, "warm-up", 1).await;
    completed(&*store, "warm-up", 1, b"x").await;
    for (operation, calls, name) in [
        (acquire("k", 1), 3, "granted"),
        (acquire("k", 2), 1, "in_flight"),
        (complete("k", 1, b"done"), 2, "completed"),
        (acquire("k", 2), 1, "stored"),
        (acquire("over", 1), 2, "fault"),
    ] {
        let (took, answer) = cost(&server, &store, operation).await;
        assert_eq!((took, answer.name()), (calls, name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_ends_with_its_last_record() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    store.set_quotas(RECORDS).await.unwrap();
    let brief = |name| {
        let Operation::Acquire(mut acquire) = acquire_for(name, 1, 50) else {
            unreachable!()
        };
        acquire.retention.ttl_ms = 60;
        acquire.retention.unknown_ttl_ms = 60;
        Operation::Acquire(acquire)
    };
    for name in ["a", "b"] {
        assert_eq!(one(&*store, brief(name)).await.name(), "granted");
    }
    assert_eq!(
        refused(&one(&*store, brief("c")).await),
        Some(Quota::Records)
    );
    assert_eq!(keys_of_quotas(&server).len(), 3);
    until(|| async { keys_of_quotas(&server).is_empty() }).await;
    assert_eq!(one(&*store, brief("d")).await.name(), "granted");
}

/// The ledger is lost (a fail-over to a replica that did not have it yet): a sweep counts anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_counts_what_the_ledger_forgot() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    store.set_quotas(RECORDS).await.unwrap();
    granted(&*store, "a", 1).await;
    granted(&*store, "b", 1).await;
    completed(&*store, "b", 1, b"done").await;
    for key in keys_of_quotas(&server) {
        server.cli(&["DEL", &key]).unwrap();
    }
    while store.sweep(100).await.unwrap().more {}
    assert_eq!(
        refused(&one(&*store, acquire("c", 1)).await),
        Some(Quota::Records)
    );
}

/// Nobody need sweep for what was there before the quotas.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_is_counted_in_the_background() {
    let servers = RedisCluster::start(&[]).unwrap();
    let store = open(&servers.url()).await;
    for name in ["a", "b", "c"] {
        granted(&*store, name, 1).await;
    }
    let executions = Quotas {
        executions: Some(3),
        ..Quotas::default()
    };
    store.set_quotas(executions).await.unwrap();
    let tries = AtomicU32::new(0);
    until(|| async {
        let name = format!("d{}", tries.fetch_add(1, Ordering::SeqCst));
        let answer = one(&*store, acquire(&name, 1)).await;
        one(&*store, fail(&name, 1)).await;
        refused(&answer) == Some(Quota::Executions)
    })
    .await;
}

/// What ends while it is counted has told the ledger of its end before it is entered there.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_it_is_counted_does_not_stay_in_the_ledger() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let names: Vec<String> = (0..3_000).map(|n| format!("k{n}")).collect();
    for names in names.chunks(60) {
        let acquires = names.iter().map(|name| acquire(name, 1)).collect();
        for answer in store.apply(acquires).await {
            assert_eq!(answer.name(), "granted");
        }
    }
    let executions = Quotas {
        executions: Some(1),
        ..Quotas::default()
    };
    store.set_quotas(executions).await.unwrap();
    for names in names.chunks(60) {
        let fails = names.iter().map(|name| fail(name, 1)).collect();
        for answer in store.apply(fails).await {
            assert_eq!(answer.name(), "failed");
        }
    }
    // The count is over when the server has nothing to do any more.
    let seen = std::sync::Mutex::new(calls(&server));
    until(|| async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = calls(&server);
        std::mem::replace(&mut *seen.lock().unwrap(), now) == now
    })
    .await;
    assert_eq!(one(&*store, acquire("one more", 1)).await.name(), "granted");
}
