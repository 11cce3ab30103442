//! A transaction that is open for long.

use crate::server::{order, outcome, payload, Database};
use idempotency::{Entry, Guard};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const OPEN: Duration = Duration::from_secs(10);

/// It has completed its record and is not committed: other keys go on, its own is in flight, and who waits for it is
/// woken when it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn case_14_an_open_transaction_holds_up_nobody() {
    let database = Database::new().await;
    let guard = database.guard().await;
    // Of another process.
    let other = database.guard().await;
    let entry = guard.acquire_for_transaction("held", payload()).await;
    let Ok(Entry::Execute(mut execution)) = entry else {
        panic!("{entry:?}");
    };
    let mut client = database.client().await;
    let mut tx = client.transaction().await.unwrap();
    order(&tx, "held").await;
    execution
        .complete_in_tx(&mut tx, &outcome("held"))
        .await
        .unwrap();
    let begun = Instant::now();
    let (mut others, mut held) = (Vec::new(), Vec::new());
    let mut round = 0;
    while begun.elapsed() < OPEN {
        round += 1;
        let mut tasks = JoinSet::new();
        for n in 0..50 {
            let guard = other.clone();
            tasks.spawn(async move { acquires(&guard, &format!("{round}-{n}")).await });
        }
        let begun = Instant::now();
        let entry = other.acquire("held", payload()).await.unwrap();
        held.push(begun.elapsed());
        assert!(matches!(entry, Entry::InFlight(_)), "{entry:?}");
        others.extend(tasks.join_all().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (what, took) in [("other keys", &mut others), ("its own key", &mut held)] {
        took.sort_unstable();
        let p99 = took[(took.len() - 1) * 99 / 100];
        println!("open: {what}: {} acquires, p99 {p99:?}", took.len());
        // Nobody has waited for the transaction, nor for a lock until its timeout of two seconds. How fast it is
        // instead depends on who else computes.
        assert!(
            took.iter().all(|t| *t < Duration::from_millis(1_500)),
            "{p99:?}"
        );
    }
    let Entry::InFlight(waits) = other.acquire("held", payload()).await.unwrap() else {
        panic!("in flight");
    };
    let waiter = tokio::spawn(waits.wait(Duration::from_secs(20)));
    tx.commit().await.unwrap();
    execution.committed();
    match waiter.await.unwrap().unwrap() {
        Entry::Replay(done) => assert_eq!(done.json::<String>().unwrap(), "held"),
        other => panic!("{other:?}"),
    }
    assert_eq!(database.orders("held").await, 1);
}

async fn acquires(guard: &Guard, key: &str) -> Duration {
    let begun = Instant::now();
    let entry = guard.acquire(key, payload()).await.unwrap();
    let took = begun.elapsed();
    match entry {
        Entry::Execute(execution) => execution.complete(outcome(key)).await.unwrap(),
        other => panic!("{other:?}"),
    };
    took
}

/// Those who wait in another process are told, and need not look: here they would look again after a quarter of a
/// second, so ten in a row that were told are faster than that.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_woken_after_the_commit() {
    let database = Database::new().await;
    let (guard, other) = (database.guard().await, Arc::new(database.guard().await));
    let mut took = Vec::new();
    for n in 0..10 {
        let name = format!("k{n}");
        let mut client = database.client().await;
        let (begins, begun) = tokio::sync::oneshot::channel();
        let waiter = tokio::spawn({
            let (other, name) = (Arc::clone(&other), name.clone());
            async move {
                begun.await.unwrap();
                let entry = other.acquire(&name, payload()).await.unwrap();
                let Entry::InFlight(waits) = entry else {
                    panic!("{entry:?}");
                };
                let entry = waits.wait(Duration::from_secs(20)).await.unwrap();
                assert!(matches!(entry, Entry::Replay(_)), "{entry:?}");
                Instant::now()
            }
        });
        guard
            .transaction(&mut client, &name, payload(), async |tx, _| {
                order(tx, &name).await;
                begins.send(()).unwrap();
                // Long enough to be waited for.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, String>(outcome(&name))
            })
            .await
            .unwrap();
        let committed = Instant::now();
        took.push(waiter.await.unwrap().saturating_duration_since(committed));
    }
    took.sort_unstable();
    println!("woken after {:?} at the median", took[5]);
    assert!(took[5] < Duration::from_millis(125), "{took:?}");
}
