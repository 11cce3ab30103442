//! A process without file descriptors: a program of its own, since the limit is the whole process'.

mod common;

use common::{acquire, completed, granted, one};
use idempotency_protocol::Answer;
use idempotency_store::{Embedded, EmbeddedOptions, Store, StoreError};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::time::{Duration, Instant};

/// Leaves only `spare` descriptors.
fn limit(spare: u64) {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    set(Some(open + spare));
}

fn set(current: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_it_says_so_breaks_once_and_loses_nothing() {
    let before = getrlimit(Resource::Nofile).current;
    let dir = tempfile::tempdir().unwrap();
    let mut options = EmbeddedOptions::new(dir.path().join("data"));
    // So that little has to be written until a table must be.
    options.write_buffer_bytes = 1 << 20;

    limit(8);
    match Embedded::open(options.clone()) {
        Err(StoreError::Transient(why)) => assert!(why.contains("RLIMIT_NOFILE"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert!(Embedded::lack(&options).is_err());
    set(before);
    let store = Embedded::open(options.clone()).unwrap();

    // Nothing can be opened any more; what is open goes on, until a table is to be made.
    limit(0);
    let body = vec![7; 64 << 10];
    let (mut done, started) = (Vec::new(), Instant::now());
    'load: for n in 0.. {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it never broke"
        );
        let name = format!("k{n}");
        for operation in [acquire(&name, 1), common::complete(&name, 1, &body)] {
            match one(&store, operation).await {
                Answer::Granted(_) => {}
                Answer::Completed { .. } => done.push(name.clone()),
                Answer::Fault(_) => break 'load,
                other => panic!("{other:?}"),
            }
        }
    }
    let why = tokio::time::timeout(Duration::from_secs(10), store.broken()).await;
    assert!(matches!(why.unwrap(), StoreError::Transient(_)));
    assert!(store.ready().await.is_err());
    drop(store);

    set(before);
    assert!(done.len() > 4, "{} were acknowledged", done.len());
    let store = Embedded::open(options).unwrap();
    assert!(store.notes().join("; ").contains("synced again"));
    for name in &done {
        match one(&store, acquire(name, 2)).await {
            Answer::Stored(stored) => assert_eq!(stored.outcome, common::response(&body)),
            other => panic!("{name}: {other:?}"),
        }
    }
    granted(&store, "new", 1).await;
    completed(&store, "new", 1, b"new").await;
}
