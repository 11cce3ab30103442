//! Keys that change while records live.

use crate::common::response;
use crate::lab::*;
use idempotency_protocol::{Answer, FailCause, Operation, Owner, Redeem, StoredResponse};
use idempotency_store::sealed::{KeyRing, Trouble};
use idempotency_store::{RecordState, Sealed, Store};
use std::sync::Arc;

#[tokio::test]
async fn a_retry_after_a_rotation_matches_and_replays() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let (before, during) = (key("acme", "before"), key("acme", "during"));
    done(&store, &before, 1, b"before").await;
    granted(&store, &during, 2).await;

    ring.replace(keys(&["b", "a"])).unwrap();
    replays(&store, &before, b"before").await;
    let other = acquire_with(&before, 3, |a| a.fingerprint = payload(2));
    assert_eq!(one(&store, other).await, Answer::Mismatch);
    let scheme = acquire_with(&before, 3, |a| a.fingerprint.scheme.0 = 2);
    assert_eq!(one(&store, scheme).await, Answer::NotComparable);
    assert_eq!(ring.count(Trouble::MissingForFingerprint), 0);

    // What was granted before is the same execution, and completes.
    assert!(matches!(
        one(&store, acquire(&during, 2)).await,
        Answer::Granted(_)
    ));
    assert!(matches!(
        one(&store, acquire(&during, 3)).await,
        Answer::InFlight { .. }
    ));
    let completed = one(&store, complete(&during, 2, b"during")).await;
    assert!(matches!(completed, Answer::Completed { .. }));
    replays(&store, &during, b"during").await;

    // And is the same answer when it is sent again, also after another rotation.
    ring.replace(keys(&["c", "b", "a"])).unwrap();
    for (key, owner, body) in [(&before, 1, &b"before"[..]), (&during, 2, b"during")] {
        let again = one(&store, complete(key, owner, body)).await;
        assert!(matches!(again, Answer::Completed { .. }), "{again:?}");
        let differs = one(&store, complete(key, owner, b"other")).await;
        assert_eq!(differs, Answer::Differs);
    }
}

