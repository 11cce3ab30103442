//! Several instances on one database, as several processes are.

use crate::clock::Clock;
use crate::common::*;
use crate::server::Database;
use idempotency_protocol::{Acquire, Answer, OnUnknown, Operation, Owner, Wait};
use idempotency_store::{Postgres, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::Client;

/// A wait for an execution, on its way.
fn waiting(store: &Arc<Postgres>, name: &str, fence: u64) -> JoinHandle<(Answer, Instant)> {
    let wait = Wait {
        key: key(name),
        fingerprint: fingerprint(),
        fence,
        wait_ms: 30_000,
    };
    let store = Arc::clone(store);
    tokio::spawn(async move { (store.wait(wait).await, Instant::now()) })
}

/// Until the database knows that somebody waits for this execution.
async fn until_marked(client: &Client, fence: u64) {
    let marked = "SELECT 1 FROM idempotency_records WHERE fence = $1 AND waited_until IS NOT NULL";
    let fence = i64::try_from(fence).unwrap();
    while client.query(marked, &[&fence]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_woken_by_another_process_at_once() {
    let database = Database::new().await;
    // Only a notification can wake.
    let here = database
        .open_with(|o| o.poll_interval = Duration::from_secs(600))
        .await;
    let there = database.open().await;
    let client = database.client().await;
    let mut took = Vec::new();
    for round in 0..41 {
        let name = format!("k{round}");
        let grant = granted(there.as_ref(), &name, 1).await;
        let waiter = waiting(&here, &name, grant.fence);
        until_marked(&client, grant.fence).await;
        completed(there.as_ref(), &name, 1, b"x").await;
        let done = Instant::now();
        let (answer, woken) = waiter.await.unwrap();
        assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
        took.push(woken.saturating_duration_since(done));
    }
    took.sort_unstable();
    println!(
        "woken after {:?} at the median, {:?} at most",
        took[20], took[40]
    );
    assert!(took[20] < Duration::from_millis(50), "{took:?}");
}

/// A fail, an abandon and a lapse noticed by a sweep end waits elsewhere, too.
#[tokio::test(flavor = "multi_thread")]
async fn every_end_wakes_in_other_processes() {
    let database = Database::new().await;
    let here = database
        .open_with(|o| o.poll_interval = Duration::from_secs(600))
        .await;
    let there = database.open().await;
    let client = database.client().await;
    for (name, end) in [
        ("fail", fail("fail", 1)),
        ("abandon", abandon("abandon", 1)),
    ] {
        let grant = granted(there.as_ref(), name, 1).await;
        let waiter = waiting(&here, name, grant.fence);
        until_marked(&client, grant.fence).await;
        one(there.as_ref(), end).await;
        assert_eq!(waiter.await.unwrap().0, Answer::Changed, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notification_costs_only_time() {
    let database = Database::new().await;
    let here = database
        .open_with(|o| o.poll_interval = Duration::from_millis(100))
        .await;
    let there = database.open().await;
    let client = database.client().await;
    let grant = granted(there.as_ref(), "k", 1).await;
    let waiter = waiting(&here, "k", grant.fence);
    until_marked(&client, grant.fence).await;
    // Written by somebody who notifies nobody.
    client
        .batch_execute(
            "UPDATE idempotency_records SET state = 'failed', lease_until = NULL,
                 replaces = version, version = version + 1",
        )
        .await
        .unwrap();
    assert_eq!(waiter.await.unwrap().0, Answer::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_acquirers_in_two_processes_one_is_granted() {
    let database = Database::new().await;
    let stores = [database.open().await, database.open().await];
    for round in 0..20 {
        let name = format!("k{round}");
        let mut tasks = JoinSet::new();
        for n in 0..64u8 {
            let store = Arc::clone(&stores[usize::from(n % 2)]);
            let operation = acquire(&name, n + 1);
            tasks.spawn(async move { one(store.as_ref(), operation).await });
        }
        let answers = tasks.join_all().await;
        let count = |name| answers.iter().filter(|a| a.name() == name).count();
        assert_eq!(
            (count("granted"), count("in_flight")),
            (1, 63),
            "{answers:?}"
        );
    }
}

/// Batches that lock the same rows in other orders neither block each other nor lose anything.
#[tokio::test(flavor = "multi_thread")]
async fn batches_with_the_same_keys_in_other_orders_get_along() {
    let database = Database::new().await;
    let stores = [database.open().await, database.open().await];
    let mut tasks = JoinSet::new();
    for n in 0..16u8 {
        let store = Arc::clone(&stores[usize::from(n % 2)]);
        tasks.spawn(async move {
            let mut grants = Vec::new();
            for round in 0..10 {
                let mut names: Vec<String> = (0..20).map(|k| format!("{round}-{k}")).collect();
                names.rotate_left(usize::from(n));
                if n % 3 == 0 {
                    names.reverse();
                }
                let asked = names.iter().map(|name| acquire(name, n + 1)).collect();
                let answers = store.apply(asked).await;
                let mut ends = Vec::new();
                for (name, answer) in names.iter().zip(answers) {
                    match answer {
                        Answer::Granted(_) => {
                            grants.push(name.clone());
                            ends.push(complete(name, n + 1, &[n]));
                        }
                        Answer::InFlight { .. } | Answer::Stored(_) => {
                            ends.push(fail(name, n + 1));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                for answer in store.apply(ends).await {
                    assert!(
                        matches!(
                            answer,
                            Answer::Completed { .. } | Answer::Lost | Answer::Refused
                        ),
                        "{answer:?}"
                    );
                }
            }
            grants
        });
    }
    let mut grants: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    grants.sort_unstable();
    let all = grants.len();
    grants.dedup();
    assert_eq!((all, grants.len()), (200, 200), "one grant per key");
}

/// A process that was stopped for longer than its lease comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_finds_nothing_of_its_own() {
    let database = Database::new().await;
    let clock = Clock::install(&database, START).await;
    let (zombie, heir) = (database.open().await, database.open().await);
    let old = granted_for(zombie.as_ref(), "k", 1, 1_000).await;
    clock.advance(Duration::from_secs(2)).await;
    let Operation::Acquire(again) = acquire("k", 2) else {
        unreachable!()
    };
    let again = Operation::Acquire(Acquire {
        on_unknown: OnUnknown::Retry,
        owner: Owner([2; 16]),
        ..again
    });
    let Answer::Granted(new) = one(heir.as_ref(), again).await else {
        panic!("not granted");
    };
    assert!(new.fence > old.fence && new.attempt == 2, "{old:?} {new:?}");
    for late in [complete("k", 1, b"late"), fail("k", 1), abandon("k", 1)] {
        assert_eq!(one(zombie.as_ref(), late).await, Answer::Lost);
    }
    assert_eq!(one(zombie.as_ref(), acquire("k", 1)).await, Answer::Spent);
    completed(heir.as_ref(), "k", 2, b"heir").await;
    match one(zombie.as_ref(), acquire("k", 1)).await {
        Answer::Stored(stored) => assert_eq!(stored.outcome, response(b"heir")),
        other => panic!("{other:?}"),
    }
}

/// The database's clock is three years behind that of this process: only the former counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_the_database_s() {
    let database = Database::new().await;
    let _clock = Clock::install(&database, START).await;
    let store = database.open().await;
    let grant = granted(store.as_ref(), "k", 1).await;
    assert_eq!(grant.fence, START);
    let view = store.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(view.created_at_ms, START / 1_000);
    assert_eq!(view.lease_left_ms, Some(60_000));
}
