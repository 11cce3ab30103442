//! The server itself crashes. The acquire of a transaction is committed without waiting for the disk (ADR 18), so it
//! may be lost; then its transaction is lost, too. Nothing else is.

use crate::common::record;
use crate::server::{committed, order, ordered, outcome, payload, replayed, Database, Server};
use idempotency::postgres::TxError;
use idempotency::store::RecordState;
use idempotency::Entry;
use idempotency_stack::PostgresOptions;
use std::sync::Arc;

/// On a server of its own, which flushes its log only when somebody waits for that: what nobody has waited for is lost
/// with certainty.
async fn database() -> Database {
    let settings = [
        "wal_writer_delay = 10s",
        "autovacuum = off",
        "bgwriter_lru_maxpages = 0",
    ];
    let server = Server::start(PostgresOptions {
        settings: settings.map(str::to_owned).into(),
        ..PostgresOptions::default()
    });
    Database::on(Arc::new(server.unwrap())).await
}

/// `pg_ctl stop -m immediate`, and a start.
fn crash(server: &mut Arc<Server>) {
    let server = Arc::get_mut(server).expect("nobody else has the server");
    tokio::task::block_in_place(|| {
        server.crash();
        server.start_again().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn before_commit_acquire_and_effect_are_gone_and_the_retry_makes_one_order() {
    let mut database = database().await;
    let guard = database.guard().await;
    let mut client = database.client().await;
    let (mut first, server) = (0, &mut database.server);
    let cut = guard
        .transaction(&mut client, "k", payload(), async |tx, execution| {
            first = execution.fence();
            order(tx, "k").await;
            crash(server);
            Ok::<_, String>(outcome("of the one that was cut off"))
        })
        .await;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(database.orders("k").await, 0);
    let left = record(guard.store().as_ref()).await;
    assert_eq!(left, None, "the acquire waited for the disk");
    let mut client = database.client().await;
    let done = committed(ordered(&guard, &mut client, "k").await);
    assert!(done.fence() > first, "{} after {first}", done.fence());
    assert_eq!(database.orders("k").await, 1);
    replayed(ordered(&guard, &mut client, "k").await);
    assert_eq!(database.orders("k").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_commit_record_and_effect_are_there() {
    let mut database = database().await;
    let guard = database.guard().await;
    for round in 0..3 {
        let name = format!("k{round}");
        let mut client = database.client().await;
        let done = committed(ordered(&guard, &mut client, &name).await);
        crash(&mut database.server);
        let mut client = database.client().await;
        let again = replayed(ordered(&guard, &mut client, &name).await);
        assert_eq!(again.fence(), done.fence());
        assert_eq!(again.body(), done.body());
        assert_eq!(database.orders(&name).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_acquire_is_gone_commits_nothing() {
    let mut database = database().await;
    let guard = database.guard().await;
    let entry = guard.acquire_for_transaction("k", payload()).await.unwrap();
    let Entry::Execute(mut execution) = entry else {
        panic!("{entry:?}");
    };
    crash(&mut database.server);
    let mut client = database.client().await;
    // Nobody has the key, and then somebody has had it.
    for orders in [0, 1] {
        let mut tx = client.transaction().await.unwrap();
        order(&tx, "k").await;
        let outcome = outcome("of the one that was overtaken");
        let lost = execution.complete_in_tx(&mut tx, &outcome).await;
        assert!(matches!(lost, Err(TxError::Lost)), "{lost:?}");
        tx.rollback().await.unwrap();
        assert_eq!(database.orders("k").await, orders);
        if orders == 0 {
            committed(ordered(&guard, &mut client, "k").await);
        }
    }
    drop(execution);
    replayed(ordered(&guard, &mut client, "k").await);
}

/// Only a transaction of this database is lost with its acquire: whatever else was done outside is still there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acquired_for_anything_else_is_still_held() {
    let mut database = database().await;
    let guard = database.guard().await;
    let entry = guard.acquire("k", payload()).await.unwrap();
    let Entry::Execute(execution) = entry else {
        panic!("{entry:?}");
    };
    crash(&mut database.server);
    let other = database.guard().await;
    let running = other.acquire("k", payload()).await.unwrap();
    let Entry::InFlight(running) = running else {
        panic!("{running:?}");
    };
    assert_eq!(running.fence(), execution.fence());
    execution.complete(outcome("done")).await.unwrap();
    let left = record(guard.store().as_ref()).await.unwrap();
    assert_eq!(left.state, RecordState::Completed);
}
