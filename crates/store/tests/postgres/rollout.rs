//! Services of two releases on one database: the schema changes under the older ones, and each reads right what
//! the other wrote.

use crate::clock::Clock;
use crate::common::*;
use crate::previous::Previous;
use crate::server::Database;
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, FailCause, OnUnknown, Operation, Owner, Settle, Settlement,
    StoredResponse,
};
use idempotency_store::postgres::Migrated;
use idempotency_store::{Postgres, Quota, Quotas, RecordState, Store};
use std::sync::Arc;
use std::time::Duration;

/// A database with a clock that is moved, the service before and the one after.
struct Rollout {
    _database: Database,
    clock: Clock,
    old: Previous,
    new: Arc<Postgres>,
}

impl Rollout {
    async fn begin() -> Rollout {
        let database = Database::empty();
        Previous::migrate(&database).await;
        let clock = Clock::install(&database, START).await;
        let old = Previous::on(&database).await;
        // It has prepared its statements before the tables change.
        assert_eq!(old.version().await, 2);
        old.grant("before", 1).await.unwrap();
        let migrated = Postgres::migrate(&database.options()).await.unwrap();
        assert_eq!(migrated, Migrated { from: 2, to: 4 });
        let new = database.open().await;
        Rollout {
            _database: database,
            clock,
            old,
            new,
        }
    }

    /// Some time passes: a moment between two requests.
    async fn moment(&self) {
        self.clock.advance(Duration::from_millis(3)).await;
    }

    async fn new_fails(&self, name: &str, owner: u8, cause: FailCause) {
        let fail = Operation::Fail {
            key: key(name),
            owner: Owner([owner; 16]),
            cause,
        };
        assert_eq!(one(&*self.new, fail).await, Answer::Failed, "{name}");
        self.moment().await;
    }

    async fn state(&self, name: &str) -> Option<RecordState> {
        let view = self.new.inspect(&key(name)).await.unwrap();
        view.map(|view| view.state)
    }
}

/// The same acquire of another request, or under another rule.
fn varied(name: &str, owner: u8, change: impl FnOnce(&mut Acquire)) -> Operation {
    let Operation::Acquire(mut acquire) = acquire(name, owner) else {
        unreachable!()
    };
    change(&mut acquire);
    Operation::Acquire(acquire)
}

fn corrected(name: &str, owner: u8) -> Operation {
    varied(name, owner, |a| a.fingerprint.digest = [9; 32])
}

fn retried(name: &str, owner: u8) -> Operation {
    varied(name, owner, |a| a.on_unknown = OnUnknown::Retry)
}

fn attempt(answer: Answer) -> u32 {
    match answer {
        Answer::Granted(grant) => grant.attempt,
        other => panic!("{other:?}"),
    }
}