#[tokio::test]
async fn waits_and_proofs_find_records_of_older_keys() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = Arc::new(sealed(&inner, &ring).await);
    let key = key("acme", "k");
    let fence = granted(&*store, &key, 1).await;
    ring.replace(keys(&["b", "a"])).unwrap();

    let redeem = |fingerprint| {
        Operation::Redeem(Redeem {
            key: key.clone(),
            fence,
            fingerprint,
            expires_at_ms: u64::MAX,
        })
    };
    assert_eq!(one(&*store, redeem(payload(2))).await, Answer::Lost);
    let redeemed = one(&*store, redeem(payload(1))).await;
    assert!(matches!(redeemed, Answer::Redeemed { .. }), "{redeemed:?}");

    let waiter = {
        let (store, wait) = (Arc::clone(&store), wait(&key, fence, 30_000));
        tokio::spawn(async move { store.wait(wait).await })
    };
    while store.waits().now == 0 {
        tokio::task::yield_now().await;
    }
    one(&*store, complete(&key, 1, b"done")).await;
    match waiter.await.unwrap() {
        Answer::Stored(stored) => assert_eq!(stored.outcome, response(b"done")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redirect_survives_rotation_and_rewrap() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let key = key("acme", "k");
    let elsewhere = StoredResponse {
        status: 308,
        headers: vec![(b"location"[..].into(), b"/there"[..].into())],
        body: b"gone"[..].into(),
    };
    granted(&store, &key, 1).await;
    let redirected = Operation::Fail {
        key: key.clone(),
        owner: Owner([1; 16]),
        cause: FailCause::Redirected(Box::new(elsewhere.clone())),
    };
    assert_eq!(one(&store, redirected).await, Answer::Failed);
    let second = acquire_with(&key, 2, |a| a.fingerprint = payload(2));
    assert!(matches!(one(&store, second).await, Answer::Granted(_)));
    one(&store, complete(&key, 2, b"done")).await;

    let first = || acquire(&key, 3);
    let check = |answer| match answer {
        Answer::Stored(stored) => {
            assert_eq!(
                stored.outcome.into_outcome(),
                idempotency_protocol::Outcome::Response(elsewhere.clone())
            );
        }
        other => panic!("{other:?}"),
    };
    check(one(&store, first()).await);
    ring.replace(keys(&["b", "a"])).unwrap();
    check(one(&store, first()).await);
    assert_eq!(rewrap(&store, 10).await.rewrapped, 1);
    ring.replace(keys(&["b"])).unwrap();
    check(one(&store, first()).await);
    let second = acquire_with(&key, 4, |a| a.fingerprint = payload(2));
    assert!(matches!(one(&store, second).await, Answer::Stored(_)));
}

/// Records of every kind, under keys of their own.
async fn all_kinds(store: &Sealed) -> Vec<(idempotency_protocol::LookupKey, RecordState)> {
    let mut kinds = Vec::new();
    for n in 0..40u8 {
        let key = key("acme", &format!("k{n}"));
        granted(store, &key, n).await;
        let owner = Owner([n; 16]);
        let (operation, state) = match n % 4 {
            0 => (complete(&key, n, &vec![n; 5_000]), RecordState::Completed),
            1 => {
                let (key, cause) = (key.clone(), FailCause::Other);
                (Operation::Fail { key, owner, cause }, RecordState::Failed)
            }
            2 => {
                let key = key.clone();
                (Operation::Abandon { key, owner }, RecordState::Unknown)
            }
            _ => {
                kinds.push((key, RecordState::Executing));
                continue;
            }
        };
        one(store, operation).await;
        kinds.push((key, state));
    }
    kinds
}

#[tokio::test]
async fn after_a_rewrap_the_old_key_is_not_needed() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let kinds = all_kinds(&store).await;
    ring.replace(keys(&["b", "a"])).unwrap();
    let done = rewrap(&store, 7).await;
    assert_eq!((done.looked_at, done.rewrapped), (40, 40), "{done:?}");
    assert_eq!((done.busy, done.unreadable, done.in_clear), (0, 0, 0));
    assert_eq!(
        rewrap(&store, 7).await.rewrapped,
        0,
        "nothing is left to do"
    );
    ring.replace(keys(&["b"])).unwrap();
    for (n, (key, state)) in kinds.into_iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        let view = store.inspect(&key).await.unwrap().unwrap();
        assert_eq!((view.state, &view.key), (state, &key));
        assert_eq!(view.about.unwrap().path, "/charges");
        let other = acquire_with(&key, 200, |a| a.fingerprint = payload(2));
        assert_eq!(one(&store, other).await, Answer::Mismatch, "{state:?}");
        match state {
            RecordState::Completed => replays(&store, &key, &vec![n; 5_000]).await,
            // The executions of before go on.
            RecordState::Executing => {
                let completed = one(&store, complete(&key, n, b"late")).await;
                assert!(matches!(completed, Answer::Completed { .. }));
                replays(&store, &key, b"late").await;
            }
            RecordState::Failed => {
                assert!(matches!(
                    one(&store, acquire(&key, 200)).await,
                    Answer::Granted(_)
                ));
            }
            RecordState::Unknown => {
                let answer = one(&store, acquire(&key, 200)).await;
                assert!(matches!(answer, Answer::UnknownOutcome { .. }));
            }
        }
    }
    for trouble in Trouble::ALL {
        assert_eq!(ring.count(trouble), 0, "{trouble:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_missing_is_never_a_grant() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let kinds = all_kinds(&store).await;
    ring.replace(keys(&["b"])).unwrap();
    for (n, (key, _)) in kinds.iter().enumerate() {
        let n = u64::try_from(n).unwrap();
        assert_eq!(one(&store, acquire(key, 200)).await, Answer::NotComparable);
        assert_eq!(ring.count(Trouble::MissingForFingerprint), n + 1);
    }
    // An operator still sees that they are there, and may delete them.
    let found = store.list(everything()).await.unwrap().records;
    assert_eq!(found.len(), kinds.len());
    assert!(ring.count(Trouble::MissingForDescription) > 0);
    let unnamed = found
        .iter()
        .find(|v| v.state == RecordState::Failed)
        .unwrap();
    assert!(unnamed.about.is_none() && unnamed.key.key.starts_with("~1"));
    let deleted = idempotency_store::Resolve {
        key: unnamed.key.clone(),
        version: unnamed.version,
        to: idempotency_store::Resolution::Deleted,
        force: false,
    };
    let deleted = store.resolve(deleted).await.unwrap();
    assert_eq!(deleted, idempotency_store::Resolved::Done(None));
    let unreadable = rewrap(&store, 10).await;
    assert_eq!((unreadable.rewrapped, unreadable.unreadable), (0, 39));

    // With the key again everything is as it was.
    ring.replace(keys(&["b", "a"])).unwrap();
    replays(&store, &kinds[0].0, &vec![0; 5_000]).await;
}

/// The fingerprint can be compared, and the answer was sealed with a key that is gone.
#[tokio::test]
async fn an_answer_whose_key_is_missing_is_unreadable() {
    let (inner, old) = (memory(), ring(&["a"]));
    let first = sealed(&inner, &old).await;
    let key = key("acme", "k");
    let fence = granted(&first, &key, 1).await;
    // A process that has the new key already.
    let second = sealed(&inner, &ring(&["b", "a"])).await;
    one(&second, complete(&key, 1, b"done")).await;
    let answer = one(&first, acquire(&key, 2)).await;
    match answer {
        Answer::Unreadable {
            status, fence: of, ..
        } => assert_eq!((status, of), (201, fence)),
        other => panic!("{other:?}"),
    }
    assert_eq!(old.count(Trouble::MissingForAnswer), 1);
    let error = first.stored(&key).await.unwrap_err().to_string();
    assert!(error.contains("a key that is not given"), "{error}");
    old.replace(keys(&["a", "b"])).unwrap();
    replays(&first, &key, b"done").await;
}

#[tokio::test]
async fn another_index_key_is_refused_and_so_is_none() {
    let (inner, ring) = (memory(), ring(&["a"]));
    drop(sealed(&inner, &ring).await);
    let other = idempotency_store::sealed::Keys::line("index").unwrap() + &line("a");
    let other = KeyRing::new(idempotency_store::sealed::Keys::parse(&other).unwrap());
    let store = Arc::clone(&inner) as Arc<dyn Store>;
    let error = Sealed::open(store, other).await.err().unwrap();
    assert!(error.to_string().contains("another index key"), "{error}");
    let error = idempotency_store::sealed::refuse_sealed(&*inner).await;
    assert!(error.unwrap_err().to_string().contains("encrypted"));
    // The same one again is fine, with other keys that seal.
    drop(sealed(&inner, &self::ring(&["b"])).await);
    assert!(idempotency_store::sealed::refuse_sealed(&*memory())
        .await
        .is_ok());
}
