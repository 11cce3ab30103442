//! A transaction of an application that has completed its record and is not committed yet. It holds up nobody.

use crate::application::{application, complete_in_tx, order, run};
use crate::common::*;
use crate::server::Database;
use idempotency_protocol::{Answer, AttemptKind, FaultCode, OnUnknown, Operation, Wait};
use idempotency_store::{Postgres, Quotas, RecordState, Resolution, Resolve, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// As long as the issue has it; far longer than any timeout of the store.
const OPEN: Duration = Duration::from_secs(10);

const KEYS: usize = 50;

/// Acquires of that many new keys, each a call of its own, at the same time; how long each took.
async fn acquires(store: &Arc<Postgres>, round: &str) -> Vec<Duration> {
    let mut tasks = JoinSet::new();
    for n in 0..KEYS {
        let (store, name) = (Arc::clone(store), format!("{round}-{n}"));
        tasks.spawn(async move {
            let begun = Instant::now();
            granted(store.as_ref(), &name, 1).await;
            begun.elapsed()
        });
    }
    tasks.join_all().await
}

fn print(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {} in all, {:?} at the median, {:?} at p99, {:?} at most",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Whether the transaction of this backend is still open.
async fn is_open(database: &Database, backend: i32) -> bool {
    let client = database.client().await;
    let state = "SELECT state = 'idle in transaction' FROM pg_stat_activity WHERE pid = $1";
    client.query_one(state, &[&backend]).await.unwrap().get(0)
}

fn as_transaction(operation: Operation) -> Operation {
    match operation {
        Operation::Acquire(mut acquire) => {
            acquire.kind = AttemptKind::Transaction;
            Operation::Acquire(acquire)
        }
        other => other,
    }
}

/// What one round of calls took: acquires of other keys, one of `held`, and a call with both.
#[derive(Default)]
struct Took {
    others: Vec<Duration>,
    held: Vec<Duration>,
    shared: Vec<Duration>,
}

impl Took {
    /// `held` is what an acquire and its owner's complete of that key are answered.
    async fn round(&mut self, store: &Arc<Postgres>, key: &str, round: usize, held: [&str; 2]) {
        let fresh = format!("{key}{round}");
        let (others, alone, shared) = tokio::join!(
            acquires(store, &fresh),
            async {
                let begun = Instant::now();
                let answer = one(store.as_ref(), acquire(key, 2)).await;
                assert_eq!(answer.name(), held[0], "{answer:?}");
                begun.elapsed()
            },
            async {
                let begun = Instant::now();
                let asked = vec![
                    acquire(&format!("{key}{round}-s"), 1),
                    complete(key, 1, b"of the owner"),
                    acquire(key, 3),
                    acquire(&format!("{key}{round}-t"), 1),
                ];
                let answers = store.apply(asked).await;
                let names: Vec<_> = answers.iter().map(Answer::name).collect();
                assert_eq!(names, ["granted", held[1], held[0], "granted"]);
                begun.elapsed()
            }
        );
        self.others.extend(others);
        self.held.push(alone);
        self.shared.push(shared);
        store.sweep(100).await.unwrap();
    }

    fn print(self, when: &str) {
        print(&format!("{when}: others"), self.others);
        print(&format!("{when}: the key itself"), self.held);
        print(&format!("{when}: both in one call"), self.shared);
    }
}

/// Acquires of other keys go on, in calls of their own and in calls with operations on the held key; the key
/// itself is in flight at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_up_nobody() {
    let database = Database::new().await;
    let store = database.open().await;
    granted(store.as_ref(), "free", 1).await;
    completed(store.as_ref(), "free", 1, b"before").await;
    let mut before = Took::default();
    for round in 0..20 {
        let held = ["stored", "differs"];
        before.round(&store, "free", round, held).await;
    }
    before.print("before");

    let Answer::Granted(grant) = one(store.as_ref(), as_transaction(acquire("held", 1))).await
    else {
        panic!("not granted");
    };
    let mut client = application(&database).await;
    let backend = client.query_one("SELECT pg_backend_pid()", &[]).await;
    let backend: i32 = backend.unwrap().get(0);
    let transaction = client.transaction().await.unwrap();
    order(&transaction, "held").await;
    let statement = complete_in_tx(store.statements(), "held", 1, grant.fence, b"done");
    let done = run(&transaction, &statement).await.unwrap();
    assert_eq!(done.len(), 1);
    let wait = Wait {
        key: key("held"),
        fingerprint: fingerprint(),
        fence: grant.fence,
        wait_ms: 60_000,
    };
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait(wait).await }
    });

    let begun = Instant::now();
    let mut open = Took::default();
    let mut round = 0;
    while begun.elapsed() < OPEN {
        round += 1;
        let held = ["in_flight", "fault"];
        open.round(&store, "held", round, held).await;
    }
    assert!(is_open(&database, backend).await);
    assert!(!waiter.is_finished());
    // Nobody has waited for the transaction, nor for a lock until its timeout. On a machine of its own p99 is far
    // below the 50 ms of the requirement (ADR 12); here others compute, too.
    let all = open.others.iter().chain(&open.held).chain(&open.shared);
    let slowest = all.max().unwrap();
    assert!(*slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(round >= 5, "{round} rounds");
    open.print("open");

    transaction.commit().await.unwrap();
    let after_commit = store.statements().after_commit(&key("held"));
    run(&client, &after_commit).await.unwrap();
    for answer in [
        one(store.as_ref(), acquire("held", 2)).await,
        waiter.await.unwrap(),
    ] {
        match answer {
            Answer::Stored(stored) => assert_eq!(stored.outcome, response(b"done")),
            other => panic!("{other:?}"),
        }
    }
}

