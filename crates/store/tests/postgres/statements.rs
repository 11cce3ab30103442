//! What applications run in their own transactions: effect and record are one commit, or neither is.

use crate::application::{application, complete_in_tx, extended, order, orders, run};
use crate::clock::Clock;
use crate::common::*;
use crate::server::Database;
use idempotency_protocol::{Answer, OnUnknown, Operation, Owner, Settle, Settlement};
use idempotency_store::postgres::{Statement, Statements};
use idempotency_store::record::StoredOutcome;
use idempotency_store::{Postgres, RecordState, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::IsolationLevel;

const LEVELS: [IsolationLevel; 3] = [
    IsolationLevel::ReadCommitted,
    IsolationLevel::RepeatableRead,
    IsolationLevel::Serializable,
];

fn stored(answer: Answer, body: &[u8]) {
    match answer {
        Answer::Stored(stored) => assert_eq!(stored.outcome, response(body)),
        other => panic!("{other:?}"),
    }
}

fn settle_in_tx(store: &Postgres, name: &str, fence: u64, body: &[u8]) -> Statement {
    let outcome = StoredOutcome::new(&response(body));
    let statements = store.statements();
    statements
        .settle_in_tx(&key(name), fence, &outcome)
        .unwrap()
}

async fn state(store: &Postgres, name: &str) -> RecordState {
    store.inspect(&key(name)).await.unwrap().unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn effect_and_record_are_one_commit_in_every_isolation_level() {
    let database = Database::new().await;
    let store = database.open().await;
    let mut client = application(&database).await;
    for level in LEVELS {
        let name = format!("{level:?}");
        let grant = granted(store.as_ref(), &name, 1).await;
        for commits in [false, true] {
            let transaction = client
                .build_transaction()
                .isolation_level(level)
                .start()
                .await
                .unwrap();
            order(&transaction, &name).await;
            let complete = complete_in_tx(store.statements(), &name, 1, grant.fence, b"done");
            let rows = run(&transaction, &complete).await.unwrap();
            assert_eq!(rows.len(), 1, "{name}");
            assert_eq!(rows[0].get::<_, &str>("state"), "completed");
            let expires: i64 = rows[0].get("expires_at_ms");
            // Only the application itself sees it so far.
            in_flight(one(store.as_ref(), acquire(&name, 2)).await);
            if commits {
                transaction.commit().await.unwrap();
                let view = store.inspect(&key(&name)).await.unwrap().unwrap();
                assert_eq!(view.expires_at_ms, Some(u64::try_from(expires).unwrap()));
            } else {
                transaction.rollback().await.unwrap();
                in_flight(one(store.as_ref(), acquire(&name, 2)).await);
            }
        }
        stored(one(store.as_ref(), acquire(&name, 2)).await, b"done");
        assert_eq!(orders(&client, &name).await, 1);
        // The same owner's same outcome by the other way is the same answer.
        completed(store.as_ref(), &name, 1, b"done").await;
        // A second transaction finds nothing to complete, so its effects are not committed.
        let complete = complete_in_tx(store.statements(), &name, 1, grant.fence, b"done");
        assert_eq!(run(&client, &complete).await.unwrap().len(), 0);
    }
}

/// Somebody else changes the record after the snapshot: under the stricter levels the transaction fails in a way
/// that can be told and repeated; under READ COMMITTED nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_changes_after_the_snapshot_is_a_serialization_failure() {
    let database = Database::new().await;
    let store = database.open().await;
    let mut client = application(&database).await;
    for level in LEVELS {
        let name = format!("{level:?}");
        let grant = granted(store.as_ref(), &name, 1).await;
        let complete = complete_in_tx(store.statements(), &name, 1, grant.fence, b"done");
        let mut tries = 0;
        loop {
            tries += 1;
            let transaction = client
                .build_transaction()
                .isolation_level(level)
                .start()
                .await
                .unwrap();
            order(&transaction, &name).await;
            if tries == 1 {
                extended(store.as_ref(), &name, 1, 90_000).await;
            }
            match run(&transaction, &complete).await {
                Ok(rows) => {
                    assert_eq!(rows.len(), 1);
                    transaction.commit().await.unwrap();
                    break;
                }
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
                    transaction.rollback().await.unwrap();
                }
            }
        }
        let strict = !matches!(level, IsolationLevel::ReadCommitted);
        assert_eq!(tries, if strict { 2 } else { 1 }, "{name}");
        assert_eq!(orders(&client, &name).await, 1);
        stored(one(store.as_ref(), acquire(&name, 2)).await, b"done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_that_is_rolled_back_takes_the_record_along() {
    let database = Database::new().await;
    let store = database.open().await;
    let mut client = application(&database).await;
    let grant = granted(store.as_ref(), "k", 1).await;
    let mut transaction = client.transaction().await.unwrap();
    let savepoint = transaction.savepoint("within").await.unwrap();
    order(&savepoint, "k").await;
    let complete = complete_in_tx(store.statements(), "k", 1, grant.fence, b"inner");
    assert_eq!(run(&savepoint, &complete).await.unwrap().len(), 1);
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(state(&store, "k").await, RecordState::Executing);
    assert_eq!(orders(&client, "k").await, 0);
    completed(store.as_ref(), "k", 1, b"outer").await;
}

/// A `search_path` of the application's own, with tables of the same names in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_search_path_changes_nothing() {
    let database = Database::empty();
    let client = application(&database).await;
    client
        .batch_execute("CREATE SCHEMA \"our \"\"idempotency\"")
        .await
        .unwrap();
    let url = format!(
        "{}?options=-csearch_path%3D%22our%5C%20%22%22idempotency%22",
        database.url()
    );
    let options = idempotency_store::PostgresOptions::from_url_and(&url, |_| None).unwrap();
    Postgres::migrate(&options).await.unwrap();
    let store = Postgres::open(options).await.unwrap();
    assert_eq!(
        store.statements(),
        &Statements::with_functions("our \"idempotency")
    );
    store
        .set_quotas(idempotency_store::Quotas {
            records: Some(10),
            ..idempotency_store::Quotas::default()
        })
        .await
        .unwrap();
    let grant = granted(&store, "k", 1).await;
    client
        .batch_execute(
            "CREATE SCHEMA foreign_one;
             CREATE TABLE foreign_one.idempotency_records (nothing integer);
             CREATE TABLE foreign_one.idempotency_tenants (nothing integer);
             CREATE FUNCTION foreign_one.idempotency_now() RETURNS timestamptz
                 LANGUAGE sql AS 'SELECT timestamptz ''epoch''';
             SET search_path = foreign_one",
        )
        .await
        .unwrap();
    let complete = complete_in_tx(store.statements(), "k", 1, grant.fence, b"done");
    assert_eq!(run(&client, &complete).await.unwrap().len(), 1);
    stored(one(&store, acquire("k", 2)).await, b"done");
    let settled = granted(&store, "l", 1).await;
    let settle = settle_in_tx(&store, "l", settled.fence, b"done");
    assert_eq!(run(&client, &settle).await.unwrap().len(), 1);
    let failed = granted(&store, "m", 1).await;
    let fail = store.statements().fail_in_tx(&key("m"), failed.fence);
    assert_eq!(run(&client, &fail).await.unwrap().len(), 1);
    store.sweep(10).await.unwrap();
}

/// A program that stood still for longer than its lease, and whose key somebody else has: it commits nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_gets_no_row() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let mut client = application(&database).await;
    let old = granted_for(store.as_ref(), "k", 1, 1_000).await;
    clock.advance(Duration::from_secs(2)).await;
    let again = |owner| match acquire("k", owner) {
        Operation::Acquire(mut asked) => {
            asked.on_unknown = OnUnknown::Retry;
            Operation::Acquire(asked)
        }
        other => other,
    };
    let Answer::Granted(new) = one(store.as_ref(), again(2)).await else {
        panic!("not granted");
    };
    let none = [
        complete_in_tx(store.statements(), "k", 1, old.fence, b"zombie"),
        // Neither the fence alone nor the owner alone is enough.
        complete_in_tx(store.statements(), "k", 1, new.fence, b"zombie"),
        complete_in_tx(store.statements(), "k", 2, old.fence, b"zombie"),
        complete_in_tx(store.statements(), "nobody", 1, old.fence, b"zombie"),
        settle_in_tx(&store, "k", old.fence, b"zombie"),
        store.statements().fail_in_tx(&key("k"), old.fence),
    ];
    for statement in &none {
        let transaction = client.transaction().await.unwrap();
        order(&transaction, "k").await;
        assert_eq!(run(&transaction, statement).await.unwrap().len(), 0);
        transaction.rollback().await.unwrap();
    }
    assert_eq!(orders(&client, "k").await, 0);
    completed(store.as_ref(), "k", 2, b"heir").await;
    for statement in &none {
        assert_eq!(run(&client, statement).await.unwrap().len(), 0);
    }
    stored(one(store.as_ref(), acquire("k", 3)).await, b"heir");
}

