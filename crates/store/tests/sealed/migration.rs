//! Encryption switched on over records that are there.

use crate::common::response;
use crate::files::{redis, Database};
use crate::lab::*;
use idempotency_protocol::{Answer, FailCause, LookupKey, Operation, Owner};
use idempotency_store::search::Search;
use idempotency_store::{
    Embedded, EmbeddedOptions, ListFilter, Memory, RecordState, Sealed, Store,
};
use std::collections::BTreeSet;
use std::sync::Arc;

fn names(count: u8) -> Vec<LookupKey> {
    (0..count)
        .map(|n| key(["acme", "other"][usize::from(n % 2)], &format!("k{n}")))
        .collect()
}

/// In clear: a third each completed, executing and failed.
async fn fill(store: &dyn Store, keys: &[LookupKey]) {
    for (n, key) in keys.iter().enumerate() {
        let owner = u8::try_from(n).unwrap();
        match n % 3 {
            0 => drop(done(store, key, owner, &vec![owner; 3_000]).await),
            1 => drop(granted(store, key, owner).await),
            _ => {
                granted(store, key, owner).await;
                let (key, owner) = (key.clone(), Owner([owner; 16]));
                let cause = FailCause::Other;
                one(store, Operation::Fail { key, owner, cause }).await;
            }
        }
    }
}

/// Everything is as it was before.
async fn check(store: &dyn Store, keys: &[LookupKey], which: std::ops::Range<usize>) {
    for (n, key) in keys.iter().enumerate().filter(|(n, _)| which.contains(n)) {
        let owner = u8::try_from(n).unwrap();
        let other = acquire_with(key, 200, |a| a.fingerprint = payload(2));
        assert_eq!(one(store, other).await, Answer::Mismatch, "{n}");
        match n % 3 {
            0 => {
                replays(store, key, &vec![owner; 3_000]).await;
                let again = one(store, complete(key, owner, &vec![owner; 3_000])).await;
                assert!(matches!(again, Answer::Completed { .. }), "{again:?}");
                assert_eq!(
                    one(store, complete(key, owner, b"x")).await,
                    Answer::Differs
                );
            }
            1 => {
                let answer = one(store, acquire(key, 200)).await;
                assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
                let answer = one(store, complete(key, owner, b"late")).await;
                assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
                replays(store, key, b"late").await;
            }
            _ => match one(store, acquire(key, 200)).await {
                Answer::Granted(grant) => assert_eq!(grant.attempt, 2),
                other => panic!("{other:?}"),
            },
        }
    }
}

/// No record is in clear: what the store has are places and the notes of the encryption.
async fn nothing_clear(inner: &dyn Store) -> bool {
    let filter = ListFilter {
        limit: 1_000,
        ..ListFilter::default()
    };
    let page = inner.list(filter).await.unwrap();
    assert!(page.next.is_none());
    let is_clear = |key: &LookupKey| !key.tenant.starts_with("~1") && !key.tenant.is_empty();
    !page.records.iter().any(|view| is_clear(&view.key))
}

async fn migrates(inner: Arc<dyn Store>) {
    let keys = names(12);
    fill(&*inner, &keys).await;
    let ring = ring(&["a"]);
    let store = Sealed::open(Arc::clone(&inner), Arc::clone(&ring))
        .await
        .unwrap();
    assert!(ring.has_clear());
    // Readable as they are: listed, searched for, inspected.
    for tenant in [Some("acme"), None] {
        let tenant = tenant.map(str::to_owned);
        let search = Search {
            tenant: tenant.clone(),
            ..Search::default()
        };
        let (listed, found) = (
            all_listed(&store, tenant.clone()).await,
            all_found(&store, search).await,
        );
        let wanted = |key: &&LookupKey| tenant.as_ref().is_none_or(|t| *t == key.tenant);
        let wanted: BTreeSet<_> = keys.iter().filter(wanted).cloned().collect();
        assert_eq!(listed, wanted);
        assert_eq!(found, wanted);
    }
    let by_key = Search {
        key: Some("k4".into()),
        ..Search::default()
    };
    assert_eq!(all_found(&store, by_key).await.len(), 1);
    let view = store.inspect(&keys[0]).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.about.unwrap().path.as_str()),
        (RecordState::Completed, "/charges")
    );
    // What is asked for is sealed by that; a second process of the same keys finds it.
    let second = Sealed::open(Arc::clone(&inner), Arc::clone(&ring))
        .await
        .unwrap();
    check(&store, &keys, 0..6).await;
    replays(&second, &keys[0], &vec![0; 3_000]).await;
    assert!(!nothing_clear(&*inner).await);

    let done = rewrap(&store, 5).await;
    assert_eq!(
        (done.in_clear, done.busy, done.unreadable),
        (6, 0, 0),
        "{done:?}"
    );
    assert!(nothing_clear(&*inner).await);
    assert!(!ring.has_clear());
    check(&second, &keys, 6..12).await;
    let all = all_listed(&second, None).await;
    assert_eq!(all, keys.iter().cloned().collect());
    // Nothing is left to be moved, and nobody looks for it any more.
    let third = Sealed::open(inner, self::ring(&["a"])).await.unwrap();
    assert!(!third.ring().has_clear());
    assert_eq!(rewrap(&third, 100).await.rewrapped, 0);
}

