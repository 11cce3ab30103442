//! A server that may forget records, or takes none: nothing new is granted, what was granted ends.

use crate::common::{acquire, complete, one};
use crate::storm::Storm;
use crate::support::{granted_in_the_end, open, options, server, until, until_ready};
use idempotency_protocol::{Answer, FaultCode};
use idempotency_stack::RedisRedlock;
use idempotency_store::{RedisStore, RedlockOptions, Store};
use std::time::{Duration, Instant};

/// As what an acquire of a new key is refused, and why, if it is.
async fn refusal(store: &RedisStore, name: &str) -> Option<(FaultCode, String)> {
    match one(store, acquire(name, 1)).await {
        Answer::Fault(fault) => Some((fault.code, fault.detail)),
        Answer::Granted(_) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_policy_switched_under_load_stops_grants_and_nothing_else() {
    let server = server(&[]);
    let stores = [open(&server.url()).await, open(&server.url()).await];
    let careless = open(&format!("{}?accept_loss=true", server.url())).await;
    let storm = Storm::start(&stores);
    storm.goes_on(20).await;
    for n in 0..8 {
        let granted = one(&*stores[0], acquire(&format!("held{n}"), 1)).await;
        assert!(matches!(granted, Answer::Granted(_)), "{granted:?}");
    }

    let switched = Instant::now();
    server
        .cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .unwrap();
    // Nobody asks for readiness: the stores notice by themselves.
    for (at, store) in stores.iter().enumerate() {
        let mut asked = 0;
        loop {
            asked += 1;
            match refusal(store, &format!("probe{at}-{asked}")).await {
                Some((code, why)) => {
                    assert_eq!(code, FaultCode::Untrusted, "{why}");
                    break assert!(why.contains("evicted"), "{why}");
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            // Once a second, and some patience with a busy machine.
            assert!(switched.elapsed() < Duration::from_secs(10), "not noticed");
        }
    }
    // When every client has been refused, none of them holds an earlier grant.
    let faults = storm.faults();
    until(|| async { storm.faults() >= faults + 100 }).await;
    let granted = storm.granted();
    until(|| async { storm.faults() >= faults + 300 }).await;
    assert_eq!(storm.granted(), granted, "granted by a server that evicts");

    for n in 0..8 {
        let name = format!("held{n}");
        let done = one(&*stores[n % 2], complete(&name, 1, b"paid")).await;
        assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
        let replayed = one(&*stores[0], acquire(&name, 2)).await;
        assert!(matches!(replayed, Answer::Stored(_)), "{replayed:?}");
    }
    assert_eq!(refusal(&careless, "careless").await, None);

    server
        .cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .unwrap();
    storm.goes_on(20).await;
    let seen = storm.end().await;
    assert!(seen.grants.values().all(|given| given.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_makes_it_red_refuses_grants() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let careless = open(&format!("{}?accept_loss=true", server.url())).await;
    let set = |name: &str, value: &str| server.cli(&["CONFIG", "SET", name, value]).unwrap();
    for (number, (name, bad, good, part, accepted)) in [
        // Records have an expiry, so the volatile policies take them as well.
        (
            "maxmemory-policy",
            "volatile-ttl",
            "noeviction",
            "evicted",
            true,
        ),
        (
            "maxmemory-policy",
            "allkeys-lfu",
            "noeviction",
            "evicted",
            true,
        ),
        ("appendonly", "no", "yes", "persistence is off", true),
        ("min-replicas-to-write", "1", "0", "read-only", false),
    ]
    .into_iter()
    .enumerate()
    {
        let held = format!("held{number}");
        assert_eq!(refusal(&store, &held).await, None, "{name}");
        set(name, bad);
        let red = store.ready().await.unwrap_err().to_string();
        assert!(red.contains(part), "{name}: {red}");
        let (code, why) = refusal(&store, &format!("new{number}")).await.unwrap();
        assert!(why.contains(part), "{name}: {why}");
        // Only a server that takes no writes may be there again by itself.
        let expected = if accepted {
            FaultCode::Untrusted
        } else {
            FaultCode::Unavailable
        };
        assert_eq!(code, expected, "{name}: {why}");
        // Who accepts the loss has a store that works, but not one that writes where nobody can.
        assert_eq!(careless.ready().await.is_ok(), accepted, "{name}");
        let granted = refusal(&careless, &format!("careless{number}")).await;
        assert_eq!(granted.is_none(), accepted, "{name}: {granted:?}");
        if accepted {
            let done = one(&*store, complete(&held, 1, b"paid")).await;
            assert!(matches!(done, Answer::Completed { .. }), "{name}: {done:?}");
        }
        set(name, good);
        until_ready(&store).await;
        until_ready(&careless).await;
        assert_eq!(
            refusal(&store, &format!("again{number}")).await,
            None,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_into_a_replica_grants_nothing() {
    let (server, other) = (server(&[]), server(&[]));
    let store = open(&format!("{}?accept_loss=true", server.url())).await;
    assert_eq!(refusal(&store, "before").await, None);
    let port = other.port().to_string();
    server.cli(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    assert!(store.ready().await.is_err());
    let (code, why) = refusal(&store, "as a replica").await.unwrap();
    assert_eq!(code, FaultCode::Unavailable, "{why}");
    server.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until_ready(&store).await;
    assert_eq!(refusal(&store, "a master again").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_the_guard_that_may_forget_locks_have_no_vote() {
    let servers = RedisRedlock::start(3).unwrap();
    let mut with_guard = options(&servers.main.url());
    with_guard.guard = Some(RedlockOptions::parse(&servers.urls(), &with_guard).unwrap());
    let store = RedisStore::open(with_guard).await.unwrap();
    assert_eq!(refusal(&store, "held").await, None);
    let set = |policy: &str| {
        for node in &servers.nodes[..2] {
            node.cli(&["CONFIG", "SET", "maxmemory-policy", policy])
                .unwrap();
        }
    };
    set("allkeys-lru");
    let red = store.ready().await.unwrap_err().to_string();
    assert!(red.contains("evicted"), "{red}");
    // The main Redis is trusted: it is the guard that cannot say yes.
    let (code, why) = refusal(&store, "new").await.unwrap();
    assert_eq!(code, FaultCode::Unavailable, "{why}");
    assert!(why.contains("Redlock"), "{why}");
    let done = one(&store, complete("held", 1, b"paid")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
    set("noeviction");
    until_ready(&store).await;
    // The guard hears by itself that its nodes vote again.
    granted_in_the_end(&store, "again").await;
}
