//! The schema.

use crate::common::*;
use crate::previous::Previous;
use crate::server::Database;
use idempotency_protocol::Answer;
use idempotency_store::postgres::Migrated;
use idempotency_store::{Postgres, Quota, Quotas, Store, StoreError};
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
    assert_eq!(migrate().await, Migrated { from: 0, to: 4 });
    let store = database.open().await;
    granted(store.as_ref(), "k", 1).await;
    assert_eq!(migrate().await, Migrated { from: 4, to: 4 });
    in_flight(one(store.as_ref(), acquire("k", 2)).await);
}

/// A database of the first version, with what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_version_is_brought_up_to_date() {
    let database = Database::empty();
    let client = database.client().await;
    let first = include_str!("../../src/postgres/migrations/0001_records.sql");
    client.batch_execute(first).await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE idempotency_schema (
                 version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
             INSERT INTO idempotency_schema (version) VALUES (1);
             INSERT INTO idempotency_records (id, version, replaces, fence, state, scheme, digest,
                 attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at, marks, due)
             SELECT decode('000174000000', 'hex') || convert_to(n::text, 'UTF8'), 1, 0, 1, 'failed', 1,
                 decode(repeat('00', 32), 'hex'), 1, 1, 1, now(), now(), '', now() + '1 h'
             FROM generate_series(1, 3) AS n",
        )
        .await
        .unwrap();
    let migrated = Postgres::migrate(&database.options()).await.unwrap();
    assert_eq!(migrated, Migrated { from: 1, to: 4 });
    let store = database.open().await;
    granted(store.as_ref(), "k", 1).await;
    let quotas = Quotas {
        records: Some(1_000),
        ..Quotas::default()
    };
    store.set_quotas(quotas).await.unwrap();
    let counted = "SELECT sum(records)::bigint FROM idempotency_tenants";
    let counted: i64 = client.query_one(counted, &[]).await.unwrap().get(0);
    assert_eq!(counted, 4);
}

/// Rows stay where they are, a transaction that holds the table does not stop the services that run, and the
/// role that counts tenants may go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_in_use_is_migrated_without_a_stop() {
    let database = Database::empty();
    Previous::migrate(&database).await;
    let client = database.client().await;
    client
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE counting LOGIN;
                 EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_tenants TO counting;
             INSERT INTO idempotency_records (id, version, replaces, fence, state, scheme, digest,
                 attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at, marks, due)
             SELECT decode('000174000000', 'hex') || convert_to(n::text, 'UTF8'), 1, 0, 1, 'failed', 1,
                 decode(repeat('00', 32), 'hex'), 1, 1, 1, now(), now(), '', now() + '1 h'
             FROM generate_series(1, 100000) AS n",
        )
        .await
        .unwrap();
    let file = || async {
        let file = "SELECT pg_relation_filenode('idempotency_records')";
        client.query_one(file, &[]).await.unwrap().get::<_, u32>(0)
    };
    let before = file().await;

    let mut other = database.client().await;
    let holder = other.transaction().await.unwrap();
    holder
        .batch_execute(
            "UPDATE idempotency_records SET due = due WHERE id =
             (SELECT id FROM idempotency_records ORDER BY id LIMIT 1)",
        )
        .await
        .unwrap();
    let options = database.options();
    let migration = tokio::spawn(async move { Postgres::migrate(&options).await });
    let refused = "SELECT 1 FROM pg_locks WHERE relation = 'idempotency_records'::regclass
        AND mode = 'AccessExclusiveLock' AND NOT granted";
    // It has tried, given up for the moment, and tried again.
    let old = Previous::on(&database).await;
    for round in 0..2 {
        while client.query(refused, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // A service of the release before waits no longer than the attempt.
        let name = format!("k{round}");
        old.grant(&name, 1).await.unwrap();
        assert!(old.complete(&name, 1, b"x").await);
    }
    assert!(!migration.is_finished());
    holder.rollback().await.unwrap();
    let migrated = migration.await.unwrap().unwrap();
    assert_eq!(migrated, Migrated { from: 2, to: 4 });
    assert_eq!(file().await, before);
    let may = "SELECT has_table_privilege('counting', 'idempotency_tenant_changes', 'INSERT')";
    assert!(client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
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
    assert_eq!(from, [0, 4, 4, 4, 4, 4, 4, 4]);
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
        Ok(Migrated { from: 3, .. }) | Err(StoreError::Permanent(_))
    ));
    let store = Postgres::open(options.clone()).await.unwrap();
    granted(&store, "k", 1).await;
    completed(&store, "k", 1, b"x").await;
    store.sweep(10).await.unwrap();
    store.ready().await.unwrap();

    // Quotas: the owner begins to count, and the role that serves says why it cannot.
    let quotas = Quotas {
        records: Some(2),
        ..Quotas::default()
    };
    let why = store.set_quotas(quotas).await.unwrap_err().to_string();
    assert!(why.contains("idempotency_count_tenants"), "{why}");
    client
        .batch_execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE
                 ON idempotency_tenants, idempotency_tenant_changes TO serving;
             SELECT idempotency_count_tenants(true)",
        )
        .await
        .unwrap();
    store.set_quotas(quotas).await.unwrap();
    granted(&store, "l", 1).await;
    refused_for_records(one(&store, acquire("m", 1)).await);
    completed(&store, "l", 1, b"x").await;
    store.sweep(10).await.unwrap();

    // Nothing is counted any more when the owner says so.
    client
        .batch_execute("SELECT idempotency_count_tenants(false)")
        .await
        .unwrap();
    assert_eq!(triggers(&database).await, 0);
}

