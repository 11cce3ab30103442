//! The primary changes while a COMMIT is on its way.

use crate::server::{committed, connect, order, ordered, outcome, payload, Database};
use crate::wire::{Commits, Wire};
use idempotency::postgres::TransactionError;
use idempotency::store::{Postgres, PostgresOptions};
use idempotency::Guard;
use idempotency_stack::{Postgres as Server, PostgresOptions as ServerOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn case_12_a_commit_that_meets_another_primary_is_unknown() {
    let mut old = Server::start(ServerOptions::default()).unwrap();
    old.create_database("pair");
    let new = block_in_place(|| old.standby("b", ServerOptions::default())).unwrap();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/pair?target_session_attrs=read-write\
         &connect_timeout=1&statement_timeout_ms=500&pool_size=4",
        old.port(),
        new.port()
    );
    let options = || PostgresOptions::from_url_and(&url, |_| None).unwrap();
    Postgres::migrate(&options()).await.unwrap();
    let guard = Guard::new(Arc::new(Postgres::open(options()).await.unwrap()));
    let table = "CREATE TABLE public.orders (name text)";
    connect(&old.url("pair"))
        .await
        .batch_execute(table)
        .await
        .unwrap();

    let mut wire = Wire::to(old.port()).await;
    wire.set(Commits::HoldBefore);
    let mut client = connect(&wire.url("pair")).await;
    let commits = tokio::spawn({
        let guard = guard.clone();
        async move {
            guard
                .transaction(&mut client, "k", payload(), async |tx, _| {
                    order(tx, "k").await;
                    Ok::<_, String>(outcome("k"))
                })
                .await
        }
    });
    wire.has_met().await;
    // The standby has the record, and takes over.
    let there = "SELECT count(*) FROM idempotency_records";
    let until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let patience = Duration::from_secs(60);
        assert!(
            block_in_place(|| idempotency_stack::until(patience, condition)),
            "{what}"
        );
    };
    until("the standby has the record", &mut || {
        new.sql("pair", there) == "1"
    });
    block_in_place(|| old.crash());
    new.sql("postgres", "SELECT pg_promote()");
    drop(wire);
    match commits.await.unwrap() {
        Err(TransactionError::Unknown(_)) => {}
        other => panic!("{other:?}"),
    }
    // As far as the new primary knows, nothing was done; a transaction finds that out, and does it.
    let database = Database {
        url: new.url("pair"),
        name: "pair".to_owned(),
        server: Arc::new(new),
    };
    assert_eq!(database.orders("k").await, 0);
    let mut client = database.client().await;
    let done = committed(ordered(&guard, &mut client, "k").await);
    assert_eq!(done.number(), 2);
    assert_eq!(database.orders("k").await, 1);
}
