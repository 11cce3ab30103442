//! What is deleted leaves the files of the embedded store, and so does what was in clear before it was sealed.

use crate::files::is_in;
use crate::lab::*;
use idempotency_protocol::{Answer, LookupKey};
use idempotency_store::{
    Embedded, EmbeddedOptions, ListFilter, Resolution, Resolve, Resolved, Sealed, Store,
};
use std::path::Path;
use std::sync::Arc;

/// A piece of what is kept under each key: of the sealed answer.
async fn pieces(inner: &dyn Store, keys: &[LookupKey], store: &Sealed) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for key in keys {
        let version = store.inspect(key).await.unwrap().unwrap().version;
        let page = inner
            .list(ListFilter {
                limit: 1_000,
                ..Default::default()
            })
            .await
            .unwrap();
        let place = page
            .records
            .into_iter()
            .find(|view| view.version == version);
        let slot = inner.export(&place.unwrap().key).await.unwrap().unwrap();
        let data = slot
            .execution
            .unwrap()
            .state
            .outcome()
            .unwrap()
            .data
            .clone()
            .unwrap();
        let mut whole = data.windows(24).rev();
        let piece = whole.find(|piece| !piece.contains(&b'\n'));
        pieces.push(piece.unwrap().to_vec());
    }
    pieces
}

fn found(dir: &Path, pieces: &[Vec<u8>]) -> usize {
    pieces.iter().filter(|piece| is_in(dir, piece)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_erased_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let inner = Arc::new(Embedded::open(EmbeddedOptions::new(dir.path())).unwrap());
    let store = Arc::clone(&inner) as Arc<dyn Store>;
    let store = Sealed::open(store, ring(&["a"])).await.unwrap();
    let sizes = [10, 1_000, 5_000, 300_000];
    let keys = |tenant: &str| sizes.map(|size| key(tenant, &format!("k{size}")));
    for tenant in ["gone", "stays"] {
        for (key, size) in keys(tenant).iter().zip(sizes) {
            done(&store, key, 1, &vec![7; size]).await;
        }
    }
    let gone = pieces(&*inner, &keys("gone"), &store).await;
    let stays = pieces(&*inner, &keys("stays"), &store).await;
    assert_eq!(
        (found(dir.path(), &gone), found(dir.path(), &stays)),
        (4, 4)
    );

    let of = ListFilter {
        tenant: Some("gone".into()),
        limit: 1_000,
        ..ListFilter::default()
    };
    let page = store.list(of).await.unwrap();
    assert_eq!(page.records.len(), 4);
    for view in page.records {
        let resolve = Resolve {
            key: view.key,
            version: view.version,
            to: Resolution::Deleted,
            force: true,
        };
        assert_eq!(store.resolve(resolve).await.unwrap(), Resolved::Done(None));
    }
    assert!(
        found(dir.path(), &gone) > 0,
        "deleted, and still in the files"
    );
    assert!(store.scrub().await.unwrap());
    assert_eq!(
        (found(dir.path(), &gone), found(dir.path(), &stays)),
        (0, 4)
    );
    for (key, size) in keys("stays").iter().zip(sizes) {
        replays(&store, key, &vec![7; size]).await;
    }
    // And after another start.
    store.close().await;
    drop((store, inner));
    let inner = Arc::new(Embedded::open(EmbeddedOptions::new(dir.path())).unwrap());
    let store = Sealed::open(inner, ring(&["a"])).await.unwrap();
    for (key, size) in keys("stays").iter().zip(sizes) {
        replays(&store, key, &vec![7; size]).await;
    }
    for key in keys("gone") {
        assert_eq!(store.inspect(&key).await.unwrap(), None);
    }
}

fn open(dir: &Path) -> Arc<Embedded> {
    Arc::new(Embedded::open(EmbeddedOptions::new(dir)).unwrap())
}

/// The words of records in clear that are in no file any more after encryption was switched on.
const WORDS: [&str; 5] = [
    "tenant-in-clear",
    "completed-in-clear",
    "executing-in-clear",
    "body-in-clear",
    "/charges",
];

fn words_in(dir: &Path) -> Vec<&'static str> {
    let mut words = WORDS.to_vec();
    words.retain(|word| is_in(dir, word.as_bytes()));
    words
}