fn refused_for_records(answer: Answer) {
    assert_eq!(Quota::refused(&answer), Some(Quota::Records), "{answer:?}");
}

async fn triggers(database: &Database) -> i64 {
    let client = database.client().await;
    let count = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'idempotency_records'::regclass";
    client.query_one(count, &[]).await.unwrap().get(0)
}

/// Without quotas, nothing stands behind a write of a record: there are no triggers, and the
/// statement that grants is the one without them.
#[tokio::test(flavor = "multi_thread")]
async fn without_quotas_nothing_is_counted() {
    let database = Database::new().await;
    let store = database.open().await;
    store.set_quotas(Quotas::default()).await.unwrap();
    granted(&*store, "k", 1).await;
    completed(&*store, "k", 1, b"x").await;
    assert_eq!(triggers(&database).await, 0);
    let client = database.client().await;
    let tenants = "SELECT count(*) FROM idempotency_tenants";
    let tenants: i64 = client.query_one(tenants, &[]).await.unwrap().get(0);
    assert_eq!(tenants, 0);
    assert!(!idempotency_store::postgres::GRANT_STATEMENT.contains("tenants"));
}

/// The counters are what the records say, after everything that can happen to records.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_is_there() {
    let database = Database::new().await;
    let store = database.open().await;
    granted(&*store, "before", 1).await;
    let quotas = Quotas {
        records: Some(1_000),
        ..Quotas::default()
    };
    store.set_quotas(quotas).await.unwrap();
    let counted = || async {
        let client = database.client().await;
        let row = "SELECT executions, records, bytes FROM idempotency_tenants";
        let row = client.query_one(row, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get(2))
    };
    let there = || async {
        let client = database.client().await;
        let row = "SELECT count(*) FILTER (WHERE state = 'executing'),
                count(*) FILTER (WHERE state <> 'vacant'),
                coalesce(sum(length(id) + coalesce(outcome_size, 0))
                    FILTER (WHERE state <> 'vacant'), 0)::bigint
            FROM idempotency_records";
        let row = client.query_one(row, &[]).await.unwrap();
        (
            row.get::<_, i64>(0),
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
        )
    };
    for name in ["a", "b", "c", "d"] {
        granted(&*store, name, 1).await;
    }
    assert_eq!(counted().await, there().await);
    completed(&*store, "a", 1, &[7; 5_000]).await;
    one(&*store, fail("b", 1)).await;
    one(&*store, fail("mark", 1)).await;
    granted(&*store, "b", 2).await;
    assert_eq!(counted().await, there().await);
    assert_eq!(there().await.1, 5);
    let client = database.client().await;
    client
        .batch_execute("UPDATE idempotency_records SET due = now() - interval '1 s'")
        .await
        .unwrap();
    while store.sweep(2).await.unwrap().more {}
    assert_eq!(counted().await, there().await);
    client
        .batch_execute(
            "UPDATE idempotency_records SET marks_until = NULL, due = now() - interval '1 s'",
        )
        .await
        .unwrap();
    while store.sweep(2).await.unwrap().more {}
    assert_eq!(there().await, (0, 0, 0));
    // A tenant that has nothing is forgotten.
    let tenants = "SELECT count(*) FROM idempotency_tenants";
    let tenants: i64 = client.query_one(tenants, &[]).await.unwrap().get(0);
    assert_eq!(tenants, 0);
}
