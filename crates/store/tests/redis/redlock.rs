//! The guard: a lock on a majority of five independent servers, beside the one with the records.

use crate::common::{
    acquire, acquire_for, complete, completed, fail, granted, granted_for, key, one,
};
use crate::failover::two_masters;
use crate::storm::{Seen, Storm};
use crate::suite::holds_on;
use crate::support::{granted_in_the_end, is_fault, open, options, until, until_ready, RealTime};
use idempotency_protocol::{
    Acquire, Answer, FaultCode, OnUnknown, Operation, Owner, Settle, Settlement,
};
use idempotency_stack::{RedisRedlock, RedisSentinel};
use idempotency_store::{
    RecordState, RedisOptions, RedisStore, RedlockOptions, Resolution, Resolve, Store, StoreError,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODES: usize = 5;
const MINORITY: std::ops::Range<usize> = 0..2;
const MAJORITY: std::ops::Range<usize> = 0..3;
/// Grants before, during and after what happens.
const MANY: usize = 100;

fn guarded_by(main: &str, nodes: &[String], timeout: Duration) -> RedisOptions {
    let mut options = options(main);
    let mut guard = RedlockOptions::parse(nodes, &options).unwrap();
    guard.timeout = timeout;
    options.guard = Some(guard);
    options
}

/// Patient with a loaded machine: what is counted on is never that a node is fast. Cut off, a node
/// is known to be away at once.
const PATIENT: Duration = Duration::from_secs(10);

/// For what only the end of the timeout tells.
const IMPATIENT: Duration = Duration::from_secs(1);

async fn store_on(servers: &RedisRedlock, timeout: Duration) -> Arc<RedisStore> {
    let options = guarded_by(&servers.main.url(), &servers.urls(), timeout);
    Arc::new(RedisStore::open(options).await.unwrap())
}

fn start() -> RedisRedlock {
    RedisRedlock::start(NODES).unwrap()
}

fn cut(servers: &RedisRedlock, nodes: std::ops::Range<usize>) {
    servers.ways[nodes].iter().for_each(|way| way.cut());
}

fn mend(servers: &RedisRedlock) {
    servers.ways.iter().for_each(|way| way.mend());
}

/// How many nodes hold any lock.
fn locked(servers: &RedisRedlock) -> usize {
    let size = |node: &idempotency_stack::Redis| node.cli(&["DBSIZE"]).unwrap();
    servers
        .nodes
        .iter()
        .filter(|node| size(node) != "0")
        .count()
}

async fn state(store: &RedisStore, name: &str) -> Option<RecordState> {
    let record = store.inspect(&key(name)).await.unwrap();
    record.map(|record| record.state)
}

fn unavailable(answer: &Answer) {
    assert!(is_fault(answer, FaultCode::Unavailable), "{answer:?}");
}

fn extend(name: &str, owner: u8) -> Operation {
    Operation::Extend {
        key: key(name),
        owner: Owner([owner; 16]),
        lease_ms: 60_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract() {
    let servers = start();
    let stores = [
        store_on(&servers, PATIENT).await,
        store_on(&servers, PATIENT).await,
    ];
    holds_on("Redlock", &RealTime(stores)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_while_somebody_executes_and_no_longer() {
    let servers = start();
    let store = store_on(&servers, PATIENT).await;
    let settle = |fence, settlement| {
        Operation::Settle(Settle {
            key: key("k"),
            fence,
            settlement,
        })
    };
    let abandon = |owner| Operation::Abandon {
        key: key("k"),
        owner: Owner([owner; 16]),
    };
    for (owner, ending) in (1..).zip(["fail", "settle", "abandon", "complete"]) {
        let grant = granted(&*store, "k", owner).await;
        // The last ones may still be on their way when a majority has it.
        until(|| async { locked(&servers) == NODES }).await;
        let answer = match ending {
            "fail" => one(&*store, fail("k", owner)).await,
            "settle" => one(&*store, settle(grant.fence, Settlement::Failed)).await,
            "abandon" => one(&*store, abandon(owner)).await,
            _ => one(&*store, complete("k", owner, b"done")).await,
        };
        assert!(!matches!(answer, Answer::Fault(_)), "{answer:?}");
        until(|| async { locked(&servers) == 0 }).await;
        if ending == "abandon" {
            // An operator's decision releases what another owner took.
            let Operation::Acquire(retry) = acquire("k", 100) else {
                unreachable!()
            };
            let retry = Operation::Acquire(Acquire {
                on_unknown: OnUnknown::Retry,
                ..retry
            });
            assert!(matches!(one(&*store, retry).await, Answer::Granted(_)));
            until(|| async { locked(&servers) == NODES }).await;
            let record = store.inspect(&key("k")).await.unwrap().unwrap();
            let resolve = Resolve {
                key: key("k"),
                version: record.version,
                to: Resolution::Deleted,
                force: true,
            };
            store.resolve(resolve).await.unwrap();
            until(|| async { locked(&servers) == 0 }).await;
        }
    }
}

/// What the guard is for: the main Redis loses a grant, as in a fail-over.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_main_redis_forgot_is_not_granted_while_the_lock_holds() {
    let servers = start();
    let store = store_on(&servers, IMPATIENT).await;
    let started = Instant::now();
    // Much longer than the timeout, for which the end of a lock is waited for.
    let lease = Duration::from_secs(10);
    let first = granted_for(&*store, "k", 1, 10_000).await;
    granted(&*store, "fails", 1).await;
    servers.main.cli(&["FLUSHALL"]).unwrap();

    unavailable(&one(&*store, acquire("k", 2)).await);
    assert_eq!(state(&store, "k").await, Some(RecordState::Failed));
    // Done, but there is no record of it: the lock is all that is left, and stays.
    assert_eq!(one(&*store, complete("k", 1, b"x")).await, Answer::Lost);
    unavailable(&one(&*store, acquire("k", 3)).await);
    // Provably not done: nothing is left to be guarded.
    unavailable(&one(&*store, acquire("fails", 2)).await);
    one(&*store, fail("fails", 1)).await;
    granted_in_the_end(&store, "fails").await;

    // After the lease nothing keeps the key from a second execution but its fence.
    let second = granted_in_the_end(&store, "k").await;
    assert!(started.elapsed() >= lease, "{:?}", started.elapsed());
    assert!(second.fence > first.fence);
}

/// What the guard is not for: a result has no lock.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_completed_and_forgotten_is_granted_again_also_with_the_guard() {
    let servers = start();
    let store = store_on(&servers, PATIENT).await;
    let first = granted(&*store, "k", 1).await;
    completed(&*store, "k", 1, b"done").await;
    servers.main.cli(&["FLUSHALL"]).unwrap();
    let second = granted(&*store, "k", 2).await;
    assert!(second.fence > first.fence);
}

/// The loss of `without_wait_what_only_the_master_had_is_forgotten`, with the guard.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_sentinel_s_failover_lost_is_not_given_again() {
    let nodes = start();
    let mut main = RedisSentinel::start(&[]).unwrap();
    let options = guarded_by(&main.url(), &nodes.urls(), Duration::from_secs(2));
    let store = RedisStore::open(options).await.unwrap();
    main.servers[1]
        .cli(&["REPLICAOF", "127.0.0.1", "1"])
        .unwrap();
    granted(&store, "k", 1).await;
    main.servers[0].kill();
    until_ready(&store).await;
    assert_eq!(state(&store, "k").await, None);
    unavailable(&one(&store, acquire("k", 2)).await);
}

/// `two_masters_at_one_time_grant_twice…`, with the guard.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_masters_only_one_grants_while_the_lock_holds() {
    let nodes = start();
    let [old, new] = two_masters();
    let guarded = |main: String| guarded_by(&main, &nodes.urls(), PATIENT);
    let left = RedisStore::open(guarded(old.url())).await.unwrap();
    let right = RedisStore::open(guarded(new.url())).await.unwrap();
    granted(&left, "k", 1).await;
    unavailable(&one(&right, acquire("k", 2)).await);
    // And not the other way round either.
    granted(&right, "l", 1).await;
    unavailable(&one(&left, acquire("l", 2)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_granted_but_everything_ends() {
    let servers = start();
    let store = store_on(&servers, PATIENT).await;
    for name in ["completes", "fails", "extends"] {
        granted(&*store, name, 1).await;
    }
    granted(&*store, "done", 1).await;
    completed(&*store, "done", 1, b"before").await;
    cut(&servers, MAJORITY);

    unavailable(&one(&*store, acquire("k", 1)).await);
    assert_eq!(state(&store, "k").await, Some(RecordState::Failed));
    assert_eq!(one(&*store, acquire("k", 1)).await, Answer::Spent);
    // From now on nobody tries.
    unavailable(&one(&*store, acquire("later", 1)).await);
    assert_eq!(state(&store, "later").await, None);
    // What was granted before is not taken back when its acquire is sent again.
    unavailable(&one(&*store, acquire("extends", 1)).await);
    assert_eq!(state(&store, "extends").await, Some(RecordState::Executing));
    unavailable(&one(&*store, extend("extends", 1)).await);
    // The record is in the main Redis: without it, what was done would be done again.
    completed(&*store, "completes", 1, b"x").await;
    assert_eq!(one(&*store, fail("fails", 1)).await, Answer::Failed);
    for name in ["done", "completes"] {
        let answer = one(&*store, acquire(name, 2)).await;
        assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    }
    match store.ready().await {
        Err(StoreError::Transient(text)) => assert!(text.contains("only 2 of 5"), "{text}"),
        other => panic!("{other:?}"),
    }

    mend(&servers);
    until_ready(&store).await;
    assert_eq!(granted_in_the_end(&store, "k").await.attempt, 2);
    let answer = one(&*store, extend("extends", 1)).await;
    assert!(matches!(answer, Answer::Extended { .. }), "{answer:?}");
    granted_in_the_end(&store, "fails").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_after_an_unknown_outcome_is_taken_back_to_unknown() {
    let servers = start();
    let store = store_on(&servers, PATIENT).await;
    granted(&*store, "k", 1).await;
    let abandon = Operation::Abandon {
        key: key("k"),
        owner: Owner([1; 16]),
    };
    assert_eq!(one(&*store, abandon).await, Answer::Abandoned);
    cut(&servers, MAJORITY);
    let Operation::Acquire(retry) = acquire("k", 2) else {
        unreachable!()
    };
    let retry = Operation::Acquire(Acquire {
        on_unknown: OnUnknown::Retry,
        ..retry
    });
    unavailable(&one(&*store, retry).await);
    // Who does not retry unknown outcomes must not execute: the first one may have been done.
    let answer = one(&*store, acquire("k", 3)).await;
    assert!(
        matches!(answer, Answer::UnknownOutcome { .. }),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_nodes_forgot_is_taken_again_but_never_from_another() {
    let servers = start();
    let store = store_on(&servers, PATIENT).await;
    granted(&*store, "k", 1).await;
    until(|| async { locked(&servers) == NODES }).await;
    for node in &servers.nodes {
        node.cli(&["FLUSHALL"]).unwrap();
    }
    let answer = one(&*store, extend("k", 1)).await;
    assert!(matches!(answer, Answer::Extended { .. }), "{answer:?}");
    until(|| async { locked(&servers) == NODES }).await;

    // Somebody else's, on a majority.
    for node in &servers.nodes[MAJORITY] {
        let replace = "for _, key in ipairs(redis.call('KEYS', '*')) do \
                       redis.call('SET', key, ARGV[1], 'PX', 60000) end";
        let other = format!("{}h1", "o".repeat(16));
        node.cli(&["EVAL", replace, "0", &other]).unwrap();
    }
    unavailable(&one(&*store, extend("k", 1)).await);
    assert_eq!(state(&store, "k").await, Some(RecordState::Executing));
    completed(&*store, "k", 1, b"x").await;
    until(|| async { locked(&servers) == 3 }).await;
}

/// Stopped, not cut off: what was sent to a node waits there, and takes effect when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_stopped_node_takes_late_is_released_all_the_same() {
    let mut servers = start();
    let store = store_on(&servers, IMPATIENT).await;
    granted_in_the_end(&store, "before").await;
    until(|| async { locked(&servers) == NODES }).await;
    for node in &mut servers.nodes[MAJORITY] {
        node.process().pause();
    }
    // All at once, before it is known that nobody answers. Their leases are far longer than the
    // patience of this test.
    let names: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let acquires = names.iter().map(|name| async {
        unavailable(&one(&*store, acquire_for(name, 1, 600_000)).await);
    });
    futures_util::future::join_all(acquires).await;
    for node in &mut servers.nodes[MAJORITY] {
        node.process().resume();
    }
    for name in &names {
        granted_in_the_end(&store, name).await;
    }
}

async fn two(servers: &RedisRedlock) -> [Arc<RedisStore>; 2] {
    [
        store_on(servers, PATIENT).await,
        store_on(servers, PATIENT).await,
    ]
}

/// Nothing but the guard has failed, so nothing at all may be lost.
async fn nothing_lost(seen: &Seen, store: &RedisStore) {
    assert!(seen.completed.len() > MANY);
    assert_eq!(seen.granted_twice(), Vec::<&String>::new());
    assert_eq!(seen.lost(store).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_cut_off_or_stopped_in_a_storm_is_not_noticed() {
    let mut servers = start();
    let stores = two(&servers).await;
    let storm = Storm::start(&stores);
    storm.goes_on(MANY).await;
    cut(&servers, MINORITY);
    storm.goes_on(MANY).await;
    stores[0].ready().await.unwrap();
    mend(&servers);
    storm.goes_on(MANY).await;
    for node in &mut servers.nodes[MINORITY] {
        node.process().pause();
    }
    storm.goes_on(MANY).await;
    for node in &mut servers.nodes[MINORITY] {
        node.process().resume();
    }
    // Others than before: now all that are left are needed.
    for node in &mut servers.nodes[MINORITY] {
        node.kill();
    }
    storm.goes_on(MANY).await;
    assert_eq!(storm.faults(), 0);
    let seen = storm.end().await;
    nothing_lost(&seen, &stores[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_cut_off_in_a_storm_stops_all_grants_until_it_is_back() {
    let servers = start();
    let stores = two(&servers).await;
    let storm = Storm::start(&stores);
    storm.goes_on(MANY).await;
    cut(&servers, MAJORITY);
    let faults = storm.faults();
    // What was being taken at that moment is over when every client has had faults.
    until(|| async { storm.faults() > faults + 100 }).await;
    let granted = storm.granted();
    let faults = storm.faults();
    until(|| async { storm.faults() > faults + 500 }).await;
    assert_eq!(storm.granted(), granted);
    for store in &stores {
        assert!(store.ready().await.is_err());
    }
    mend(&servers);
    storm.goes_on(MANY).await;
    for store in &stores {
        until_ready(store).await;
    }
    let seen = storm.end().await;
    nothing_lost(&seen, &stores[0]).await;
}

/// All that the guard needs of a node, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_s_user_needs_few_rights() {
    let servers = start();
    let rights = "resetchannels ~idem:lock:* -@all +@connection +get +set +del +pttl +eval \
                  +evalsha +info +config|get";
    for node in &servers.nodes {
        let mut command = vec!["ACL", "SETUSER", "locker", "on", ">s3cret"];
        command.extend(rights.split(' ').filter(|right| !right.is_empty()));
        node.cli(&command).unwrap();
    }
    let urls = servers.urls().into_iter();
    let urls: Vec<_> = urls
        .map(|url| url.replace("://", "://locker:s3cret@"))
        .collect();
    let options = guarded_by(&servers.main.url(), &urls, PATIENT);
    let store = RedisStore::open(options).await.unwrap();
    store.ready().await.unwrap();
    granted(&store, "k", 1).await;
    until(|| async { locked(&servers) == NODES }).await;
    let answer = one(&store, extend("k", 1)).await;
    assert!(matches!(answer, Answer::Extended { .. }), "{answer:?}");
    completed(&store, "k", 1, b"x").await;
    until(|| async { locked(&servers) == 0 }).await;
}

async fn refused(options: RedisOptions, part: &str) {
    match RedisStore::open(options).await {
        Err(StoreError::Permanent(text)) => {
            assert!(text.contains(part) && !text.contains("s3cret"), "{text}");
        }
        other => panic!("{part}: {:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_not_independent_or_do_not_let_us_in_are_refused() {
    let servers = start();
    let main = servers.main.url();
    let timeout = Duration::from_secs(1);
    let with = |at: usize, url: String| {
        let mut urls = servers.urls();
        urls[at] = url;
        guarded_by(&main, &urls, timeout)
    };
    // The same servers under other names.
    let node = with(4, servers.nodes[0].url());
    refused(node, "is the same server as").await;
    let own = format!("redis+unix://{}", servers.main.socket().display());
    refused(with(2, own), "the main Redis").await;
    let login = format!("redis://u:s3cret@127.0.0.1:{}", servers.nodes[1].port());
    refused(with(1, login), "WRONGPASS").await;

    // Who is not there yet is waited for.
    cut(&servers, MAJORITY);
    let options = guarded_by(&main, &servers.urls(), timeout);
    let store = RedisStore::open(options).await.unwrap();
    assert!(matches!(store.ready().await, Err(StoreError::Transient(_))));
    mend(&servers);
    until_ready(&store).await;

    // A store without the guard beside one with it: the main Redis still grants once.
    let plain = open(&main).await;
    granted(&store, "k", 1).await;
    let answer = one(&*plain, acquire_for("k", 2, 1_000)).await;
    assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
}
