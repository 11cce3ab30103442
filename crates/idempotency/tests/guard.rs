//! The guard: who may execute, and what becomes of it.

mod common;

use common::{eventually, record, state, stores, Spy};
use idempotency::store::{Memory, RecordState, Store};
use idempotency::{Entry, Error, Execution, Fingerprint, Guard, OnUnknown, Outcome, SettleError};
use idempotency_protocol::{
    self as protocol, Answer, Operation, Settle, Settlement, StoredResponse,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn payload() -> Fingerprint {
    Fingerprint::raw("payload")
}

async fn execution(guard: &Guard) -> Execution {
    match guard.acquire("k", payload()).await.unwrap() {
        Entry::Execute(execution) => execution,
        other => panic!("{other:?}"),
    }
}

async fn is_unknown(guard: &Guard) -> bool {
    matches!(guard.acquire("k", payload()).await, Ok(Entry::Unknown(_)))
}

#[tokio::test]
async fn of_a_hundred_concurrent_callers_one_executes_and_the_others_get_its_bytes() {
    for (name, store, _dir) in stores() {
        let guard = Guard::new(store);
        let runs = Arc::new(AtomicU64::new(0));
        let callers = (0..100).map(|_| {
            let (guard, runs) = (guard.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                match guard.acquire("k", payload()).await.unwrap() {
                    Entry::Execute(execution) => {
                        let run = runs.fetch_add(1, Ordering::SeqCst);
                        // Long enough for others to come.
                        tokio::task::yield_now().await;
                        let outcome = Outcome::json(201, &run).unwrap();
                        execution.complete(outcome).await.unwrap();
                        None
                    }
                    Entry::Replay(done) => Some(done.body().unwrap().clone()),
                    Entry::InFlight(running) => match running.wait(LONG).await.unwrap() {
                        Entry::Replay(done) => Some(done.body().unwrap().clone()),
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let mut replays = 0;
        for caller in callers {
            if let Some(body) = caller.await.unwrap() {
                assert_eq!(body, "0", "{name}");
                replays += 1;
            }
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{name}");
        assert_eq!(replays, 99, "{name}");
        assert_eq!(guard.running(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_replay_tells_everything_that_was_stored() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let first = execution(&guard).await;
    let (fence, number) = (first.fence(), first.number());
    assert_eq!(number, 1);
    let outcome = Outcome::json(201, &["a"]).unwrap();
    let outcome = outcome.header("Location", "/orders/1").unwrap();
    let completed = first.complete(outcome).await.unwrap();
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(
        (done.status(), done.fence(), done.number()),
        (201, fence, 1)
    );
    assert_eq!(done.json::<Vec<String>>().unwrap(), ["a"]);
    assert_eq!(done.expires_at(), completed.expires_at());
    let headers: Vec<_> = done
        .headers()
        .iter()
        .map(|(n, v)| (&n[..], &v[..]))
        .collect();
    let expected: [(&[u8], &[u8]); 2] = [
        (b"content-type", b"application/json"),
        (b"location", b"/orders/1"),
    ];
    assert_eq!(headers, expected);
    assert!(matches!(done.json::<u8>(), Err(Error::Json(_))));
}

#[tokio::test]
async fn another_payload_is_a_mismatch_while_it_runs_and_afterwards() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let other = || guard.acquire("k", Fingerprint::raw("other"));
    let running = execution(&guard).await;
    assert!(matches!(other().await.unwrap(), Entry::Mismatch));
    running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    assert!(matches!(other().await.unwrap(), Entry::Mismatch));
    let json = guard.acquire("k", Fingerprint::json("payload").unwrap());
    assert!(matches!(json.await.unwrap(), Entry::NotComparable));
}

#[tokio::test]
async fn keys_of_other_tenants_and_namespaces_are_other_keys() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let _running = execution(&guard).await;
    for other in [
        guard.clone().tenant("a"),
        guard.clone().tenant("b"),
        guard.clone().namespace("a"),
        guard.clone().namespace("b").tenant("a"),
    ] {
        execution(&other).await.abandon().await.unwrap();
    }
    let same = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(same, Entry::InFlight(_)), "{same:?}");
}

#[tokio::test]
async fn dropped_without_a_word_is_unknown() {
    for (name, store, _dir) in stores() {
        let guard = Guard::new(Arc::clone(&store));
        drop(execution(&guard).await);
        eventually("the drop is recorded", async || {
            state(store.as_ref()).await == Some(RecordState::Unknown)
        })
        .await;
        assert!(is_unknown(&guard).await, "{name}");
    }
}

#[tokio::test]
async fn a_panic_is_unknown_at_once() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    let in_task = guard.clone();
    let task = tokio::spawn(async move {
        let _running = execution(&in_task).await;
        panic!("on purpose");
    });
    assert!(task.await.unwrap_err().is_panic());
    eventually("the panic is recorded", async || is_unknown(&guard).await).await;
    assert_eq!(store.count("abandon"), 1);
    assert_eq!(guard.running(), 0);
}

#[tokio::test]
async fn what_failed_is_executed_again_with_a_higher_fence() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let first = execution(&guard).await;
    let fence = first.fence();
    first.fail().await.unwrap();
    let second = execution(&guard).await;
    assert_eq!(second.number(), 2);
    assert!(second.fence() > fence);
}

#[tokio::test]
async fn unknown_may_be_executed_again_only_where_that_is_said() {
    let guard = Guard::new(Arc::new(Memory::default()));
    execution(&guard).await.abandon().await.unwrap();
    assert!(is_unknown(&guard).await);
    let bold = guard.clone().on_unknown(OnUnknown::Retry);
    assert_eq!(execution(&bold).await.number(), 2);
}

#[tokio::test]
async fn an_execution_that_was_overtaken_is_told_so() {
    let store = Spy::memory();
    store.deaf.store(true, Ordering::SeqCst);
    let guard = Guard::new(store.clone())
        .lease(Duration::from_millis(200))
        .on_unknown(OnUnknown::Retry);
    let slow = execution(&guard).await;
    let mut taken = None;
    eventually(
        "its lease is over and another one takes the key",
        async || {
            match guard.acquire("k", payload()).await {
                Ok(Entry::Execute(other)) => taken = Some(other),
                Ok(Entry::InFlight(_)) => {}
                other => panic!("{other:?}"),
            }
            taken.is_some()
        },
    )
    .await;
    let taken = taken.unwrap();
    assert!(!slow.is_lost(), "it has not heard of it yet");
    store.deaf.store(false, Ordering::SeqCst);
    eventually("the slow one hears of it", async || slow.is_lost()).await;
    let outcome = || Outcome::json(200, "slow").unwrap();
    assert_eq!(slow.complete(outcome()).await, Err(SettleError::Lost));
    taken
        .complete(Outcome::json(200, "taken").unwrap())
        .await
        .unwrap();
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(done.json::<String>().unwrap(), "taken");
}

#[tokio::test]
async fn what_the_upstream_has_settled_gets_the_answer_of_the_caller() {
    let store = Arc::new(Memory::default());
    let guard = Guard::new(store.clone());
    let settle = async |execution: &Execution, outcome: &str| {
        let key = record(store.as_ref()).await.unwrap().key;
        let fence = execution.fence();
        let response = StoredResponse {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: serde_json::to_vec(outcome).unwrap().into(),
        };
        let settlement = Settlement::Completed(protocol::Outcome::Response(response));
        let settle = Settle {
            key,
            fence,
            settlement,
        };
        let answers = store.apply(vec![Operation::Settle(settle)]).await;
        assert!(
            matches!(answers[0], Answer::Completed { .. }),
            "{answers:?}"
        );
    };
    let running = execution(&guard).await;
    settle(&running, "by the upstream").await;
    // While the caller holds the key, its own answer is attached to what is settled.
    let meanwhile = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(meanwhile, Entry::InFlight(_)));
    let own = running.complete(Outcome::json(200, "by the caller").unwrap());
    assert!(own.await.is_ok());
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(done.json::<String>().unwrap(), "by the caller");
}

#[tokio::test]
async fn a_store_that_is_down_is_told_apart_and_gets_the_outcome_later() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    let running = execution(&guard).await;
    store.set_down(true);
    let refused = running.complete(Outcome::json(201, "done").unwrap()).await;
    assert!(
        matches!(refused, Err(SettleError::StoreDown(_))),
        "{refused:?}"
    );
    let down = guard.acquire("other", payload()).await;
    assert!(matches!(down, Err(Error::StoreDown(_))), "{down:?}");
    assert!(down.unwrap_err().is_transient());
    store.set_down(false);
    eventually("the outcome is recorded late", async || {
        matches!(guard.acquire("k", payload()).await, Ok(Entry::Replay(_)))
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_stops_to_wait_does_not_stop_the_record() {
    for (name, store, _dir) in stores() {
        let guard = Guard::new(Arc::clone(&store));
        let running = execution(&guard).await;
        let complete = running.complete(Outcome::empty(204).unwrap());
        // Polled once, and dropped.
        tokio::select! {
            biased;
            _ = complete => {}
            () = std::future::ready(()) => {}
        }
        eventually(name, async || {
            state(store.as_ref()).await == Some(RecordState::Completed)
        })
        .await;
    }
}

#[tokio::test]
async fn an_acquire_that_nobody_awaits_any_more_is_taken_back() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    store.mute.store(true, Ordering::SeqCst);
    let asked = tokio::time::timeout(SOON, guard.acquire("k", payload())).await;
    assert!(asked.is_err(), "it never answers");
    eventually("it is taken back", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
    store.mute.store(false, Ordering::SeqCst);
    assert_eq!(execution(&guard).await.number(), 2);
}

#[tokio::test]
async fn a_store_that_does_not_answer_in_time_is_down() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).timeout(SOON);
    store.mute.store(true, Ordering::SeqCst);
    let down = guard.acquire("k", payload()).await;
    assert!(matches!(down, Err(Error::StoreDown(_))), "{down:?}");
    eventually("it is taken back", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
}

#[tokio::test]
async fn a_grant_that_comes_too_late_is_not_used() {
    let store = Spy::memory();
    // A quarter of the lease must be left.
    let guard = Guard::new(store.clone()).lease(Duration::from_millis(400));
    store.stall_ms.store(310, Ordering::SeqCst);
    let late = guard.acquire("k", payload()).await;
    assert!(matches!(late, Err(Error::Late)), "{late:?}");
    assert_eq!(guard.running(), 0);
    eventually("the key is free", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
    store.stall_ms.store(0, Ordering::SeqCst);
    assert_eq!(execution(&guard).await.number(), 2);
}

#[tokio::test]
async fn the_lease_is_renewed_while_the_execution_lives() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).lease(Duration::from_millis(200));
    let running = execution(&guard).await;
    let others: Vec<_> = (0..20).map(|n| format!("other-{n}")).collect();
    let mut held = Vec::new();
    for key in &others {
        let Entry::Execute(other) = guard.acquire(key, payload()).await.unwrap() else {
            panic!("{key}");
        };
        held.push(other);
    }
    // Two and a half leases.
    eventually("five renewals each", async || {
        store.count("extend") >= 5 * 21
    })
    .await;
    let again = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(again, Entry::InFlight(_)), "{again:?}");
    let outcome = || Outcome::empty(200).unwrap();
    running.complete(outcome()).await.unwrap();
    for other in held {
        other.complete(outcome()).await.unwrap();
    }
    let renewals = store.count("extend");
    tokio::time::sleep(SOON).await;
    assert_eq!(store.count("extend"), renewals, "nothing is left to renew");
}

#[tokio::test]
async fn a_renewal_without_an_answer_is_tried_again() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).lease(Duration::from_secs(2));
    let _running = execution(&guard).await;
    store.set_down(true);
    eventually("several are tried", async || store.count("extend") >= 3).await;
    store.set_down(false);
    let before = store.count("extend");
    eventually("it succeeds", async || store.count("extend") > before).await;
    let left = || async { record(store.as_ref()).await.unwrap().lease_left_ms };
    eventually("the lease is a new one", async || {
        left().await > Some(1_000)
    })
    .await;
}

#[tokio::test]
async fn an_execution_that_hangs_does_not_hold_its_key_for_ever() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone())
        .lease(Duration::from_millis(200))
        .renew_for(SOON);
    let hangs = execution(&guard).await;
    eventually("the key is unknown", async || is_unknown(&guard).await).await;
    assert!(store.count("extend") >= 1);
    // It did end, at last, and nobody was granted meanwhile.
    hangs.complete(Outcome::empty(200).unwrap()).await.unwrap();
}

