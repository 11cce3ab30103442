//! Searching by `SCAN`: bounded calls, and places that hold for one start of the server.

use crate::support::{open, server};
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Fingerprint, LookupKey, OnUnknown, Operation, Origin, Owner,
    Retention, Scheme,
};
use idempotency_store::search::Search;
use idempotency_store::{RecordState, RedisStore, Store};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn acquire(n: usize) -> Operation {
    let mut owner = [0; 16];
    owner[..8].copy_from_slice(&n.to_be_bytes());
    Operation::Acquire(Acquire {
        key: LookupKey {
            tenant: format!("tenant-{}", n % 7),
            namespace: String::new(),
            origin: Origin::Client,
            key: format!("key-{n:07}"),
        },
        owner: Owner(owner),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        },
        lease_ms: 600_000,
        retention: Retention {
            ttl_ms: 600_000,
            unknown_ttl_ms: 600_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: None,
    })
}

async fn fill(store: &RedisStore, count: usize) {
    for from in (0..count).step_by(1_000) {
        let batch = (from..count.min(from + 1_000)).map(acquire).collect();
        let answers = store.apply(batch).await;
        assert!(answers.iter().all(|a| matches!(a, Answer::Granted(_))));
    }
}

/// Goes through a whole search; returns what it found, and the longest call.
async fn walk(store: &RedisStore, mut search: Search) -> (Vec<LookupKey>, usize, Duration) {
    let (mut keys, mut calls, mut longest) = (Vec::new(), 0, Duration::ZERO);
    loop {
        let begun = Instant::now();
        let found = store.search(search.clone()).await.unwrap();
        longest = longest.max(begun.elapsed());
        calls += 1;
        // One step more than it may look at, at the most; SCAN may return a few more than asked.
        assert!(found.looked_at <= 20_000 + 1_000, "{}", found.looked_at);
        assert!(found.records.len() <= search.limit);
        keys.extend(found.records.into_iter().map(|record| record.key));
        search.after = found.next;
        if search.after.is_none() {
            return (keys, calls, longest);
        }
    }
}

/// `SEARCH_RECORDS=1000000` measures, for `docs/command-line.md`.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_looks_at_more_than_its_share() {
    let records = std::env::var("SEARCH_RECORDS").map_or(45_000, |n| n.parse().unwrap());
    let server = server(&[]);
    let store = open(&server.url()).await;
    fill(&store, records).await;
    let everything = Search {
        limit: 1_000,
        ..Search::default()
    };
    let one = Search {
        key: Some("key-0000007".into()),
        ..everything.clone()
    };
    let nothing = Search {
        state: Some(RecordState::Unknown),
        ..everything.clone()
    };
    for (what, search, expected) in [
        ("everything", everything, records),
        ("one key", one, 1),
        ("a state that none has", nothing, 0),
    ] {
        let begun = Instant::now();
        let (keys, calls, longest) = walk(&store, search).await;
        let all = begun.elapsed();
        println!("{what}: {records} records, {calls} calls, {all:?}, the longest call {longest:?}");
        let distinct: BTreeSet<_> = keys.iter().collect();
        assert_eq!((keys.len(), distinct.len()), (expected, expected), "{what}");
        if what != "everything" {
            assert!(calls >= records / 21_000, "{calls} calls");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_another_start_of_the_server_begins_again() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    fill(&store, 500).await;
    let mut search = Search {
        limit: 100,
        ..Search::default()
    };
    let first = store.search(search.clone()).await.unwrap();
    let mut token = first.next.unwrap();
    // As another server would have given it.
    token[1] ^= 1;
    search.after = Some(token);
    let (keys, _, _) = walk(&store, search.clone()).await;
    assert_eq!(keys.len(), 500, "what comes behind the place is not all");
    // What is no place at all is refused.
    search.after = Some(b"key".to_vec());
    assert!(store.search(search).await.is_err());
}
