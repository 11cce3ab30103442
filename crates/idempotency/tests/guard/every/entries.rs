//! What a caller is told about a key.

use crate::{execution, payload};
use idempotency::{Entry, Error, Fingerprint, Guard, Outcome};

#[tokio::test]
async fn a_replay_tells_everything_that_was_stored() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let first = execution(&guard).await;
    let (fence, number) = (first.fence(), first.number());
    assert_eq!(number, 1);
    let outcome = Outcome::json(201, &["a"]).unwrap();
    let outcome = outcome.header("Location", "/orders/1").unwrap();
    let completed = first.complete(outcome).await.unwrap();
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(
        (done.status(), done.fence(), done.number()),
        (201, fence, 1)
    );
    assert_eq!(done.json::<Vec<String>>().unwrap(), ["a"]);
    assert_eq!(done.expires_at(), completed.expires_at());
    let headers: Vec<_> = done
        .headers()
        .iter()
        .map(|(n, v)| (&n[..], &v[..]))
        .collect();
    let expected: [(&[u8], &[u8]); 2] = [
        (b"content-type", b"application/json"),
        (b"location", b"/orders/1"),
    ];
    assert_eq!(headers, expected);
    assert!(matches!(done.json::<u8>(), Err(Error::Json(_))));
}

#[tokio::test]
async fn another_payload_is_a_mismatch_while_it_runs_and_afterwards() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let other = || guard.acquire("k", Fingerprint::raw("other"));
    let running = execution(&guard).await;
    assert!(matches!(other().await.unwrap(), Entry::Mismatch));
    running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    assert!(matches!(other().await.unwrap(), Entry::Mismatch));
    let json = guard.acquire("k", Fingerprint::json("payload").unwrap());
    assert!(matches!(json.await.unwrap(), Entry::NotComparable));
}

#[tokio::test]
async fn keys_of_other_tenants_and_namespaces_are_other_keys() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let _running = execution(&guard).await;
    for other in [
        guard.clone().tenant("a"),
        guard.clone().tenant("b"),
        guard.clone().namespace("a"),
        guard.clone().namespace("b").tenant("a"),
    ] {
        execution(&other).await.abandon().await.unwrap();
    }
    let same = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(same, Entry::InFlight(_)), "{same:?}");
}