/// Late, but nobody has taken the key: as a complete by the store.
#[tokio::test(flavor = "multi_thread")]
async fn late_is_as_good_as_in_time() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let client = application(&database).await;
    let lapsed = granted_for(store.as_ref(), "lapsed", 1, 1_000).await;
    let unknown = granted_for(store.as_ref(), "unknown", 1, 1_000).await;
    let settled = granted_for(store.as_ref(), "settled", 1, 1_000).await;
    clock.advance(Duration::from_secs(2)).await;
    let answer = one(store.as_ref(), acquire("unknown", 2)).await;
    assert!(
        matches!(answer, Answer::UnknownOutcome { .. }),
        "{answer:?}"
    );
    for (name, grant) in [("lapsed", lapsed), ("unknown", unknown)] {
        let complete = complete_in_tx(store.statements(), name, 1, grant.fence, b"late");
        assert_eq!(run(&client, &complete).await.unwrap().len(), 1);
        stored(one(store.as_ref(), acquire(name, 2)).await, b"late");
    }
    // Nobody's gateway waits any more: there is nothing to attach.
    let settle = settle_in_tx(&store, "settled", settled.fence, b"late");
    let rows = run(&client, &settle).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>("state"), "completed");
    stored(one(store.as_ref(), acquire("settled", 2)).await, b"late");
}