/// Without the word after the commit, somebody who waits for a transaction sees its end all the same.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_transaction_looks_again() {
    let database = Database::new().await;
    let store = database
        .open_with(|o| o.poll_interval = Duration::from_secs(600))
        .await;
    let answer = one(store.as_ref(), as_transaction(acquire("k", 1))).await;
    let Answer::Granted(grant) = answer else {
        panic!("{answer:?}");
    };
    let wait = Wait {
        key: key("k"),
        fingerprint: fingerprint(),
        fence: grant.fence,
        wait_ms: 60_000,
    };
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait(wait).await }
    });
    crate::clock::until_waiting(&store, 1).await;
    let client = application(&database).await;
    let statement = complete_in_tx(store.statements(), "k", 1, grant.fence, b"done");
    assert_eq!(run(&client, &statement).await.unwrap().len(), 1);
    let begun = Instant::now();
    let answer = waiter.await.unwrap();
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    println!("seen after {:?}", begun.elapsed());
    // The row was not touched for the waiter's sake: that would fail a transaction with an older snapshot.
    let marked = "SELECT count(*) FROM idempotency_records WHERE waited_until IS NOT NULL";
    let marked: i64 = client.query_one(marked, &[]).await.unwrap().get(0);
    assert_eq!(marked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rollback_the_key_is_still_held() {
    let database = Database::new().await;
    let store = database.open().await;
    let grant = granted(store.as_ref(), "k", 1).await;
    let mut client = application(&database).await;
    let transaction = client.transaction().await.unwrap();
    let statement = complete_in_tx(store.statements(), "k", 1, grant.fence, b"undone");
    assert_eq!(run(&transaction, &statement).await.unwrap().len(), 1);
    // What its owner wants besides waits, and is done when the row is free.
    let late = tokio::spawn({
        let store = Arc::clone(&store);
        async move { one(store.as_ref(), complete("k", 1, b"after all")).await }
    });
    in_flight(one(store.as_ref(), acquire("k", 2)).await);
    transaction.rollback().await.unwrap();
    let answer = late.await.unwrap();
    assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
    match one(store.as_ref(), acquire("k", 2)).await {
        Answer::Stored(stored) => assert_eq!(stored.outcome, response(b"after all")),
        other => panic!("{other:?}"),
    }
}

/// The lease ends while the transaction is open: nobody is granted, and the commit counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_meanwhile_frees_nothing() {
    let database = Database::new().await;
    let clock = crate::clock::Clock::install(&database, START).await;
    let store = database
        .open_with(|o| o.lock_timeout = Duration::from_millis(200))
        .await;
    for name in ["k", "other"] {
        granted_for(store.as_ref(), name, 1, 1_000).await;
    }
    let view = store.inspect(&key("k")).await.unwrap().unwrap();
    let mut client = application(&database).await;
    let transaction = client.transaction().await.unwrap();
    let complete_k = complete_in_tx(store.statements(), "k", 1, view.fence, b"done");
    assert_eq!(run(&transaction, &complete_k).await.unwrap().len(), 1);
    clock.advance(Duration::from_secs(2)).await;

    let retry = |owner| {
        let Operation::Acquire(mut asked) = acquire("k", owner) else {
            unreachable!()
        };
        asked.on_unknown = OnUnknown::Retry;
        Operation::Acquire(asked)
    };
    for asked in [acquire("k", 2), retry(2), acquire("k", 1)] {
        let (fence, left) = in_flight(one(store.as_ref(), asked).await);
        assert_eq!((fence, left), (view.fence, 0));
    }
    // A sweep passes over it, and takes the other one.
    assert_eq!(store.sweep(100).await.unwrap().lapsed, 1);
    // Neither its owner nor an operator is kept waiting without end.
    let answer = one(store.as_ref(), abandon("k", 1)).await;
    assert!(
        matches!(&answer, Answer::Fault(fault) if fault.code == FaultCode::Unavailable),
        "{answer:?}"
    );
    let resolve = Resolve {
        key: key("k"),
        version: view.version,
        to: Resolution::Failed,
        force: true,
    };
    assert!(store.resolve(resolve).await.is_err());
    // Somebody who waits goes on waiting.
    let wait = Wait {
        key: key("k"),
        fingerprint: fingerprint(),
        fence: view.fence,
        wait_ms: 60_000,
    };
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait(wait).await }
    });
    crate::clock::until_waiting(&store, 1).await;
    transaction.commit().await.unwrap();
    let answer = waiter.await.unwrap();
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    let view = store.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Completed);
}

