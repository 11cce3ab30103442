//! What holds with every driver.

use crate::common::eventually;
use crate::server::{committed, outcome, payload, replayed, Database};
use crate::wire::{Commits, Wire};
use idempotency::postgres::{Record, Transacted, TransactionError, TxError};
use idempotency::store::{RecordState, Store};
use idempotency::{Entry, Outcome};
use std::time::Duration;

mod tokio_postgres_0_7 {
    pub use crate::server::connect;
    pub type Client = tokio_postgres::Client;

    pub async fn order(
        tx: &mut tokio_postgres::Transaction<'_>,
        name: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let insert = "INSERT INTO public.orders VALUES ($1)";
        tx.execute(insert, &[&name]).await.map(drop)
    }
}

mod tokio_postgres_prepared {
    pub type Client = idempotency::postgres::Prepared;

    pub async fn connect(url: &str) -> Client {
        Client::new(crate::server::connect(url).await)
    }

    pub async fn order(
        tx: &mut idempotency::postgres::PreparedTransaction<'_>,
        name: &str,
    ) -> Result<(), tokio_postgres::Error> {
        super::tokio_postgres_0_7::order(tx, name).await
    }
}

mod sqlx_0_8_pool {
    pub type Client = sqlx_0_8::PgPool;

    pub async fn connect(url: &str) -> Client {
        sqlx_0_8::PgPool::connect(url).await.unwrap()
    }

    pub async fn order(
        tx: &mut sqlx_0_8::Transaction<'_, sqlx_0_8::Postgres>,
        name: &str,
    ) -> Result<(), sqlx_0_8::Error> {
        let insert = sqlx_0_8::query("INSERT INTO public.orders VALUES ($1)");
        insert.bind(name).execute(&mut **tx).await.map(drop)
    }
}

mod sqlx_0_9_connection {
    use sqlx_0_9::Connection;
    pub type Client = sqlx_0_9::PgConnection;

    pub async fn connect(url: &str) -> Client {
        sqlx_0_9::PgConnection::connect(url).await.unwrap()
    }

    pub async fn order(
        tx: &mut sqlx_0_9::Transaction<'_, sqlx_0_9::Postgres>,
        name: &str,
    ) -> Result<(), sqlx_0_9::Error> {
        let insert = sqlx_0_9::query("INSERT INTO public.orders VALUES ($1)");
        insert.bind(name).execute(&mut **tx).await.map(drop)
    }
}