#[tokio::test]
async fn waiting_ends_with_the_other_execution() {
    for (name, store, _dir) in stores() {
        let guard = Guard::new(store);
        let running = execution(&guard).await;
        let waiting = || async {
            match guard.acquire("k", payload()).await.unwrap() {
                Entry::InFlight(other) => other,
                other => panic!("{name}: {other:?}"),
            }
        };
        let still = waiting()
            .await
            .wait(Duration::from_millis(50))
            .await
            .unwrap();
        assert!(matches!(still, Entry::InFlight(_)), "{name}: {still:?}");
        let (waited, failed) = tokio::join!(waiting().await.wait(LONG), running.fail());
        failed.unwrap();
        let Entry::Execute(second) = waited.unwrap() else {
            panic!("{name}: it failed, so the one who waits executes");
        };
        let outcome = Outcome::empty(204).unwrap();
        let (waited, done) = tokio::join!(waiting().await.wait(LONG), second.complete(outcome));
        done.unwrap();
        assert!(matches!(waited.unwrap(), Entry::Replay(_)), "{name}");
    }
}

#[tokio::test]
async fn no_more_executions_than_allowed_and_replays_all_the_same() {
    let guard = Guard::new(Arc::new(Memory::default())).max_executions(1);
    execution(&guard)
        .await
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    let one = guard.acquire("one", payload()).await.unwrap();
    let busy = guard.acquire("two", payload()).await;
    assert!(matches!(busy, Err(Error::Busy)), "{busy:?}");
    let replay = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(replay, Entry::Replay(_)), "{replay:?}");
    drop(one);
    eventually(
        "the other one has its turn, and its key was free",
        async || matches!(guard.acquire("two", payload()).await, Ok(Entry::Execute(_))),
    )
    .await;
}