/// Where tenants are counted, too: the tenant's counters are not locked, and are right in the end.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_do_not_make_it_hold_up_its_tenant() {
    let database = Database::new().await;
    let store = database
        .open_with(|o| o.lock_timeout = Duration::from_millis(500))
        .await;
    let quotas = Quotas {
        executions: Some(2),
        records: Some(1_000),
        ..Quotas::default()
    };
    store.set_quotas(quotas).await.unwrap();
    let mut client = application(&database).await;
    let counted = || async {
        let client = database.client().await;
        let row = "SELECT u.executions, u.records, u.bytes - (SELECT sum(length(id)
                    + coalesce(outcome_size, 0)) FROM idempotency_records)::bigint
            FROM (SELECT tenant FROM idempotency_tenants) t
                CROSS JOIN LATERAL idempotency_tenant_use(t.tenant) u";
        let row = client.query_one(row, &[]).await.unwrap();
        (
            row.get::<_, i64>(0),
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
        )
    };
    let grant = granted(store.as_ref(), "held", 1).await;
    let transaction = client.transaction().await.unwrap();
    let statement = complete_in_tx(store.statements(), "held", 1, grant.fence, &[7; 3_000]);
    assert_eq!(run(&transaction, &statement).await.unwrap().len(), 1);
    // Grants of the same tenant, and ends of them, go on: none meets a lock.
    for n in 0..20 {
        let name = format!("k{n}");
        granted(store.as_ref(), &name, 1).await;
        assert_eq!(
            counted().await.0,
            2,
            "the open one counts until it is committed"
        );
        completed(store.as_ref(), &name, 1, b"x").await;
    }
    transaction.commit().await.unwrap();
    // At once, and also after the change was carried over.
    assert_eq!(counted().await, (0, 21, 0));
    granted(store.as_ref(), "next", 1).await;
    granted(store.as_ref(), "and next", 1).await;
    let refused = one(store.as_ref(), acquire("too much", 1)).await;
    assert!(
        idempotency_store::Quota::refused(&refused).is_some(),
        "{refused:?}"
    );
    // Any service does so, also one that has no quotas.
    database.open().await.sweep(10).await.unwrap();
    assert_eq!(counted().await, (2, 23, 0));
    let left = "SELECT count(*) FROM idempotency_tenant_changes";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// Counting begins while a transaction is open: it waits for the transaction, but the other services do not.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_begin_without_a_stop() {
    let database = Database::new().await;
    let store = database.open().await;
    let grant = granted(store.as_ref(), "held", 1).await;
    let mut client = application(&database).await;
    let transaction = client.transaction().await.unwrap();
    let statement = complete_in_tx(store.statements(), "held", 1, grant.fence, b"x");
    assert_eq!(run(&transaction, &statement).await.unwrap().len(), 1);
    let beginner = database.open().await;
    let begins = tokio::spawn(async move {
        let quotas = Quotas {
            records: Some(1_000),
            ..Quotas::default()
        };
        beginner.set_quotas(quotas).await
    });
    let other = database.client().await;
    let waits = "SELECT 1 FROM pg_locks WHERE relation = 'idempotency_records'::regclass
        AND mode = 'ShareRowExclusiveLock' AND NOT granted";
    for round in 0..2 {
        while other.query(waits, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        granted(store.as_ref(), &format!("k{round}"), 1).await;
    }
    assert!(!begins.is_finished());
    transaction.commit().await.unwrap();
    begins.await.unwrap().unwrap();
    let records = "SELECT records FROM idempotency_tenants";
    let records: i64 = other.query_one(records, &[]).await.unwrap().get(0);
    assert_eq!(records, 3);
}
