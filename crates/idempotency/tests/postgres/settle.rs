//! What belongs to settling in a transaction beside what `drivers.rs` has.

use crate::server::{order, outcome, payload, Database};
use idempotency::postgres::{record_from, TxError};
use idempotency::{Entry, Guard};
use std::time::Duration;

/// The holder is gone: its outcome is the upstream's.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_has_settled_is_replayed_when_the_holders_lease_is_over() {
    let database = Database::new().await;
    let store = database.store().await;
    let guard = Guard::new(store)
        .lease(Duration::from_millis(500))
        .renew_for(Duration::ZERO);
    let Ok(Entry::Execute(held)) = guard.acquire("k", payload()).await else {
        panic!("granted");
    };
    let mut headers = http::HeaderMap::new();
    headers.insert("idempotency-record", held.record().parse().unwrap());
    headers.insert("idempotency-fence", held.fence().into());
    let record = record_from(&headers).unwrap();
    let mut client = database.client().await;
    let mut tx = client.transaction().await.unwrap();
    order(&tx, "k").await;
    let upstream = outcome("of the upstream");
    guard
        .settle_in_tx(&mut tx, &record, &upstream)
        .await
        .unwrap();
    // Once is enough.
    let again = guard.settle_in_tx(&mut tx, &record, &upstream).await;
    assert!(matches!(again, Err(TxError::Lost)), "{again:?}");
    tx.commit().await.unwrap();
    // As if its process was gone: nothing is said any more.
    std::mem::forget(held);
    let entry = guard.acquire("k", payload()).await.unwrap();
    let Entry::InFlight(other) = entry else {
        panic!("{entry:?}");
    };
    match other.wait(Duration::from_secs(20)).await.unwrap() {
        Entry::Replay(done) => assert_eq!(done.json::<String>().unwrap(), "of the upstream"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_that_name_no_record_are_refused() {
    let mut headers = http::HeaderMap::new();
    assert!(record_from(&headers).is_err());
    headers.insert(
        "idempotency-record",
        "tenant=&namespace=&key=k".parse().unwrap(),
    );
    assert!(record_from(&headers).is_err());
    headers.insert("idempotency-fence", 7.into());
    assert!(record_from(&headers).is_ok());
    headers.append("idempotency-fence", 8.into());
    assert!(record_from(&headers).is_err());
}
