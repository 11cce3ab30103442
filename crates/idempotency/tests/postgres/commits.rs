//! A COMMIT whose answer is lost, in ways that no driver makes different.

use crate::common::eventually;
use crate::server::{committed, order, ordered, outcome, payload, replayed, Database};
use crate::wire::{Commits, Wire};
use idempotency::postgres::TransactionError;
use idempotency::{Entry, Guard};

/// By hand, without the closure.
#[tokio::test(flavor = "multi_thread")]
async fn case_12_by_hand() {
    let database = Database::new().await;
    let guard = database.guard().await;
    for rule in [Commits::Pass, Commits::CutBefore, Commits::CutAfter] {
        let name = format!("{rule:?}");
        let wire = Wire::to(database.server.port()).await;
        let mut client = crate::server::connect(&wire.url(&database.name)).await;
        let mut execution = match guard.acquire_for_transaction(&name, payload()).await {
            Ok(Entry::Execute(execution)) => execution,
            other => panic!("{other:?}"),
        };
        let mut tx = client.transaction().await.unwrap();
        order(&tx, &name).await;
        let outcome = outcome("by hand");
        let until = execution.complete_in_tx(&mut tx, &outcome).await.unwrap();
        wire.set(rule);
        match tx.commit().await {
            Ok(()) => execution.committed(),
            Err(lost) => match execution.read_back(&outcome, lost).await {
                Ok(completed) => assert_eq!(completed, until),
                Err(TransactionError::RolledBack(_)) => assert_eq!(rule, Commits::CutBefore),
                Err(other) => panic!("{other:?}"),
            },
        }
        let mut client = database.client().await;
        let again = ordered(&guard, &mut client, &name).await;
        match rule {
            Commits::CutBefore => assert_eq!(committed(again).number(), 2),
            _ => assert_eq!(replayed(again).json::<String>().unwrap(), "by hand"),
        }
        assert_eq!(database.orders(&name).await, 1, "{name}");
    }
}

/// The server never gets the COMMIT, and does not know that nobody is there any more: whoever reads back waits for its
/// transaction, and is told when it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn case_12_reading_back_waits_for_a_server_process_that_is_cut_off() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let mut wire = Wire::to(database.server.port()).await;
    let mut client = crate::server::connect(&wire.url(&database.name)).await;
    let backend = client.query_one("SELECT pg_backend_pid()", &[]).await;
    let backend: i32 = backend.unwrap().get(0);
    let mut execution = match guard.acquire_for_transaction("k", payload()).await {
        Ok(Entry::Execute(execution)) => execution,
        other => panic!("{other:?}"),
    };
    let mut tx = client.transaction().await.unwrap();
    order(&tx, "k").await;
    let outcome = outcome("k");
    execution.complete_in_tx(&mut tx, &outcome).await.unwrap();
    wire.set(Commits::HoldBefore);
    let commit = tokio::time::timeout(std::time::Duration::from_millis(100), tx.commit());
    assert!(commit.await.is_err());
    wire.has_met().await;
    let reads = tokio::spawn(async move { execution.read_back(&outcome, "no answer").await });
    let watcher = database.client().await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("it waits for the row", async || {
        watcher
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            > 0
    })
    .await;
    assert!(!reads.is_finished());
    let end = "SELECT pg_terminate_backend($1)";
    watcher.query_one(end, &[&backend]).await.unwrap();
    match reads.await.unwrap() {
        Err(TransactionError::RolledBack(_)) => {}
        other => panic!("{other:?}"),
    }
    drop(wire);
    assert_eq!(database.orders("k").await, 0);
    let mut client = database.client().await;
    assert_eq!(
        committed(ordered(&guard, &mut client, "k").await).number(),
        2
    );
}

/// A guard that knows the database by name only, as one with a remote store does.
#[tokio::test(flavor = "multi_thread")]
async fn case_12_without_a_way_of_its_own_to_the_database() {
    let database = Database::new().await;
    let hidden = crate::common::Spy::new(database.store().await);
    let guard = Guard::new(hidden).transactions_in("public");
    for rule in [Commits::CutBefore, Commits::CutAfter] {
        let name = format!("{rule:?}");
        let wire = Wire::to(database.server.port()).await;
        let mut client = crate::server::connect(&wire.url(&database.name)).await;
        wire.set(rule);
        let cut = guard
            .transaction(&mut client, &name, payload(), async |tx, _| {
                order(tx, &name).await;
                Ok::<_, String>(outcome("once"))
            })
            .await;
        let mut client = database.client().await;
        match rule {
            // Not committed as far as anybody can see; nobody can see whether the primary has changed.
            Commits::CutBefore => {
                match cut {
                    Err(TransactionError::Unknown(_)) => {}
                    other => panic!("{other:?}"),
                }
                // To a transaction that is proof enough: it runs again. To everybody else the key is unknown.
                let plain = guard.acquire(&name, payload()).await.unwrap();
                assert!(matches!(plain, Entry::Unknown(_)), "{plain:?}");
                let again = ordered(&guard, &mut client, &name).await;
                assert_eq!(committed(again).number(), 2);
            }
            _ => {
                committed(cut.unwrap());
                replayed(ordered(&guard, &mut client, &name).await);
            }
        }
        assert_eq!(database.orders(&name).await, 1, "{name}");
    }
}