#[tokio::test]
async fn drain_waits_for_what_is_running() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let running = execution(&guard).await;
    let ends = async {
        // Once the drain has begun.
        eventually("nothing new begins", async || {
            matches!(guard.acquire("new", payload()).await, Err(Error::Closing))
        })
        .await;
        running
            .complete(Outcome::empty(204).unwrap())
            .await
            .unwrap();
    };
    let (drained, ()) = tokio::join!(guard.drain(LONG), ends);
    assert!(drained);
}

#[tokio::test]
async fn what_drain_does_not_wait_for_is_unknown_and_may_still_end() {
    let store = Arc::new(Memory::default());
    let guard = Guard::new(store.clone());
    let running = execution(&guard).await;
    assert!(!guard.drain(SOON).await);
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Unknown));
    running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Completed));
}

/// Whoever holds an execution may outlive the runtime.
#[test]
fn a_runtime_that_ends_is_no_trap() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let (task_holds, outlives) = first.block_on(async {
        let in_task = execution(&guard).await;
        let Entry::Execute(outlives) = guard.acquire("other", payload()).await.unwrap() else {
            panic!("the first one");
        };
        (in_task, outlives)
    });
    first.spawn(async move {
        let _holds = task_holds;
        std::future::pending::<()>().await;
    });
    drop(first);
    drop(outlives);
    assert_eq!(guard.running(), 0);
    // Nobody could tell the store; in another runtime everything works again.
    runtime().block_on(async {
        assert_eq!(guard.counts()["outbox"], 2);
        drop(guard.acquire("third", payload()).await.unwrap());
        eventually("the outbox is empty", async || {
            guard.counts()["outbox"] == 0
        })
        .await;
        assert!(is_unknown(&guard).await);
    });
    assert_eq!(store.count("abandon"), 3);
}

