//! What goes wrong with one server, and that it passes.

use crate::common::{acquire, complete, completed, fail, granted, key, one};
use crate::support::{is_fault, open, options, server, until, until_ready};
use idempotency_protocol::{Answer, FaultCode, Outcome};
use idempotency_stack::Redis;
use idempotency_store::{Quota, Quotas, RecordState, RedisStore, Store, StoreError};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_has_everything() {
    let mut server = server(&["--appendfsync", "always"]);
    let store = open(&server.url()).await;
    granted(&*store, "running", 1).await;
    granted(&*store, "done", 1).await;
    completed(&*store, "done", 1, b"body").await;

    server.kill();
    let answer = one(&*store, acquire("new", 1)).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    assert!(matches!(store.ready().await, Err(StoreError::Transient(_))));

    server.restart().unwrap();
    until_ready(&store).await;
    let answer = one(&*store, acquire("done", 2)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    assert!(matches!(
        one(&*store, acquire("running", 2)).await,
        Answer::InFlight { .. }
    ));
    completed(&*store, "running", 1, b"late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = server(&[]);
    server.kill();
    let store = open(&server.url()).await;
    assert!(matches!(store.ready().await, Err(StoreError::Transient(_))));
    server.restart().unwrap();
    until_ready(&store).await;
    granted(&*store, "k", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_and_flushed_scripts_are_not_noticed() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    for round in 0..5 {
        let name = format!("k{round}");
        granted(&*store, &name, 1).await;
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        completed(&*store, &name, 1, b"x").await;
        server.cli(&["SCRIPT", "FLUSH"]).unwrap();
        let batch = (0..8)
            .map(|n| acquire(&format!("batch {round} {n}"), 1))
            .chain([acquire(&name, 2)])
            .collect();
        let answers = store.apply(batch).await;
        let names: Vec<_> = answers.iter().map(Answer::name).collect();
        assert_eq!(names, [&["granted"; 8][..], &["stored"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_no_key_is_granted_but_every_execution_ends() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    for name in ["completes", "large", "fails", "extends"] {
        granted(&*store, name, 1).await;
    }
    granted(&*store, "done", 1).await;
    completed(&*store, "done", 1, b"before").await;

    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let answer = one(&*store, acquire("new", 1)).await;
    assert!(is_fault(&answer, FaultCode::Capacity), "{answer:?}");
    assert!(matches!(
        one(&*store, acquire("done", 2)).await,
        Answer::Stored(_)
    ));
    // Whether the server refuses, or we know already: the fact is kept.
    completed(&*store, "completes", 1, b"body").await;
    completed(&*store, "large", 1, &[b'x'; 200_000]).await;
    for name in ["completes", "large"] {
        match one(&*store, acquire(name, 2)).await {
            Answer::Stored(stored) => {
                assert!(
                    matches!(*stored.outcome, Outcome::Tombstone(_)),
                    "{stored:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(one(&*store, fail("fails", 1)).await, Answer::Failed);
    until(|| async { store.ready().await.is_ok_and(|u| u.above_high_water) }).await;

    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    until(|| async { store.ready().await.is_ok_and(|u| !u.above_high_water) }).await;
    granted(&*store, "new", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_is_no_store() {
    let (server, other) = (server(&[]), Redis::start(&[]).unwrap());
    let store = open(&server.url()).await;
    granted(&*store, "k", 1).await;
    let port = other.port().to_string();
    server.cli(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    let answer = one(&*store, acquire("new", 1)).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    match store.ready().await {
        Err(StoreError::Transient(text)) => assert!(text.contains("replica"), "{text}"),
        other => panic!("{other:?}"),
    }
    server.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until_ready(&store).await;
    granted(&*store, "new", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    let server = server(&[]);
    // All that the store needs, and nothing else.
    server
        .cli(&[
            "ACL",
            "SETUSER",
            "idem",
            "on",
            ">s3cret",
            "resetchannels",
            "~idem:*",
            "&idem:*",
            "-@all",
            "+@hash",
            "+@read",
            "+@connection",
            "+evalsha",
            "+eval",
            "+time",
            "+pexpireat",
            "+spublish",
            "+ssubscribe",
            "+sunsubscribe",
            "+info",
            "+config|get",
            "+wait",
        ])
        .unwrap();
    let login = |user: &str, password: &str| {
        format!("redis://{user}:{password}@127.0.0.1:{}", server.port())
    };
    let store = open(&login("idem", "s3cret")).await;
    granted(&*store, "k", 1).await;
    completed(&*store, "k", 1, b"x").await;
    store.ready().await.unwrap();
    assert_eq!(store.list(all()).await.unwrap().records.len(), 1);
    // Quotas need a little more.
    let more = ["+zadd", "+zrem", "+zremrangebyscore"];
    let command = [&["ACL", "SETUSER", "idem"][..], &more].concat();
    server.cli(&command).unwrap();
    let quotas = Quotas {
        records: Some(2),
        ..Quotas::default()
    };
    store.set_quotas(quotas).await.unwrap();
    while store.sweep(100).await.unwrap().more {}
    granted(&*store, "l", 1).await;
    completed(&*store, "l", 1, b"x").await;
    let over = one(&*store, acquire("m", 1)).await;
    assert_eq!(Quota::refused(&over), Some(Quota::Records), "{over:?}");
    store.set_quotas(Quotas::default()).await.unwrap();

    for (user, password) in [("idem", "wrong"), ("nobody", "s3cret")] {
        match RedisStore::open(options(&login(user, password))).await {
            Err(StoreError::Permanent(text)) => assert!(!text.contains(password), "{text}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    // While it runs: red, and green again when the password is right again.
    server
        .cli(&["ACL", "SETUSER", "idem", "resetpass", ">new"])
        .unwrap();
    server.cli(&["CLIENT", "KILL", "USER", "idem"]).unwrap();
    let answer = one(&*store, acquire("k2", 1)).await;
    assert!(is_fault(&answer, FaultCode::Internal), "{answer:?}");
    assert!(matches!(store.ready().await, Err(StoreError::Permanent(_))));
    server
        .cli(&["ACL", "SETUSER", "idem", "resetpass", ">s3cret"])
        .unwrap();
    until_ready(&store).await;
    granted(&*store, "k2", 1).await;
}

fn all() -> idempotency_store::ListFilter {
    idempotency_store::ListFilter {
        limit: 10,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_answers_faults() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    granted(&*store, "k", 1).await;
    store.close().await;
    let answer = one(&*store, complete("k", 1, b"x")).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    assert!(store.ready().await.is_err());
    let other: Arc<RedisStore> = open(&server.url()).await;
    let view = other.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Executing);
}
