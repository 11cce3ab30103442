//! The previous release and this one on one Redis, as while a new version is rolled out. The
//! previous one is its script (`script_v1.lua`, as it was shipped) and what it was handed.

use crate::common::{
    abandon, acquire, acquire_for, complete, completed, fail, fingerprint, granted, key, one,
    response, TTL_MS,
};
use crate::support::{name, open, server, until};
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, FailCause, Fingerprint, OnUnknown, Operation, Outcome, Owner,
    Scheme, Settle, Settlement, StoredResponse,
};
use idempotency_stack::Redis;
use idempotency_store::{RecordState, RedisStore, Resolution, Resolve, Store};
use redis::{FromRedisValue, Value};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const SCRIPT: &str = include_str!("script_v1.lua");

/// A service of the previous release.
struct Old(redis::Connection);

impl Old {
    fn call(&mut self, of: &str, arguments: &[&[u8]]) -> Result<Vec<Value>, String> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(1).arg(name(&key(of)));
        for argument in arguments {
            eval.arg(*argument);
        }
        eval.query(&mut self.0).map_err(|error| error.to_string())
    }

    /// The first word of the answer.
    fn word(&mut self, of: &str, arguments: &[&[u8]]) -> String {
        let mut answer = self.call(of, arguments).unwrap();
        String::from_redis_value(answer.remove(0)).unwrap()
    }

    fn acquire_as(&mut self, of: &str, owner: u8, lease_ms: u64, retry: bool) -> String {
        let fingerprint = fingerprint();
        let us = |ms: u64| (ms * 1_000).to_string().into_bytes();
        let scheme = fingerprint.scheme.0.to_be_bytes();
        self.word(
            of,
            &[
                b"acquire",
                &[owner; 16],
                &[&scheme[..], &fingerprint.digest].concat(),
                &us(lease_ms),
                &us(TTL_MS),
                &us(TTL_MS),
                if retry { b"1" } else { b"0" },
                b"0",
                b"65536",
            ],
        )
    }

    fn acquire(&mut self, of: &str, owner: u8) -> String {
        self.acquire_as(of, owner, 60_000, false)
    }

    fn complete(&mut self, of: &str, owner: u8, body: &[u8]) -> String {
        let outcome = response(body).encode();
        let digest: [u8; 32] = Sha256::digest(&outcome).into();
        let number = |n: usize| n.to_string().into_bytes();
        self.word(
            of,
            &[
                b"complete",
                &[owner; 16],
                b"201",
                b"1",
                &number(body.len()),
                &digest,
                &number(outcome.len()),
                &outcome,
            ],
        )
    }

    /// `fail` or `abandon`.
    fn end(&mut self, of: &str, how: &[u8], owner: u8) -> String {
        self.word(of, &[how, &[owner; 16]])
    }

    fn extend(&mut self, of: &str, owner: u8) -> String {
        self.word(of, &[b"extend", &[owner; 16], b"60000000"])
    }

    fn delete(&mut self, of: &str, version: u64) -> String {
        let version = version.to_string();
        self.word(of, &[b"resolve", version.as_bytes(), b"1", b"deleted"])
    }
}

async fn both() -> (Redis, Old, Arc<RedisStore>) {
    let server = server(&[]);
    let client = redis::Client::open(server.url()).unwrap();
    let old = Old(client.get_connection().unwrap());
    let new = open(&server.url()).await;
    (server, old, new)
}

fn changed(operation: Operation, change: impl FnOnce(&mut Acquire)) -> Operation {
    let Operation::Acquire(mut acquire) = operation else {
        unreachable!()
    };
    change(&mut acquire);
    Operation::Acquire(acquire)
}

/// An acquire of another request with the same key.
fn corrected(of: &str, owner: u8) -> Operation {
    changed(acquire(of, owner), |a| {
        a.fingerprint = Fingerprint {
            scheme: Scheme(1),
            digest: [2; 32],
        };
    })
}

fn retry(of: &str, owner: u8) -> Operation {
    changed(acquire(of, owner), |a| a.on_unknown = OnUnknown::Retry)
}

fn not_sent(of: &str, owner: u8) -> Operation {
    Operation::Fail {
        key: key(of),
        owner: Owner([owner; 16]),
        cause: FailCause::NotSent,
    }
}

