//! Encryption in an embedded store that is full.

use crate::lab::*;
use idempotency_protocol::{Answer, FaultCode};
use idempotency_store::sealed::refuse_sealed;
use idempotency_store::{Embedded, EmbeddedOptions, Sealed, Store, StoreError};
use std::path::Path;
use std::sync::Arc;

/// More must be free than any disk has.
fn no_disk(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        min_free_bytes: 1 << 60,
        ..EmbeddedOptions::new(dir)
    }
}

/// Less than one note of the encryption takes.
fn no_bytes(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        max_bytes: Some(1),
        ..EmbeddedOptions::new(dir)
    }
}

fn open(options: EmbeddedOptions) -> Arc<Embedded> {
    Arc::new(Embedded::open(options).unwrap())
}

async fn refused(store: &dyn Store, name: &str) {
    match one(store, acquire(&key("acme", name), 1)).await {
        Answer::Fault(fault) => assert_eq!(fault.code, FaultCode::Capacity),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_opens_and_is_noted_as_encrypted() {
    for options in [no_disk as fn(&Path) -> EmbeddedOptions, no_bytes] {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let inner = open(options(dir.path()));
            let store = Arc::clone(&inner) as Arc<dyn Store>;
            let store = Sealed::open(store, ring(&["a"])).await.unwrap();
            assert!(!store.ring().has_clear());
            assert!(store.ready().await.unwrap().above_high_water);
            refused(&store, "new").await;
            store.close().await;
        }
        // It says what is full.
        let inner = open(no_disk(dir.path()));
        let notes = inner.notes().join(" ");
        assert!(notes.contains("above its high-water mark"), "{notes}");
        // Never again without keys, nor with others.
        let error = refuse_sealed(&*inner).await.unwrap_err();
        assert!(matches!(error, StoreError::Permanent(_)), "{error}");
        let other = idempotency_store::sealed::Keys::parse(
            &["index", "a"]
                .map(|n| idempotency_store::sealed::Keys::line(n).unwrap())
                .concat(),
        );
        let other = idempotency_store::sealed::KeyRing::new(other.unwrap());
        let error = Sealed::open(inner, other).await.err().unwrap();
        assert!(error.to_string().contains("another index key"), "{error}");
    }
}

/// What is there is sealed and answered; nothing new executes.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_switched_on_over_the_records_of_a_full_store() {
    let dir = tempfile::tempdir().unwrap();
    let plain = open(EmbeddedOptions::new(dir.path()));
    let (first, second) = (key("acme", "first"), key("acme", "second"));
    done(&*plain, &first, 1, b"the first answer").await;
    granted(&*plain, &second, 2).await;
    plain.close().await;
    drop(plain);
    let inner = open(no_disk(dir.path())) as Arc<dyn Store>;
    let store = Sealed::open(inner, ring(&["a"])).await.unwrap();
    assert!(store.ring().has_clear());
    replays(&store, &first, b"the first answer").await;
    let answer = one(&store, acquire(&second, 3)).await;
    assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
    refused(&store, "new").await;
    let done = rewrap(&store, 10).await;
    assert_eq!((done.busy, done.unreadable), (0, 0), "{done:?}");
    assert!(!store.ring().has_clear());
    replays(&store, &first, b"the first answer").await;
}
