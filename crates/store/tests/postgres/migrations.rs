//! The schema.

use crate::common::*;
use crate::server::Database;
use idempotency_store::postgres::Migrated;
use idempotency_store::{Postgres, Store, StoreError};
use tokio::task::JoinSet;

async fn refused(database: &Database) -> String {
    match Postgres::open(database.options()).await {
        Err(StoreError::Permanent(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_can_be_repeated() {
    let database = Database::empty();
    let migrate = || async { Postgres::migrate(&database.options()).await.unwrap() };
    assert_eq!(migrate().await, Migrated { from: 0, to: 1 });
    let store = database.open().await;
    granted(store.as_ref(), "k", 1).await;
    assert_eq!(migrate().await, Migrated { from: 1, to: 1 });
    in_flight(one(store.as_ref(), acquire("k", 2)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_migrations_at_once_one_does_it() {
    let database = Database::empty();
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let options = database.options();
        tasks.spawn(async move { Postgres::migrate(&options).await.unwrap().from });
    }
    let mut from = tasks.join_all().await;
    from.sort_unstable();
    assert_eq!(from, [0, 1, 1, 1, 1, 1, 1, 1]);
    database.open().await.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_is_named() {
    let database = Database::empty();
    let why = refused(&database).await;
    assert!(why.contains("idempotencyd migrate"), "{why}");
    assert!(why.contains(&database.name), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let database = Database::new().await;
    let store = database.open().await;
    let client = database.client().await;
    client
        .batch_execute("INSERT INTO idempotency_schema (version) VALUES (999)")
        .await
        .unwrap();
    let why = refused(&database).await;
    assert!(why.contains("version 999"), "{why}");
    let migrated = Postgres::migrate(&database.options()).await;
    assert!(matches!(migrated, Err(StoreError::Permanent(_))));
    // One that was there before notices, too.
    assert!(matches!(store.ready().await, Err(StoreError::Permanent(_))));
}

/// The role that serves needs no right but those that the manual names.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_nothing_can_serve() {
    let database = Database::new().await;
    let client = database.client().await;
    client
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE serving LOGIN;
                 EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_records TO serving;
             GRANT SELECT, UPDATE ON idempotency_floor TO serving;
             GRANT SELECT ON idempotency_schema TO serving",
        )
        .await
        .unwrap();
    let url = database.url().replace("postgres@", "serving@");
    let options = idempotency_store::PostgresOptions::from_url_and(&url, |_| None).unwrap();
    assert!(matches!(
        Postgres::migrate(&options).await,
        Ok(Migrated { from: 1, .. }) | Err(StoreError::Permanent(_))
    ));
    let store = Postgres::open(options).await.unwrap();
    granted(&store, "k", 1).await;
    completed(&store, "k", 1, b"x").await;
    store.sweep(10).await.unwrap();
    store.ready().await.unwrap();
}