async fn all_listed(store: &dyn Store, tenant: Option<String>) -> BTreeSet<LookupKey> {
    let mut filter = ListFilter {
        tenant,
        limit: 2,
        ..ListFilter::default()
    };
    let mut all = BTreeSet::new();
    loop {
        let page = store.list(filter.clone()).await.unwrap();
        for view in page.records {
            assert!(all.insert(view.key), "listed twice");
        }
        filter.after = page.next;
        if filter.after.is_none() {
            return all;
        }
    }
}

async fn all_found(store: &dyn Store, mut search: Search) -> BTreeSet<LookupKey> {
    search.limit = 2;
    let mut all = BTreeSet::new();
    loop {
        let found = store.search(search.clone()).await.unwrap();
        all.extend(found.records.into_iter().map(|view| view.key));
        search.after = found.next;
        if search.after.is_none() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_sealed() {
    migrates(Arc::new(Memory::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let inner = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    migrates(Arc::new(inner)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_sealed() {
    let server = redis();
    migrates(Arc::new(server.open().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_sealed() {
    let database = Database::new().await;
    migrates(Arc::new(database.open().await)).await;
}

/// Many callers and a rewrap at the same time, over records in clear: each key is granted to one owner at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_has_one_home_while_it_moves() {
    let inner = Arc::new(Memory::default());
    let keys: Vec<_> = (0..60u8).map(|n| key("acme", &format!("k{n}"))).collect();
    for (n, key) in keys.iter().enumerate() {
        let owner = u8::try_from(n).unwrap();
        granted(&*inner, key, owner).await;
        let (key, owner) = (key.clone(), Owner([owner; 16]));
        let cause = FailCause::Other;
        one(&*inner, Operation::Fail { key, owner, cause }).await;
    }
    let open = || async {
        let inner = Arc::clone(&inner) as Arc<dyn Store>;
        Arc::new(Sealed::open(inner, ring(&["a"])).await.unwrap())
    };
    let stores = [open().await, open().await];
    let mut tasks = Vec::new();
    for owner in 100..108u8 {
        let store = Arc::clone(&stores[usize::from(owner % 2)]);
        let keys = keys.clone();
        tasks.push(tokio::spawn(async move {
            let mut granted = Vec::new();
            for key in keys {
                match one(&*store, acquire(&key, owner)).await {
                    Answer::Granted(grant) => {
                        assert_eq!(grant.attempt, 2);
                        granted.push(key);
                    }
                    Answer::InFlight { .. } => {}
                    other => panic!("{other:?}"),
                }
                tokio::task::yield_now().await;
            }
            granted
        }));
    }
    let rewrapping = {
        let store = Arc::clone(&stores[1]);
        tokio::spawn(async move { rewrap(&*store, 3).await })
    };
    let mut granted = Vec::new();
    for task in tasks {
        granted.extend(task.await.unwrap());
    }
    rewrapping.await.unwrap();
    granted.sort();
    let mut wanted = keys;
    wanted.sort();
    assert_eq!(granted, wanted, "each key once");
    let _ = response(b"");
}