/// The redirect that this owner's execution gets.
fn redirect(owner: u8) -> StoredResponse {
    StoredResponse {
        status: 307,
        headers: vec![("location".into(), "/elsewhere".into())],
        body: vec![owner; 3].into(),
    }
}

fn redirected(of: &str, owner: u8) -> Operation {
    Operation::Fail {
        key: key(of),
        owner: Owner([owner; 16]),
        cause: FailCause::Redirected(Box::new(redirect(owner))),
    }
}

fn settled(of: &str, fence: u64) -> Operation {
    Operation::Settle(Settle {
        key: key(of),
        fence,
        settlement: Settlement::Completed(response(b"by the upstream")),
    })
}

async fn name_of(store: &RedisStore, operation: Operation) -> &'static str {
    one(store, operation).await.name()
}

async fn stored(store: &RedisStore, operation: Operation) -> Outcome {
    match one(store, operation).await {
        Answer::Stored(stored) => stored.outcome.into_outcome(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_release_goes_on_with_what_the_previous_one_wrote() {
    let (_server, mut old, new) = both().await;
    for k in [
        "executing",
        "extended",
        "completed",
        "failed",
        "unknown",
        "resolved",
    ] {
        assert_eq!(old.acquire(k, 1), "granted");
    }
    assert_eq!(old.complete("completed", 1, b"paid"), "completed");
    assert_eq!(old.end("failed", b"fail", 1), "failed");
    assert_eq!(old.end("unknown", b"abandon", 1), "abandoned");
    assert_eq!(old.end("marked", b"fail", 1), "marked");

    assert_eq!(name_of(&new, acquire("executing", 2)).await, "in_flight");
    assert_eq!(name_of(&new, acquire("executing", 1)).await, "granted");
    let extend = Operation::Extend {
        key: key("extended"),
        owner: Owner([1; 16]),
        lease_ms: 60_000,
    };
    assert_eq!(name_of(&new, extend).await, "extended");
    assert_eq!(old.extend("extended", 1), "extended");
    completed(&*new, "extended", 1, b"paid").await;
    completed(&*new, "executing", 1, b"paid").await;
    completed(&*new, "completed", 1, b"paid").await;
    for k in ["executing", "completed", "extended"] {
        assert_eq!(stored(&new, acquire(k, 2)).await, response(b"paid"), "{k}");
        assert_eq!(old.acquire(k, 3), "stored", "{k}");
    }
    // Nobody has noted why it failed.
    assert_eq!(name_of(&new, corrected("failed", 2)).await, "mismatch");
    assert_eq!(name_of(&new, acquire("failed", 1)).await, "spent");
    assert_eq!(name_of(&new, acquire("failed", 2)).await, "granted");
    assert_eq!(name_of(&new, not_sent("failed", 2)).await, "failed");
    assert_eq!(name_of(&new, corrected("failed", 3)).await, "mismatch");

    assert_eq!(
        name_of(&new, acquire("unknown", 2)).await,
        "unknown_outcome"
    );
    let transactions = changed(acquire("unknown", 2), |a| {
        a.on_unknown = OnUnknown::RetryTransactions;
    });
    assert_eq!(name_of(&new, transactions).await, "unknown_outcome");
    assert_eq!(name_of(&new, retry("unknown", 2)).await, "granted");
    assert_eq!(name_of(&new, not_sent("unknown", 2)).await, "abandoned");

    assert_eq!(name_of(&new, acquire("marked", 1)).await, "cancelled");

    let record = new.inspect(&key("resolved")).await.unwrap().unwrap();
    assert_eq!((record.state, record.attempt), (RecordState::Executing, 1));
    let resolve = Resolve {
        key: key("resolved"),
        version: record.version,
        to: Resolution::Completed(response(b"by hand")),
        force: true,
    };
    new.resolve(resolve).await.unwrap();
    assert_eq!(
        stored(&new, acquire("resolved", 2)).await,
        response(b"by hand")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_release_goes_on_with_what_this_one_wrote() {
    let (_server, mut old, new) = both().await;
    for k in ["executing", "completed", "failed", "unknown"] {
        granted(&*new, k, 1).await;
    }
    completed(&*new, "completed", 1, b"paid").await;
    assert_eq!(name_of(&new, not_sent("failed", 1)).await, "failed");
    assert_eq!(name_of(&new, abandon("unknown", 1)).await, "abandoned");
    assert_eq!(name_of(&new, abandon("marked", 1)).await, "marked");

    assert_eq!(old.acquire("executing", 2), "in_flight");
    assert_eq!(old.acquire("executing", 1), "granted");
    assert_eq!(old.extend("executing", 1), "extended");
    assert_eq!(old.complete("executing", 2, b"zombie"), "lost");
    assert_eq!(old.complete("executing", 1, b"paid"), "completed");
    assert_eq!(old.acquire("completed", 2), "stored");
    assert_eq!(old.complete("completed", 1, b"paid"), "completed");
    assert_eq!(old.acquire("failed", 1), "spent");
    assert_eq!(old.acquire("failed", 2), "granted");
    assert_eq!(old.acquire("unknown", 2), "unknown_outcome");
    assert_eq!(old.acquire("marked", 1), "cancelled");

    for k in ["executing", "completed"] {
        assert_eq!(stored(&new, acquire(k, 3)).await, response(b"paid"), "{k}");
    }
    assert_eq!(name_of(&new, acquire("failed", 3)).await, "in_flight");
}

/// What it does not know it refuses, instead of taking it for something else.
#[tokio::test(flavor = "multi_thread")]
async fn the_previous_release_refuses_what_is_settled_until_it_is_completed() {
    let (_server, mut old, new) = both().await;
    let grant = granted(&*new, "k", 1).await;
    assert_eq!(name_of(&new, settled("k", grant.fence)).await, "completed");
    assert_eq!(name_of(&new, acquire("k", 2)).await, "in_flight");
    for arguments in [
        &[&b"inspect"[..]][..],
        &[b"fail", &[1; 16]],
        &[b"abandon", &[1; 16]],
        &[
            b"complete",
            &[1; 16],
            b"201",
            b"0",
            b"0",
            &[0; 32],
            b"1",
            b"x",
        ],
    ] {
        let refused = old.call("k", arguments).unwrap_err();
        assert!(refused.contains("IDEMFORMAT"), "{refused}");
    }
    completed(&*new, "k", 1, b"as the client got it").await;
    assert_eq!(old.acquire("k", 2), "stored");

    // Or until a sweep has seen that nobody will complete it.
    let grant = match one(&*new, acquire_for("left", 1, 50)).await {
        Answer::Granted(grant) => grant,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        name_of(&new, settled("left", grant.fence)).await,
        "completed"
    );
    let before = new.inspect(&key("left")).await.unwrap().unwrap();
    assert!(before.lease_left_ms.is_some());
    let swept = &new;
    until(|| {
        let is_read = old.call("left", &[b"inspect"]).is_ok();
        async move {
            while swept.sweep(100).await.unwrap().more {}
            is_read
        }
    })
    .await;
    let after = new.inspect(&key("left")).await.unwrap().unwrap();
    assert_eq!(
        (after.state, after.version),
        (RecordState::Completed, before.version)
    );
    assert_eq!(old.acquire("left", 2), "stored");
    let replayed = stored(&new, acquire("left", 2)).await;
    assert_eq!(replayed, response(b"by the upstream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_previous_release_failed_may_have_left_effects() {
    let (_server, mut old, new) = both().await;
    // This very attempt.
    granted(&*new, "this", 1).await;
    assert_eq!(old.end("this", b"fail", 1), "failed");
    // One between two of this release.
    granted(&*new, "between", 1).await;
    assert_eq!(name_of(&new, not_sent("between", 1)).await, "failed");
    assert_eq!(old.acquire("between", 2), "granted");
    assert_eq!(old.end("between", b"fail", 2), "failed");
    assert_eq!(name_of(&new, acquire("between", 3)).await, "granted");
    assert_eq!(name_of(&new, not_sent("between", 3)).await, "failed");
    // One that was going on when this release came.
    granted(&*new, "going on", 1).await;
    assert_eq!(name_of(&new, not_sent("going on", 1)).await, "failed");
    assert_eq!(old.acquire("going on", 2), "granted");
    assert_eq!(name_of(&new, not_sent("going on", 2)).await, "failed");
    for k in ["this", "between", "going on"] {
        assert_eq!(name_of(&new, corrected(k, 9)).await, "mismatch", "{k}");
        assert_eq!(name_of(&new, acquire(k, 9)).await, "granted", "{k}");
    }
    // And without the previous release: a corrected request.
    granted(&*new, "alone", 1).await;
    assert_eq!(name_of(&new, not_sent("alone", 1)).await, "failed");
    assert_eq!(name_of(&new, corrected("alone", 9)).await, "granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_grows_outlives_the_previous_release_s_changes() {
    let (_server, mut old, new) = both().await;
    // Doubt.
    granted(&*new, "doubt", 1).await;
    assert_eq!(name_of(&new, abandon("doubt", 1)).await, "abandoned");
    assert_eq!(name_of(&new, retry("doubt", 2)).await, "granted");
    assert_eq!(old.extend("doubt", 2), "extended");
    assert_eq!(name_of(&new, not_sent("doubt", 2)).await, "abandoned");
    assert_eq!(name_of(&new, acquire("doubt", 3)).await, "unknown_outcome");
    assert_eq!(old.acquire_as("doubt", 3, 60_000, true), "granted");
    assert_eq!(old.end("doubt", b"fail", 3), "failed");
    assert_eq!(name_of(&new, acquire("doubt", 4)).await, "granted");
    assert_eq!(name_of(&new, fail("doubt", 4)).await, "abandoned");

    // A redirect.
    granted(&*new, "redirect", 1).await;
    assert_eq!(name_of(&new, redirected("redirect", 1)).await, "failed");
    assert_eq!(old.acquire("redirect", 2), "granted");
    let answer = stored(&new, acquire("redirect", 3)).await;
    assert_eq!(answer, Outcome::Response(redirect(1)));
    assert_eq!(old.end("redirect", b"fail", 2), "failed");
    let answer = stored(&new, acquire("redirect", 3)).await;
    assert_eq!(answer, Outcome::Response(redirect(1)));
    // The same request got another one: the newest is its answer.
    assert_eq!(old.acquire("redirect", 4), "granted");
    assert_eq!(name_of(&new, redirected("redirect", 4)).await, "failed");
    let answer = stored(&new, acquire("redirect", 5)).await;
    assert_eq!(answer, Outcome::Response(redirect(4)));

    // Kinds: an attempt of the previous release was a gateway's.
    let transaction = |owner| {
        changed(acquire("kinds", owner), |a| {
            a.kind = AttemptKind::Transaction;
            a.on_unknown = OnUnknown::RetryTransactions;
        })
    };
    assert_eq!(name_of(&new, transaction(1)).await, "granted");
    assert_eq!(name_of(&new, abandon("kinds", 1)).await, "abandoned");
    assert_eq!(name_of(&new, transaction(2)).await, "granted");
    assert_eq!(name_of(&new, fail("kinds", 2)).await, "failed");
    assert_eq!(old.acquire("kinds", 3), "granted");
    assert_eq!(old.end("kinds", b"abandon", 3), "abandoned");
    assert_eq!(name_of(&new, transaction(4)).await, "unknown_outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_a_record_says_nothing_of_the_next_one() {
    let (_server, mut old, new) = both().await;
    granted(&*new, "k", 1).await;
    assert_eq!(name_of(&new, redirected("k", 1)).await, "failed");
    let record = new.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(old.delete("k", record.version), "done");
    // Over, and the next one is this release's.
    assert_eq!(name_of(&new, acquire("k", 2)).await, "granted");
    assert_eq!(name_of(&new, redirected("k", 2)).await, "failed");
    let record = new.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(record.attempt, 1);
    // And the next one is the previous release's.
    assert_eq!(old.delete("k", record.version), "done");
    assert_eq!(old.acquire("k", 3), "granted");
    assert_eq!(name_of(&new, acquire("k", 4)).await, "in_flight");
    assert_eq!(old.end("k", b"fail", 3), "failed");
    assert_eq!(name_of(&new, corrected("k", 4)).await, "mismatch");
    assert_eq!(name_of(&new, acquire("k", 4)).await, "granted");
    assert_eq!(name_of(&new, complete("k", 4, b"paid")).await, "completed");
    assert_eq!(stored(&new, acquire("k", 5)).await, response(b"paid"));
}
