//! An application: a plain client, with transactions of its own.

use crate::common::{key, response};
use crate::server::Database;
use idempotency_protocol::{Operation, Owner};
use idempotency_store::postgres::{Parameter, Statement, Statements};
use idempotency_store::record::StoredOutcome;
use idempotency_store::{Postgres, Store};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, GenericClient, Row};

/// Runs a statement; the rows that came back.
pub async fn run(client: &impl GenericClient, statement: &Statement) -> Result<Vec<Row>, Error> {
    let bytes: Vec<Option<&[u8]>> = statement
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Bytes(bytes) => Some(bytes.as_ref()),
            Parameter::Integer(_) => None,
        })
        .collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = statement
        .parameters
        .iter()
        .zip(&bytes)
        .map(|(parameter, bytes)| match (parameter, bytes) {
            (Parameter::Integer(number), _) => number as &(dyn ToSql + Sync),
            (Parameter::Bytes(_), bytes) => bytes as &(dyn ToSql + Sync),
        })
        .collect();
    client.query(statement.sql.as_ref(), &parameters).await
}

/// The statement that completes a key, as owner `n` of that fence.
pub fn complete_in_tx(
    statements: &Statements,
    name: &str,
    n: u8,
    fence: u64,
    body: &[u8],
) -> Statement {
    let outcome = StoredOutcome::new(&response(body));
    statements
        .complete_in_tx(&key(name), Owner([n; 16]), fence, &outcome)
        .unwrap()
}

/// A connection of the application, with a table for its effects.
pub async fn application(database: &Database) -> Client {
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE IF NOT EXISTS public.orders (name text)")
        .await
        .unwrap();
    client
}

pub async fn order(client: &impl GenericClient, name: &str) {
    let insert = "INSERT INTO public.orders VALUES ($1)";
    client.execute(insert, &[&name]).await.unwrap();
}

pub async fn orders(client: &impl GenericClient, name: &str) -> i64 {
    let count = "SELECT count(*) FROM public.orders WHERE name = $1";
    client.query_one(count, &[&name]).await.unwrap().get(0)
}

/// Owner `n` extends its lease.
pub async fn extended(store: &Postgres, name: &str, n: u8, lease_ms: u64) {
    let extend = Operation::Extend {
        key: key(name),
        owner: Owner([n; 16]),
        lease_ms,
    };
    let answer = store.apply(vec![extend]).await.remove(0);
    assert_eq!(answer.name(), "extended", "{answer:?}");
}