macro_rules! with_driver {
    ($module:ident, $driver:ident) => {
        mod $module {
            use super::$driver::{connect, order, Client};
            use super::*;
            use idempotency::postgres::Begin;

            #[tokio::test(flavor = "multi_thread")]
            async fn effect_and_record_are_committed_together_and_replayed() {
                let database = Database::new().await;
                let guard = database.guard().await;
                let mut client = connect(&database.url).await;
                // In a task of its own: the future is Send.
                let task = tokio::spawn({
                    let guard = guard.clone();
                    async move {
                        let work =
                            async |tx: &mut <Client as Begin>::Transaction<'_>,
                                   execution: &idempotency::Execution| {
                                order(tx, "k").await?;
                                assert_eq!(execution.number(), 1);
                                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(outcome("first"))
                            };
                        let done = guard.transaction(&mut client, "k", payload(), work).await;
                        (client, done.unwrap())
                    }
                });
                let (mut client, done) = task.await.unwrap();
                let done = committed(done);
                let again = guard
                    .transaction(&mut client, "k", payload(), async |tx, _| {
                        order(tx, "k").await?;
                        Ok::<_, Box<dyn std::error::Error>>(outcome("second"))
                    })
                    .await;
                let again = replayed(again.unwrap());
                assert_eq!(again.json::<String>().unwrap(), "first");
                assert_eq!(again.body(), done.body());
                assert_eq!(again.headers(), done.headers());
                assert_eq!((again.fence(), again.number()), (done.fence(), 1));
                assert_eq!(again.expires_at(), done.expires_at());
                assert_eq!(database.orders("k").await, 1);
                assert_eq!(guard.running(), 0);
                let other = idempotency::Fingerprint::raw("other");
                let mismatch = guard
                    .transaction(&mut client, "k", other, async |_, _| {
                        Ok::<_, String>(outcome("never"))
                    })
                    .await;
                assert!(matches!(mismatch, Ok(Transacted::Mismatch)), "{mismatch:?}");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn work_that_fails_is_rolled_back_and_the_key_is_free() {
                let database = Database::new().await;
                let guard = database.guard().await;
                let mut client = connect(&database.url).await;
                let failed = guard
                    .transaction(&mut client, "k", payload(), async |tx, _| {
                        order(tx, "k").await.unwrap();
                        Err::<Outcome, _>("no chair left")
                    })
                    .await;
                assert!(
                    matches!(failed, Err(TransactionError::Work("no chair left"))),
                    "{failed:?}"
                );
                // Also where the failure is the database's, and nobody looks at it.
                let failed = guard
                    .transaction(&mut client, "k", payload(), async |tx, _| {
                        order(tx, "k").await.unwrap();
                        order(tx, "\0").await.unwrap_err();
                        Ok::<_, String>(outcome("never"))
                    })
                    .await;
                match failed {
                    Err(TransactionError::Record(TxError::Database(_))) => {}
                    other => panic!("{other:?}"),
                }
                assert_eq!(database.orders("k").await, 0);
                let third = guard
                    .transaction(&mut client, "k", payload(), async |tx, execution| {
                        order(tx, "k").await.unwrap();
                        assert_eq!(execution.number(), 3);
                        Ok::<_, String>(outcome("third"))
                    })
                    .await;
                committed(third.unwrap());
                assert_eq!(database.orders("k").await, 1);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn case_12_a_commit_without_an_answer_is_read_back() {
                let database = Database::new().await;
                let guard = database.guard().await;
                for rule in [Commits::CutBefore, Commits::CutAfter] {
                    let name = format!("{rule:?}");
                    let wire = Wire::to(database.server.port()).await;
                    let mut client = connect(&wire.url(&database.name)).await;
                    wire.set(rule);
                    let cut = guard
                        .transaction(&mut client, &name, payload(), async |tx, _| {
                            order(tx, &name).await.unwrap();
                            Ok::<_, String>(outcome("once"))
                        })
                        .await;
                    let number = match rule {
                        // It did not arrive: rolled back, and the key is free at once.
                        Commits::CutBefore => {
                            match cut {
                                Err(TransactionError::RolledBack(_)) => {}
                                other => panic!("{other:?}"),
                            }
                            assert_eq!(database.orders(&name).await, 0);
                            2
                        }
                        // It was carried out.
                        _ => {
                            committed(cut.unwrap());
                            assert_eq!(database.orders(&name).await, 1);
                            1
                        }
                    };
                    let mut client = connect(&database.url).await;
                    let again = guard
                        .transaction(&mut client, &name, payload(), async |tx, _| {
                            order(tx, &name).await.unwrap();
                            Ok::<_, String>(outcome("once"))
                        })
                        .await;
                    match again.unwrap() {
                        Transacted::Committed(done) | Transacted::Replay(done) => {
                            assert_eq!(done.number(), number)
                        }
                        other => panic!("{other:?}"),
                    }
                    assert_eq!(database.orders(&name).await, 1);
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn settle_and_fail_in_a_transaction_of_the_upstream() {
                let database = Database::new().await;
                let store = database.store().await;
                let guard = idempotency::Guard::new(store.clone());
                let mut client = connect(&database.url).await;
                let mut done = 0;
                for settles in [true, false] {
                    let name = format!("settles: {settles}");
                    let held = match guard.acquire(&name, payload()).await.unwrap() {
                        Entry::Execute(held) => held,
                        other => panic!("{other:?}"),
                    };
                    let fence = held.fence().to_string();
                    let record = Record::parse(&held.record(), &fence).unwrap();
                    let stale = Record::parse(&held.record(), "7").unwrap();
                    use idempotency::postgres::Transaction;
                    let mut tx = client.begin_transaction().await.unwrap();
                    order(&mut tx, &name).await.unwrap();
                    let lost = guard.settle_in_tx(&mut tx, &stale, &outcome("stale")).await;
                    assert!(matches!(lost, Err(TxError::Lost)), "{lost:?}");
                    if settles {
                        let upstream = outcome("upstream");
                        let settled = guard.settle_in_tx(&mut tx, &record, &upstream).await;
                        settled.unwrap();
                    } else {
                        guard.fail_in_tx(&mut tx, &record).await.unwrap();
                    }
                    Transaction::commit(tx).await.unwrap();
                    if settles {
                        // The holder has its turn: what its client got is what is replayed.
                        let running = guard.acquire(&name, payload()).await.unwrap();
                        assert!(matches!(running, Entry::InFlight(_)), "{running:?}");
                        held.complete(outcome("of the holder")).await.unwrap();
                        let replay = match guard.acquire(&name, payload()).await.unwrap() {
                            Entry::Replay(replay) => replay,
                            other => panic!("{other:?}"),
                        };
                        assert_eq!(replay.json::<String>().unwrap(), "of the holder");
                        done += 1;
                    } else {
                        let second = match guard.acquire(&name, payload()).await.unwrap() {
                            Entry::Execute(second) => second,
                            other => panic!("{other:?}"),
                        };
                        assert_eq!(second.number(), 2);
                        done += 1;
                    }
                }
                assert_eq!(done, 2);
            }
        }
    };
}

with_driver!(tokio_postgres_client, tokio_postgres_0_7);
with_driver!(tokio_postgres_prepared_client, tokio_postgres_prepared);
with_driver!(sqlx_0_8, sqlx_0_8_pool);
with_driver!(sqlx_0_9, sqlx_0_9_connection);

/// The future of a transaction that nobody awaits any more, wherever it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_dropped_leaves_nothing() {
    let database = Database::new().await;
    let store = database.store().await;
    let guard = idempotency::Guard::new(store.clone());
    let mut client = database.client().await;
    let hangs = guard.transaction(&mut client, "k", payload(), async |tx, _| {
        crate::server::order(tx, "k").await;
        std::future::pending::<()>().await;
        Ok::<_, String>(outcome("never"))
    });
    let late = tokio::time::timeout(Duration::from_millis(300), hangs).await;
    assert!(late.is_err());
    eventually("the key is free", async || {
        crate::common::state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
    let done = crate::server::ordered(&guard, &mut client, "k").await;
    assert_eq!(committed(done).number(), 2);
    assert_eq!(database.orders("k").await, 1);
    store.close().await;
}

/// A store whose records are not in a database that is known here.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_nothing_is_begun() {
    let database = Database::new().await;
    let guard = idempotency::Guard::new(std::sync::Arc::new(idempotency::store::Memory::default()));
    let mut client = database.client().await;
    let refused = guard
        .transaction(&mut client, "k", payload(), async |_, _| {
            Ok::<_, String>(outcome("never"))
        })
        .await;
    match refused {
        Err(TransactionError::Record(TxError::NoDatabase)) => {}
        other => panic!("{other:?}"),
    }
    // Told that it is this one: nothing is found to be completed there, and nothing is committed.
    let guard = guard.transactions_in("public");
    let lost = guard
        .transaction(&mut client, "k", payload(), async |tx, _| {
            crate::server::order(tx, "k").await;
            Ok::<_, String>(outcome("never"))
        })
        .await;
    match lost {
        Err(TransactionError::Record(TxError::Lost)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(database.orders("k").await, 0);
}