fn replayed(answer: Answer, body: &[u8]) {
    match answer {
        Answer::Stored(stored) => assert_eq!(stored.outcome, response(body)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_release_before_left_is_read() {
    let database = Database::empty();
    Previous::migrate(&database).await;
    let _clock = Clock::install(&database, START).await;
    let old = Previous::on(&database).await;
    for name in ["executing", "completed", "failed", "unknown"] {
        old.grant(name, 1).await.unwrap();
    }
    assert!(old.complete("completed", 1, b"old").await);
    old.end("failed", 1, "failed").await;
    old.end("unknown", 1, "unknown").await;
    Postgres::migrate(&database.options()).await.unwrap();
    let new = database.open().await;

    in_flight(one(&*new, acquire("executing", 2)).await);
    completed(&*new, "executing", 1, b"late").await;
    replayed(one(&*new, acquire("executing", 2)).await, b"late");
    replayed(one(&*new, acquire("completed", 2)).await, b"old");
    let unknown = one(&*new, acquire("unknown", 2)).await;
    assert!(
        matches!(unknown, Answer::UnknownOutcome { .. }),
        "{unknown:?}"
    );
    let transactions = varied("unknown", 2, |a| {
        a.on_unknown = OnUnknown::RetryTransactions;
        a.kind = AttemptKind::Transaction;
    });
    let unknown = one(&*new, transactions).await;
    assert!(
        matches!(unknown, Answer::UnknownOutcome { .. }),
        "{unknown:?}"
    );
    // Nobody noted why it failed: work may be half done.
    assert_eq!(one(&*new, corrected("failed", 2)).await, Answer::Mismatch);
    assert_eq!(attempt(one(&*new, acquire("failed", 2)).await), 2);
    let view = new.inspect(&key("completed")).await.unwrap().unwrap();
    assert_eq!(view.created_at_ms, START / 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_either_grants_the_other_completes_and_replays() {
    let rollout = Rollout::begin().await;
    let Rollout { old, new, .. } = &rollout;
    // The one that began before the schema changed goes on.
    assert_eq!(old.version().await, 2);
    completed(&**new, "before", 1, b"x").await;
    assert_eq!(old.grant("before", 2).await, None);

    granted(&**new, "a", 1).await;
    assert_eq!(old.grant("a", 2).await, None, "the key is held");
    assert!(!old.complete("a", 2, b"zombie").await);
    assert!(old.complete("a", 1, b"a").await);
    replayed(one(&**new, acquire("a", 2)).await, b"a");

    old.grant("b", 1).await.unwrap();
    in_flight(one(&**new, acquire("b", 2)).await);
    assert_eq!(one(&**new, complete("b", 2, b"zombie")).await, Answer::Lost);
    completed(&**new, "b", 1, b"b").await;
    let (row, _) = old.read("b").await;
    let outcome = row.unwrap().outcome.unwrap();
    assert_eq!(outcome, response(b"b").encode());
    replayed(one(&**new, acquire("b", 2)).await, b"b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_by_the_release_before_says_nothing_of_its_cause() {
    let rollout = Rollout::begin().await;
    let Rollout { old, new, .. } = &rollout;
    for name in ["same", "other"] {
        granted(&**new, name, 1).await;
        rollout.moment().await;
        old.end(name, 1, "failed").await;
    }
    assert_eq!(one(&**new, corrected("other", 2)).await, Answer::Mismatch);
    assert_eq!(attempt(one(&**new, acquire("same", 2)).await), 2);
    // Nothing was done so far; then the release before runs the next attempt.
    granted(&**new, "later", 1).await;
    rollout.new_fails("later", 1, FailCause::NotSent).await;
    old.grant_again("later", 2).await;
    rollout.moment().await;
    old.end("later", 2, "failed").await;
    assert_eq!(one(&**new, corrected("later", 3)).await, Answer::Mismatch);
    // And the other way round: what the newer one knows is known while nobody else touches it.
    granted(&**new, "mine", 1).await;
    rollout.new_fails("mine", 1, FailCause::NotSent).await;
    assert_eq!(attempt(one(&**new, corrected("mine", 2)).await), 2);
    // The release before saw a failure, and grants the same request.
    granted(&**new, "yours", 1).await;
    rollout.new_fails("yours", 1, FailCause::Refused).await;
    assert_eq!(old.read("yours").await.0.unwrap().state, "failed");
    old.grant_again("yours", 2).await;
    in_flight(one(&**new, acquire("yours", 3)).await);
    assert!(old.complete("yours", 2, b"done").await);
    replayed(one(&**new, acquire("yours", 3)).await, b"done");
}

/// The first attempt may have been done. That the second one failed, as the release before writes, frees nothing.
#[tokio::test(flavor = "multi_thread")]
async fn doubt_outlives_what_the_release_before_writes() {
    let rollout = Rollout::begin().await;
    let Rollout { old, new, .. } = &rollout;
    for name in ["failed", "resolved", "swept"] {
        granted(&**new, name, 1).await;
        assert_eq!(one(&**new, abandon(name, 1)).await, Answer::Abandoned);
        rollout.moment().await;
        assert_eq!(attempt(one(&**new, retried(name, 2)).await), 2);
        rollout.moment().await;
    }
    old.end("failed", 2, "failed").await;
    let refused = one(&**new, acquire("failed", 3)).await;
    assert!(
        matches!(refused, Answer::UnknownOutcome { .. }),
        "{refused:?}"
    );
    assert_eq!(rollout.state("failed").await, Some(RecordState::Unknown));
    assert_eq!(attempt(one(&**new, retried("failed", 3)).await), 3);
    // An operator has looked.
    old.resolve_to_failed("resolved").await;
    assert_eq!(attempt(one(&**new, acquire("resolved", 3)).await), 3);
    // The lease ran out and the release before has swept it: unknown, and its owner's word comes too late.
    rollout.clock.advance(Duration::from_secs(61)).await;
    old.sweep().await;
    assert_eq!(rollout.state("swept").await, Some(RecordState::Unknown));
    assert_eq!(one(&**new, fail("swept", 2)).await, Answer::Abandoned);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_kinds_hold_for_the_same_record_only() {
    let rollout = Rollout::begin().await;
    let Rollout { old, new, .. } = &rollout;
    let moved = || {
        FailCause::Redirected(Box::new(StoredResponse {
            status: 307,
            headers: Vec::new(),
            body: bytes::Bytes::from_static(b"there"),
        }))
    };
    let is_moved = |answer: Answer| match answer {
        Answer::Stored(stored) => match stored.outcome.into_outcome() {
            idempotency_protocol::Outcome::Response(response) => response.status == 307,
            _ => false,
        },
        _ => false,
    };
    granted(&**new, "k", 1).await;
    rollout.new_fails("k", 1, moved()).await;
    // The request that follows the redirect is run by the release before.
    old.grant_again("k", 2).await;
    assert!(is_moved(one(&**new, acquire("k", 3)).await));
    assert!(old.complete("k", 2, b"done").await);
    assert!(is_moved(one(&**new, acquire("k", 3)).await));
    // Everything is over, and the release before makes the record anew.
    rollout
        .clock
        .advance(Duration::from_millis(TTL_MS + 1))
        .await;
    old.grant_anew("k", 4).await;
    in_flight(one(&**new, acquire("k", 5)).await);
    assert_eq!(rollout.state("k").await, Some(RecordState::Executing));

    // A gateway of the release before ran an attempt: it is not true any more that all were transactions.
    let transaction = |name: &str, owner| {
        varied(name, owner, |a| {
            a.kind = AttemptKind::Transaction;
            a.on_unknown = OnUnknown::RetryTransactions;
        })
    };
    for name in ["pure", "mixed"] {
        assert_eq!(attempt(one(&**new, transaction(name, 1)).await), 1);
        assert_eq!(one(&**new, abandon(name, 1)).await, Answer::Abandoned);
        rollout.moment().await;
    }
    assert_eq!(attempt(one(&**new, transaction("pure", 2)).await), 2);
    old.grant_again("mixed", 2).await;
    old.end("mixed", 2, "unknown").await;
    let refused = one(&**new, transaction("mixed", 3)).await;
    assert!(
        matches!(refused, Answer::UnknownOutcome { .. }),
        "{refused:?}"
    );
}

/// The release before knows no settled records: it answers with an error, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_record_is_safe_from_the_release_before() {
    let rollout = Rollout::begin().await;
    let Rollout { old, new, .. } = &rollout;
    let grant = granted(&**new, "k", 1).await;
    let settle = Operation::Settle(Settle {
        key: key("k"),
        fence: grant.fence,
        settlement: Settlement::Completed(response(b"upstream")),
    });
    let answer = one(&**new, settle).await;
    assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
    assert_eq!(old.grant("k", 2).await, None);
    assert!(!old.complete("k", 1, b"gateway").await);
    let (row, _) = old.read("k").await;
    assert!(!row.unwrap().is_understood());
    rollout.clock.advance(Duration::from_secs(61)).await;
    old.sweep().await;
    replayed(one(&**new, acquire("k", 2)).await, b"upstream");
    // When it is over, it is swept like any other.
    rollout.clock.advance(Duration::from_millis(TTL_MS)).await;
    old.sweep().await;
    assert_eq!(rollout.state("k").await, None);
    let (row, _) = old.read("k").await;
    assert_eq!(row, None);
}

/// Counted by the triggers of either release, granted by the functions of both.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_over_both() {
    let database = Database::empty();
    Previous::migrate(&database).await;
    let old = Previous::on(&database).await;
    old.client
        .batch_execute("SELECT idempotency_count_tenants(true)")
        .await
        .unwrap();
    old.grant_within("a", 1, 4).await.unwrap();
    assert!(old.complete("a", 1, b"x").await);
    Postgres::migrate(&database.options()).await.unwrap();
    let new = database.open().await;
    let quotas = Quotas {
        records: Some(4),
        ..Quotas::default()
    };
    new.set_quotas(quotas).await.unwrap();
    granted(&*new, "b", 1).await;
    old.grant_within("c", 1, 4).await.unwrap();
    assert!(old.complete("b", 1, b"x").await);
    completed(&*new, "c", 1, b"x").await;
    granted(&*new, "d", 1).await;
    assert_eq!(old.grant_within("e", 1, 4).await, None);
    let refused = one(&*new, acquire("e", 1)).await;
    assert_eq!(
        Quota::refused(&refused),
        Some(Quota::Records),
        "{refused:?}"
    );
    let counted = "SELECT records, executions FROM idempotency_tenants";
    let counted = old.client.query_one(counted, &[]).await.unwrap();
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (4, 1));
}
