//! Transactions of applications on sealed records.

use crate::common::response;
use crate::files::Database;
use crate::lab::*;
use idempotency_protocol::{Answer, Owner};
use idempotency_store::record::StoredOutcome;
use idempotency_store::transaction::{Parameter, Statement};
use idempotency_store::{ReadBack, Sealed, Store};
use std::sync::Arc;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

async fn client(database: &Database) -> Client {
    let url = database.server.url("sealed");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Runs a statement; how many rows came back.
async fn run(client: &Client, statement: &Statement) -> usize {
    let bytes = |parameter: &Parameter| match parameter {
        Parameter::Bytes(bytes) => Some(bytes.to_vec()),
        Parameter::Integer(_) => None,
    };
    let bytes: Vec<Option<Vec<u8>>> = statement.parameters.iter().map(bytes).collect();
    let parameters = statement.parameters.iter().zip(&bytes);
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters
        .map(|(parameter, bytes)| match parameter {
            Parameter::Integer(number) => number as &(dyn ToSql + Sync),
            Parameter::Bytes(_) => bytes as &(dyn ToSql + Sync),
        })
        .collect();
    let rows = client.query(statement.sql.as_ref(), &parameters).await;
    rows.unwrap().len()
}

async fn sealing(database: &Database, inner: Arc<dyn Store>) -> Sealed {
    let _ = database;
    Sealed::open(inner, ring(&["a"])).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_completed_in_a_transaction_is_sealed_and_replayed() {
    let database = Database::new().await;
    let inner: Arc<dyn Store> = Arc::new(database.open().await);
    let store = sealing(&database, Arc::clone(&inner)).await;
    let transactions = store.transactions().unwrap();
    let client = client(&database).await;
    let outcome = StoredOutcome::new(&response(b"in the transaction"));

    let completed = key("acme", "completed");
    let begun_on = transactions.primary();
    let fence = granted(&store, &completed, 1).await;
    let owner = Owner([1; 16]);
    let statement = transactions
        .statements()
        .complete_in_tx(&completed, owner, fence, &outcome);
    let statement = statement.unwrap();
    let clear = b"in the transaction";
    let parameters = statement
        .parameters
        .iter()
        .filter_map(|parameter| match parameter {
            Parameter::Bytes(bytes) => Some(bytes.clone()),
            Parameter::Integer(_) => None,
        });
    for bytes in parameters {
        for secret in [clear.as_slice(), b"acme", b"completed"] {
            assert!(!crate::files::contains(&bytes, secret));
        }
    }
    let back = transactions
        .read_back(&completed, owner, fence, begun_on)
        .await;
    assert_eq!(back.unwrap(), ReadBack::RolledBack);
    assert_eq!(run(&client, &statement).await, 1);
    assert_eq!(run(&client, &statement).await, 0, "once");
    let back = transactions
        .read_back(&completed, owner, fence, begun_on)
        .await;
    assert!(matches!(back.unwrap(), ReadBack::Committed { .. }));
    replays(&store, &completed, clear).await;
    // The owner's own complete is the same answer.
    let again = one(&store, complete(&completed, 1, clear)).await;
    assert!(matches!(again, Answer::Completed { .. }), "{again:?}");

    let settled = key("acme", "settled");
    let fence = granted(&store, &settled, 2).await;
    let statement = transactions
        .statements()
        .settle_in_tx(&settled, fence, &outcome);
    assert_eq!(run(&client, &statement.unwrap()).await, 1);
    transactions.wake(std::slice::from_ref(&settled)).await;
    let stored = store.stored(&settled).await.unwrap();
    assert_eq!(stored, Some(response(clear)));
    // The gateway attaches what its client got.
    let attached = one(&store, complete(&settled, 2, b"what the client got")).await;
    assert!(matches!(attached, Answer::Completed { .. }), "{attached:?}");
    replays(&store, &settled, b"what the client got").await;

    let failed = key("acme", "failed");
    let fence = granted(&store, &failed, 3).await;
    let statement = transactions.statements().fail_in_tx(&failed, fence);
    assert_eq!(run(&client, &statement).await, 1);
    let again = one(&store, acquire(&failed, 4)).await;
    assert!(
        matches!(again, Answer::Granted(grant) if grant.attempt == 2),
        "{again:?}"
    );
}

/// A gateway has acquired it in clear, encryption is switched on, and then the upstream settles.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_clear_is_settled_once_it_is_prepared() {
    let database = Database::new().await;
    let inner: Arc<dyn Store> = Arc::new(database.open().await);
    let key = key("acme", "k");
    let fence = granted(&*inner, &key, 1).await;
    let store = sealing(&database, inner).await;
    let client = client(&database).await;
    let transactions = store.transactions().unwrap();
    let outcome = StoredOutcome::new(&response(b"done"));
    let settle = || {
        transactions
            .statements()
            .settle_in_tx(&key, fence, &outcome)
            .unwrap()
    };
    assert_eq!(
        run(&client, &settle()).await,
        0,
        "it is not there yet: roll back"
    );
    transactions.prepare(&key).await.unwrap();
    assert_eq!(run(&client, &settle()).await, 1);
    assert_eq!(store.stored(&key).await.unwrap(), Some(response(b"done")));
}
