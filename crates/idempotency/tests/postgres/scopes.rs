//! Savepoints, search paths, PgBouncer.

use crate::server::{committed, connect, order, ordered, outcome, payload, replayed, Database};
use idempotency::store::{PostgresOptions, RecordState, Store};
use idempotency::{Entry, Guard};
use idempotency_stack::PgBouncer;
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn case_15_a_savepoint_that_is_rolled_back_takes_the_record_along() {
    let database = Database::new().await;
    let store = database.store().await;
    let guard = Guard::new(store.clone());
    let mut client = database.client().await;
    for commits_at_last in [false, true] {
        let name = format!("commits: {commits_at_last}");
        let entry = guard.acquire_for_transaction(&name, payload()).await;
        let Ok(Entry::Execute(mut execution)) = entry else {
            panic!("{entry:?}");
        };
        let mut tx = client.transaction().await.unwrap();
        let mut savepoint = tx.transaction().await.unwrap();
        order(&savepoint, &name).await;
        let undone = outcome("undone");
        execution
            .complete_in_tx(&mut savepoint, &undone)
            .await
            .unwrap();
        savepoint.rollback().await.unwrap();
        if commits_at_last {
            // Executing again: it can be completed.
            order(&tx, &name).await;
            let at_last = outcome("at last");
            execution.complete_in_tx(&mut tx, &at_last).await.unwrap();
            tx.commit().await.unwrap();
            execution.committed();
            let done = replayed(ordered(&guard, &mut client, &name).await);
            assert_eq!(done.json::<String>().unwrap(), "at last");
        } else {
            tx.commit().await.unwrap();
            let entry = guard.acquire(&name, payload()).await.unwrap();
            assert!(matches!(entry, Entry::InFlight(_)), "{entry:?}");
            let view = crate::common::record(store.as_ref()).await.unwrap();
            assert_eq!(view.state, RecordState::Executing);
            execution.fail().await.unwrap();
            committed(ordered(&guard, &mut client, &name).await);
        }
        assert_eq!(database.orders(&name).await, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_a_foreign_search_path() {
    let database = Database::new().await;
    let admin = database.client().await;
    let elsewhere = "CREATE SCHEMA \"odd\"\"name\"; CREATE SCHEMA app;
        CREATE TABLE app.idempotency_records (id bytea);";
    admin.batch_execute(elsewhere).await.unwrap();
    // The records in a schema with an odd name, the application in one where another table has their name.
    let url = format!(
        "{}?options=-csearch_path%3D%22odd%22%22name%22",
        database.url
    );
    let options: PostgresOptions = crate::server::options(&url);
    idempotency::store::Postgres::migrate(&options)
        .await
        .unwrap();
    let store = idempotency::store::Postgres::open(options).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let guard = Guard::new(Arc::clone(&store));
    let mut client = connect(&format!("{}?options=-csearch_path%3Dapp", database.url)).await;
    committed(ordered(&guard, &mut client, "k").await);
    replayed(ordered(&guard, &mut client, "k").await);
    assert_eq!(database.orders("k").await, 1);
    let records = "SELECT count(*) FROM \"odd\"\"name\".idempotency_records";
    let records: i64 = admin.query_one(records, &[]).await.unwrap().get(0);
    assert_eq!(records, 1);
}

/// Two connections to the server for eight clients, each of which gets another one for each transaction, and all
/// three drivers, some of which number what they prepare from zero.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_pgbouncer_in_transaction_mode() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let bouncer = PgBouncer::start(&database.server, 2).unwrap();
    let url = bouncer.url(&database.name);
    let mut tasks = JoinSet::new();
    for client in 0..8 {
        let (guard, url) = (guard.clone(), url.clone());
        tasks.spawn(async move {
            for n in 0..10 {
                // Each key is asked for by two clients.
                let name = format!("k{}-{n}", client / 2);
                one(&guard, &url, client, &name).await;
            }
        });
    }
    tasks.join_all().await;
    for client in 0..4 {
        for n in 0..10 {
            assert_eq!(database.orders(&format!("k{client}-{n}")).await, 1);
        }
    }
}

/// Not persistent: nothing is prepared under a name.
async fn insert_0_8(
    tx: &mut sqlx_0_8::Transaction<'_, sqlx_0_8::Postgres>,
    name: &str,
) -> Result<(), sqlx_0_8::Error> {
    let insert = sqlx_0_8::query("INSERT INTO public.orders VALUES ($1)").persistent(false);
    insert.bind(name).execute(&mut **tx).await.map(drop)
}

async fn insert_0_9(
    tx: &mut sqlx_0_9::Transaction<'_, sqlx_0_9::Postgres>,
    name: &str,
) -> Result<(), sqlx_0_9::Error> {
    let insert = sqlx_0_9::query("INSERT INTO public.orders VALUES ($1)").persistent(false);
    insert.bind(name).execute(&mut **tx).await.map(drop)
}

/// Orders through PgBouncer. The effects are text, as this crate's own statements are not prepared under a name.
async fn one(guard: &Guard, url: &str, client: usize, name: &str) {
    use idempotency::postgres::Transacted;
    let insert = format!("INSERT INTO public.orders VALUES ('{name}')");
    loop {
        let result = match client % 3 {
            0 => {
                let mut client = connect(url).await;
                guard
                    .transaction(&mut client, name, payload(), async |tx, _| {
                        tx.batch_execute(&insert).await?;
                        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(outcome(name))
                    })
                    .await
            }
            1 => {
                use sqlx_0_8::{Connection, PgConnection};
                let mut client = PgConnection::connect(url).await.unwrap();
                guard
                    .transaction(&mut client, name, payload(), async |tx, _| {
                        insert_0_8(tx, name).await?;
                        Ok(outcome(name))
                    })
                    .await
            }
            _ => {
                use sqlx_0_9::{Connection, PgConnection};
                let mut client = PgConnection::connect(url).await.unwrap();
                guard
                    .transaction(&mut client, name, payload(), async |tx, _| {
                        insert_0_9(tx, name).await?;
                        Ok(outcome(name))
                    })
                    .await
            }
        };
        match result.unwrap() {
            Transacted::InFlight(_) => tokio::task::yield_now().await,
            Transacted::Committed(done) | Transacted::Replay(done) => {
                assert_eq!(done.json::<String>().unwrap(), name);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}
