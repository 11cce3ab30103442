//! Lost connections, restarts, locks, standbys.

use crate::common::*;
use crate::server::{own, Database};
use idempotency_protocol::{Answer, FailCause, Operation, Owner};
use idempotency_stack::PostgresOptions as ServerOptions;
use idempotency_store::{Postgres, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

const KILL_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// Nobody above the store notices that connections are cut.
#[tokio::test(flavor = "multi_thread")]
async fn terminated_connections_are_replaced() {
    let database = Database::new().await;
    let store = database.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (progress, mut seen) = tokio::sync::watch::channel(0);
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (store, stop, progress) = (Arc::clone(&store), Arc::clone(&stop), progress.clone());
        tasks.spawn(async move {
            let mut done = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let name = format!("{task}-{}", done.len());
                granted(store.as_ref(), &name, 1).await;
                completed(store.as_ref(), &name, 1, name.as_bytes()).await;
                done.push(name);
                progress.send_modify(|keys| *keys += 1);
            }
            done
        });
    }
    let client = database.client().await;
    let mut killed = 0;
    for round in 0..15 {
        killed += client
            .query_one(KILL_ALL, &[])
            .await
            .unwrap()
            .get::<_, i64>(0);
        // However slow the machine is, work goes on between two cuts.
        let reached = seen.wait_for(|keys| *keys >= 4 * (round + 1));
        tokio::time::timeout(Duration::from_secs(60), reached)
            .await
            .expect("the store goes on after its connections were cut")
            .expect("the tasks run");
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    println!("{killed} connections cut, {} keys", done.len());
    assert!(killed >= 15, "{killed}");
    for name in done {
        match one(store.as_ref(), acquire(&name, 2)).await {
            Answer::Stored(stored) => assert_eq!(stored.outcome, response(name.as_bytes())),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Fences that were granted, by key and attempt.
type Grants = Mutex<BTreeMap<(String, u32), Vec<u64>>>;

/// Asks again until there is an answer; the owner makes that safe.
async fn persist(store: &Postgres, operation: Operation) -> Answer {
    loop {
        match one(store, operation.clone()).await {
            Answer::Fault(_) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

/// One execution: granted, then failed or completed.
async fn execute(store: &Postgres, name: &str, owner: u8, round: u8, grants: &Grants) {
    let owner = Owner([owner, round, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    let mut asked = acquire(name, 1);
    if let Operation::Acquire(a) = &mut asked {
        a.owner = owner;
    }
    let Answer::Granted(grant) = persist(store, asked).await else {
        return;
    };
    grants
        .lock()
        .unwrap()
        .entry((name.to_owned(), grant.attempt))
        .or_default()
        .push(grant.fence);
    let end = if grant.attempt < 4 {
        Operation::Fail {
            key: key(name),
            owner,
            cause: FailCause::Other,
        }
    } else {
        match complete(name, 1, name.as_bytes()) {
            Operation::Complete(c) => {
                Operation::Complete(idempotency_protocol::Complete { owner, ..c })
            }
            other => other,
        }
    };
    let fails = matches!(end, Operation::Fail { .. });
    let ended = persist(store, end).await;
    let fine = match ended {
        Answer::Completed { .. } => !fails,
        // Or it had failed, the answer was cut off, and somebody else has the key by now.
        Answer::Failed | Answer::Lost | Answer::Refused => fails,
        _ => false,
    };
    assert!(fine, "{name}: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_in_a_storm_repeats_nothing() {
    let server = Arc::new(own(ServerOptions {
        fsync: true,
        ..ServerOptions::default()
    }));
    let database = Database::on(server);
    Postgres::migrate(&database.options()).await.unwrap();
    let stores = [database.open().await, database.open().await];
    let grants = Arc::new(Grants::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..16u8 {
        let store = Arc::clone(&stores[usize::from(task % 2)]);
        let (grants, stop) = (Arc::clone(&grants), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut batch = 0u32;
            while !stop.load(Ordering::Relaxed) {
                for round in 0..8 {
                    let name = format!("k{batch}");
                    execute(store.as_ref(), &name, task, round, &grants).await;
                }
                batch += 1;
            }
        });
    }
    let enough = |least: usize| {
        let grants = Arc::clone(&grants);
        async move {
            while grants.lock().unwrap().len() < least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let Database { server, .. } = database;
    let mut server = Arc::into_inner(server).unwrap();
    for crash in [true, false] {
        let so_far = grants.lock().unwrap().len();
        enough(so_far + 60).await;
        server = tokio::task::spawn_blocking(move || {
            if crash {
                server.crash();
            } else {
                server.stop();
            }
            server.start_again().unwrap();
            server
        })
        .await
        .unwrap();
    }
    let so_far = grants.lock().unwrap().len();
    enough(so_far + 60).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    stores[0].ready().await.unwrap();
    let grants = grants.lock().unwrap();
    println!("{} grants over a crash and a restart", grants.len());
    let mut last: Option<(&str, u64)> = None;
    for ((name, attempt), fences) in grants.iter() {
        assert_eq!(fences.len(), 1, "{name}, attempt {attempt}: {fences:?}");
        if let Some((before, fence)) = last.filter(|(before, _)| before == name) {
            assert!(fences[0] > fence, "{before}: {fence}, then {fences:?}");
        }
        last = Some((name, fences[0]));
        assert!(*attempt <= 4, "{name} was granted after it was completed");
    }
}

/// A row that somebody else has locked holds up nothing but its own operation.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_holds_up_its_own_operations_only() {
    let database = Database::new().await;
    let store = database
        .open_with(|o| o.lock_timeout = Duration::from_millis(100))
        .await;
    granted(store.as_ref(), "locked", 1).await;
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction
        .query("SELECT * FROM idempotency_records FOR UPDATE", &[])
        .await
        .unwrap();
    let asked = vec![
        acquire("free", 1),
        complete("locked", 1, b"x"),
        acquire("other", 1),
    ];
    let answers = store.apply(asked.clone()).await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    assert_eq!(names, ["granted", "fault", "granted"], "{answers:?}");
    // A look at it waits for nobody.
    in_flight(one(store.as_ref(), acquire("locked", 2)).await);
    transaction.rollback().await.unwrap();
    let answers = store.apply(asked).await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    assert_eq!(names, ["granted", "completed", "granted"], "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_not_ready_and_recovers() {
    let database = Database::new().await;
    let store = database
        .open_with(|o| o.retry_budget = Duration::from_millis(100))
        .await;
    granted(store.as_ref(), "k", 1).await;
    let client = database.client().await;
    let read_only = |on: &str| {
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = {on}",
            database.name
        )
    };
    client.batch_execute(&read_only("on")).await.unwrap();
    client.query(KILL_ALL, &[]).await.unwrap();
    // The pool notices a cut connection when it uses it.
    let error = loop {
        if let Err(error) = store.ready().await {
            if !error.to_string().contains("closed") {
                break error;
            }
        }
    };
    assert!(matches!(error, StoreError::Transient(_)), "{error}");
    let answer = one(store.as_ref(), acquire("new", 1)).await;
    assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    client
        .batch_execute(&format!(
            "SET transaction_read_only = off; {}",
            read_only("off")
        ))
        .await
        .unwrap();
    while store.ready().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    granted(store.as_ref(), "new", 1).await;
    in_flight(one(store.as_ref(), acquire("k", 2)).await);
}

/// What is asked of a server that is not there ends in time, and is a fault, not an answer.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_there_are_faults_in_time() {
    let server = Arc::new(own(ServerOptions::default()));
    let database = Database::on(server);
    Postgres::migrate(&database.options()).await.unwrap();
    let store = database
        .open_with(|o| o.retry_budget = Duration::from_millis(300))
        .await;
    granted(store.as_ref(), "k", 1).await;
    let Database { server, .. } = database;
    let mut server = Arc::into_inner(server).unwrap();
    server.stop();
    let started = std::time::Instant::now();
    let answer = one(store.as_ref(), acquire("k", 2)).await;
    assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(matches!(store.ready().await, Err(StoreError::Transient(_))));
    server.start_again().unwrap();
    in_flight(one(store.as_ref(), acquire("k", 2)).await);
    store.ready().await.unwrap();
    store.close().await;
    let answer = one(store.as_ref(), acquire("k", 2)).await;
    assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    assert!(store.ready().await.is_err());
}

/// Calls travel together; those that leave on the way take nobody along, and lose nothing.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_take_nobody_along() {
    let database = Database::new().await;
    let store = database.open_with(|o| o.lanes = 1).await;
    let names: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let calls: Vec<_> = names
        .iter()
        .map(|name| {
            let (store, operation) = (Arc::clone(&store), acquire(name, 1));
            tokio::spawn(async move { one(store.as_ref(), operation).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for (n, call) in calls.into_iter().enumerate() {
        if n % 2 == 0 {
            call.abort();
        } else {
            let answer = call.await.unwrap();
            assert!(matches!(answer, Answer::Granted(_)), "{answer:?}");
        }
    }
    // The same owner asks again: it has got what it asked for, or gets it now.
    for name in &names {
        granted(store.as_ref(), name, 1).await;
    }
}