/// Of every size, and executing, in tables and in the files of large answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_clear_is_in_no_file_once_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [13, 1_000, 5_000, 300_000];
    let completed = sizes.map(|size| key("tenant-in-clear", &format!("completed-in-clear-{size}")));
    let executing = key("tenant-in-clear", "executing-in-clear");
    let body = |size: usize| b"body-in-clear".repeat(size / 13);
    let plain = open(dir.path());
    for (key, size) in completed.iter().zip(sizes) {
        done(&*plain, key, 1, &body(size)).await;
    }
    granted(&*plain, &executing, 2).await;
    // In tables, as it is after a while.
    assert!(plain.scrub().await.unwrap());
    plain.close().await;
    drop(plain);
    assert_eq!(
        words_in(dir.path()),
        WORDS,
        "the search finds what is there"
    );

    let inner = open(dir.path());
    let store = Arc::clone(&inner) as Arc<dyn Store>;
    let store = Sealed::open(store, ring(&["a"])).await.unwrap();
    let done = rewrap(&store, 2).await;
    assert_eq!((done.in_clear, done.busy, done.unreadable), (5, 0, 0));
    assert!(store.scrub().await.unwrap());
    assert_eq!(words_in(dir.path()), Vec::<&str>::new());
    let still = |store: Sealed| async move {
        for (key, size) in completed.iter().zip(sizes) {
            replays(&store, key, &body(size)).await;
        }
        let answer = one(&store, acquire(&executing, 9)).await;
        assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
        store.close().await;
    };
    still.clone()(store).await;
    drop(inner);
    let store = Sealed::open(open(dir.path()), ring(&["a"])).await.unwrap();
    still(store).await;
    assert_eq!(words_in(dir.path()), Vec::<&str>::new());
}

/// The engine leaves files alone of which little is garbage.
#[tokio::test(flavor = "multi_thread")]
async fn one_large_answer_of_many_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let inner = open(dir.path());
    let store = Arc::clone(&inner) as Arc<dyn Store>;
    let store = Sealed::open(store, ring(&["a"])).await.unwrap();
    let keys: Vec<_> = (0..50u8).map(|n| key("acme", &format!("k{n}"))).collect();
    for (n, key) in (0..).zip(&keys) {
        done(&store, key, n, &vec![n; 20_000]).await;
    }
    assert!(store.scrub().await.unwrap());
    let gone = pieces(&*inner, &keys[..1], &store).await;
    assert_eq!(found(dir.path(), &gone), 1);
    let version = store.inspect(&keys[0]).await.unwrap().unwrap().version;
    let resolve = Resolve {
        key: keys[0].clone(),
        version,
        to: Resolution::Deleted,
        force: true,
    };
    assert_eq!(store.resolve(resolve).await.unwrap(), Resolved::Done(None));
    assert!(store.scrub().await.unwrap());
    assert_eq!(found(dir.path(), &gone), 0);
    for (n, key) in (0..).zip(&keys).skip(1) {
        replays(&store, key, &vec![n; 20_000]).await;
    }
}

/// Operations go on while large answers are written again: each key executes once, and is answered as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_granted_twice_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old: Vec<_> = (0..40u8).map(|n| key("acme", &format!("old{n}"))).collect();
    for (n, key) in (0..).zip(&old) {
        done(&*store, key, n, &vec![n; 50_000]).await;
    }
    let first = store.inspect(&old[0]).await.unwrap().unwrap();
    let resolve = Resolve {
        key: old[0].clone(),
        version: first.version,
        to: Resolution::Deleted,
        force: true,
    };
    assert!(store.scrub().await.unwrap());
    assert_eq!(store.resolve(resolve).await.unwrap(), Resolved::Done(None));
    let scrubbing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.scrub().await })
    };
    let mut rounds = 0_u32;
    // At least once beside it.
    while !scrubbing.is_finished() || rounds == 0 {
        rounds += 1;
        for n in 0..8u8 {
            let key = key("acme", &format!("new{rounds}-{n}"));
            done(&*store, &key, n, &vec![n; 30_000]).await;
            replays(&*store, &key, &vec![n; 30_000]).await;
        }
        for (n, key) in (0..).zip(&old).skip(1) {
            replays(&*store, key, &vec![n; 50_000]).await;
        }
    }
    assert!(scrubbing.await.unwrap().unwrap());
    store.close().await;
    drop(store);
    let store = open(dir.path());
    for (n, key) in (0..).zip(&old).skip(1) {
        replays(&*store, key, &vec![n; 50_000]).await;
    }
    for round in 1..=rounds {
        for n in 0..8u8 {
            let key = key("acme", &format!("new{round}-{n}"));
            replays(&*store, &key, &vec![n; 30_000]).await;
        }
    }
    // The one that was deleted is free, once.
    granted(&*store, &old[0], 200).await;
    let answer = one(&*store, acquire(&old[0], 201)).await;
    assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
}