/// What was done with a key before.
type History = fn(&str) -> Vec<Operation>;

/// The upstream of a gateway settles in its transaction what the machine does when it is told by a call.
#[tokio::test(flavor = "multi_thread")]
async fn settling_in_a_transaction_is_settling() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let client = application(&database).await;
    // Each history twice: one is settled by a call, the other one by a statement. They look the same in the end.
    let prepare: [(&str, History); 5] = [
        ("executing", |name| vec![acquire_for(name, 1, 30_000)]),
        ("abandoned", |name| vec![acquire(name, 1), abandon(name, 1)]),
        ("failed", |name| vec![acquire(name, 1), fail(name, 1)]),
        ("doubtful", |name| {
            vec![acquire(name, 1), abandon(name, 1), retried(name, 2)]
        }),
        ("doubtful unknown", |name| {
            let mut all = vec![acquire(name, 1), abandon(name, 1), retried(name, 2)];
            all.push(abandon(name, 2));
            all
        }),
    ];
    for fails in [false, true] {
        for (what, prepare) in &prepare {
            let names = [format!("{what} {fails} call"), format!("{what} {fails} tx")];
            for name in &names {
                for operation in prepare(name) {
                    one(store.as_ref(), operation).await;
                    clock.advance(Duration::from_millis(1)).await;
                }
            }
            let [by_call, by_tx] = [&names[0], &names[1]];
            let look = |name: String| {
                let store = Arc::clone(&store);
                async move { store.inspect(&key(&name)).await.unwrap().unwrap() }
            };
            let settlement = if fails {
                Settlement::Failed
            } else {
                Settlement::Completed(response(b"settled"))
            };
            let settle = Operation::Settle(Settle {
                key: key(by_call),
                fence: look(by_call.clone()).await.fence,
                settlement,
            });
            let before = look(by_tx.clone()).await;
            let statement = if fails {
                store.statements().fail_in_tx(&key(by_tx), before.fence)
            } else {
                settle_in_tx(&store, by_tx, before.fence, b"settled")
            };
            let version = look(by_call.clone()).await.version;
            one(store.as_ref(), settle).await;
            let changed = look(by_call.clone()).await.version != version;
            let rows = run(&client, &statement).await.unwrap();
            assert_eq!(rows.len(), usize::from(changed), "{by_tx}");
            let row = |name: String| {
                let client = &client;
                async move {
                    // All but what is a matter of when and of which key.
                    let row = "SELECT (to_jsonb(r) - ARRAY['id', 'version', 'replaces', 'fence',
                            'history_version', 'history_fence', 'history', 'created_at',
                            'changed_at', 'due', 'lease_until', 'history_since', 'marks',
                            'marks_until'])::text,
                            encode(substring(history FROM 1 FOR 4), 'hex'), history_version = version,
                            due - changed_at, lease_until IS NULL
                        FROM idempotency_records r WHERE id = $1";
                    let id = key(&name).to_bytes();
                    let row = client.query_one(row, &[&id]).await.unwrap();
                    let text: String = row.get(0);
                    (
                        text,
                        row.get::<_, String>(1),
                        row.get::<_, bool>(2),
                        row.get::<_, bool>(4),
                    )
                }
            };
            assert_eq!(
                row(by_call.clone()).await,
                row(by_tx.clone()).await,
                "{by_tx}"
            );
            // And everybody is answered the same.
            for n in 3..6 {
                let asked = |name: &str| match n {
                    3 => acquire(name, n),
                    4 => complete(name, 1, b"of the gateway"),
                    _ => acquire(name, n),
                };
                let by_call = one(store.as_ref(), asked(by_call)).await;
                let by_tx = one(store.as_ref(), asked(by_tx)).await;
                assert_eq!(by_call.name(), by_tx.name(), "{what} {fails} {n}");
            }
        }
    }
}

fn retried(name: &str, owner: u8) -> Operation {
    match acquire(name, owner) {
        Operation::Acquire(mut asked) => {
            asked.on_unknown = OnUnknown::Retry;
            asked.owner = Owner([owner; 16]);
            Operation::Acquire(asked)
        }
        other => other,
    }
}