#[tokio::test]
async fn what_is_out_of_range_is_refused_before_the_store_is_asked() {
    let store = Spy::memory();
    let guard = || Guard::new(store.clone());
    let long = "k".repeat(256);
    for key in ["", long.as_str()] {
        let refused = guard().acquire(key, payload()).await;
        assert!(matches!(refused, Err(Error::InvalidKey(_))), "{refused:?}");
    }
    let wide = "t".repeat(1025);
    for guard in [guard().tenant(&wide), guard().namespace(&wide)] {
        let refused = guard.acquire("k", payload()).await;
        assert!(matches!(refused, Err(Error::InvalidKey(_))), "{refused:?}");
    }
    let day = Duration::from_secs(86_400);
    for guard in [
        guard().lease(Duration::ZERO),
        guard().lease(day + Duration::from_millis(1)),
        guard().ttl(Duration::ZERO),
        guard().ttl(3661 * day),
        guard().unknown_ttl(day / 2),
    ] {
        let refused = guard.acquire("k", payload()).await;
        assert!(matches!(refused, Err(Error::Settings(_))), "{refused:?}");
    }
    assert_eq!(store.calls(), 0);
    let longest = "é".repeat(255);
    assert!(guard()
        .lease(day)
        .acquire(&longest, payload())
        .await
        .is_ok());
}

#[cfg(feature = "daily")]
#[tokio::test]
async fn a_daily_window_sets_the_ttl() {
    use idempotency::keys::Daily;
    use std::time::SystemTime;
    let overlap = Duration::from_secs(2 * 3600);
    let window = Daily::in_zone("Europe/Berlin").unwrap().overlap(overlap);
    let guard = Guard::new(Arc::new(Memory::default())).daily(window.clone());
    let before = SystemTime::now();
    let running = execution(&guard).await;
    let completed = running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    let kept = completed.expires_at().duration_since(before).unwrap();
    let ttl = window.ttl_at(before);
    let second = Duration::from_secs(1);
    assert!(
        kept + second > ttl && kept < ttl + second,
        "{kept:?} {ttl:?}"
    );
}

#[tokio::test]
async fn cleanup_forgets_what_is_over_and_stops_when_told() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone())
        .ttl(Duration::from_millis(1))
        .unknown_ttl(Duration::from_millis(1));
    for n in 0..1_001 {
        let key = format!("k{n}");
        let Entry::Execute(one) = guard.acquire(&key, payload()).await.unwrap() else {
            panic!("{key}");
        };
        one.complete(Outcome::empty(204).unwrap()).await.unwrap();
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let job = tokio::spawn(guard.cleanup_job(Duration::from_millis(10), stopped));
    eventually("everything is swept", async || {
        store.count("swept") == 1_001
    })
    .await;
    assert!(store.count("sweep") >= 2, "1,000 at a time");
    stop.cancel();
    job.await.unwrap();
    let sweeps = store.count("sweep");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.count("sweep"), sweeps);
}
