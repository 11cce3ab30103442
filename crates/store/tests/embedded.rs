//! What only the embedded store promises: restarts, its directory, its limits.

mod common;

use common::*;
use idempotency_protocol::{Answer, FaultCode, Operation, Outcome, TombstoneReason, Wait};
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::record::MARK_TTL_MS;
use idempotency_store::{
    Durability, Embedded, EmbeddedOptions, ListFilter, Memory, RecordState, Resolution, Resolve,
    Resolved, Store, StoreError, WaitCounts, WaiterCaps,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

fn open_at(path: &Path, clock: &Arc<ManualClock>) -> Embedded {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Embedded::open_with_clock(EmbeddedOptions::new(path), |_| clock).unwrap()
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    let large = vec![7; 100_000];
    for (key, body) in [("small", b"small".as_slice()), ("large", &large)] {
        granted(&store, key, 1).await;
        completed(&store, key, 1, body).await;
    }
    granted(&store, "failed", 2).await;
    assert_eq!(one(&store, fail("failed", 2)).await, Answer::Failed);
    assert_eq!(one(&store, fail("cancelled", 3)).await, Answer::Marked);
    let usage = store.ready().await.unwrap();
    store.close().await;
    assert!(matches!(
        one(&store, acquire("small", 9)).await,
        Answer::Fault(_)
    ));
    assert!(store.ready().await.is_err());
    drop(store);

    let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    for (key, body) in [("small", b"small".as_slice()), ("large", &large)] {
        match one(&store, acquire(key, 9)).await {
            Answer::Stored(stored) => assert_eq!(stored.outcome, response(body)),
            other => panic!("{key}: {other:?}"),
        }
    }
    assert_eq!(one(&store, acquire("failed", 2)).await, Answer::Spent);
    assert_eq!(
        one(&store, acquire("cancelled", 3)).await,
        Answer::Cancelled
    );
    assert_eq!(store.ready().await.unwrap(), usage);
}

/// A clock that goes on by a second between the first look at it and the second.
struct Slow(AtomicBool);

impl Clock for Slow {
    fn now(&self) -> u64 {
        let looked_at = self.0.swap(true, Ordering::SeqCst);
        START + u64::from(looked_at) * 1_000_000
    }
}

/// Leases of earlier starts count from this one, of which there is one time, however long it takes.
#[tokio::test]
async fn a_start_has_one_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    granted(&store, "k", 1).await;
    drop(store);

    let options = EmbeddedOptions::new(dir.path());
    let slow = |_| Arc::new(Slow(AtomicBool::new(false))) as Arc<dyn Clock>;
    let store = Embedded::open_with_clock(options, slow).unwrap();
    let inspected = store.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(inspected.lease_left_ms, Some(59_000));
    let filter = ListFilter {
        limit: 10,
        ..ListFilter::default()
    };
    let listed = store.list(filter).await.unwrap().records;
    assert_eq!(listed, [inspected]);
}

#[tokio::test]
async fn leases_begin_anew_on_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    let grant = granted_for(&store, "k", 1, 1_000).await;
    clock.advance(Duration::from_millis(900));
    drop(store);

    // Down for an hour: nobody could renew.
    clock.advance(Duration::from_secs(3_600));
    let store = open_at(dir.path(), &clock);
    clock.advance(Duration::from_millis(900));
    let (fence, left) = in_flight(one(&store, acquire("k", 2)).await);
    assert_eq!((fence, left), (grant.fence, 100));
    // The index has it at its old time; a sweep must not end it early, nor forget it.
    store.sweep(100).await.unwrap();
    in_flight(one(&store, acquire("k", 2)).await);
    clock.advance(Duration::from_millis(101));
    assert_eq!(store.sweep(100).await.unwrap().lapsed, 1);
    let view = store.inspect(&key("k")).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Unknown);

    // And again, over two restarts without a sweep in between.
    granted_for(&store, "l", 1, 1_000).await;
    drop(store);
    for _ in 0..2 {
        clock.advance(Duration::from_millis(5_000));
        let store = open_at(dir.path(), &clock);
        let (_, left) = in_flight(one(&store, acquire("l", 2)).await);
        assert_eq!(left, 1_000);
    }
}

#[tokio::test]
async fn store_time_does_not_run_backwards_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    clock.advance(Duration::from_secs(100));
    granted(&store, "k", 1).await;
    // Nothing is written for a while, but a sweep keeps the time.
    clock.advance(Duration::from_secs(1_000));
    store.sweep(100).await.unwrap();
    drop(store);

    let mut floor = 0;
    let reopened = Embedded::open_with_clock(EmbeddedOptions::new(dir.path()), |seen| {
        floor = seen;
        Arc::new(ManualClock::at(seen))
    });
    assert!(floor >= START + 1_100_000_000, "{floor}");
    drop(reopened);
}

#[tokio::test]
async fn two_stores_cannot_open_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    match Embedded::open(EmbeddedOptions::new(dir.path())) {
        Err(StoreError::Permanent(why)) => assert!(why.contains("in use"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened twice"),
    }
    drop(store);
    Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
}

#[tokio::test]
async fn a_place_that_cannot_be_a_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"in the way").unwrap();
    match Embedded::open(EmbeddedOptions::new(&file)) {
        Err(StoreError::Permanent(why)) => assert!(why.contains("file"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened a file"),
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn damaged_files_are_a_permanent_error_and_never_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    granted(&store, "k", 1).await;
    completed(&store, "k", 1, b"x").await;
    drop(store);

    let names: Vec<_> = files(dir.path())
        .into_iter()
        .map(|f| f.strip_prefix(dir.path()).unwrap().to_owned())
        .collect();
    for name in names {
        // Each file in turn, in a copy of the directory.
        let copy = tempfile::tempdir().unwrap();
        for file in files(dir.path()) {
            let to = copy.path().join(file.strip_prefix(dir.path()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&file, &to).unwrap();
        }
        let victim = copy.path().join(&name);
        let len = std::fs::metadata(&victim).unwrap().len().min(4_096);
        if len == 0 {
            continue; // The lock file.
        }
        let mut bytes = std::fs::read(&victim).unwrap();
        for byte in bytes.iter_mut().take(4_096) {
            *byte ^= 0x5a;
        }
        std::fs::write(&victim, bytes).unwrap();
        match Embedded::open(EmbeddedOptions::new(copy.path())) {
            Err(StoreError::Permanent(_)) => {}
            Err(other) => panic!("{}: {other:?}", name.display()),
            Ok(store) => {
                let answer = one(&store, acquire("k", 2)).await;
                assert!(
                    matches!(answer, Answer::Stored(_) | Answer::Fault(_)),
                    "{} damaged, and the key is free: {answer:?}",
                    name.display()
                );
            }
        }
    }
}

#[tokio::test]
async fn above_the_high_water_mark_executions_end_but_none_begin() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        max_bytes: Some(200_000),
        ..EmbeddedOptions::new(dir.path())
    };
    let store = Embedded::open(options.clone()).unwrap();
    // All granted while there is room.
    for n in 0..60 {
        granted(&store, &format!("k{n}"), 1).await;
    }
    granted(&store, "fails", 1).await;
    granted(&store, "abandons", 1).await;
    let mut tombstones = 0;
    for n in 0..60 {
        let key = format!("k{n}");
        let body = vec![n; 10_000];
        completed(&store, &key, 1, &body).await;
        // The same complete again is the same answer, tombstone or not.
        completed(&store, &key, 1, &body).await;
        match one(&store, acquire(&key, 2)).await {
            Answer::Stored(stored) => match *stored.outcome {
                Outcome::Response(_) => assert_eq!(tombstones, 0, "room came back"),
                Outcome::Tombstone(t) => {
                    assert_eq!(t.reason, TombstoneReason::Capacity);
                    tombstones += 1;
                }
            },
            other => panic!("{other:?}"),
        }
    }
    assert!((10..50).contains(&tombstones), "{tombstones} tombstones");
    let usage = store.ready().await.unwrap();
    assert!(usage.above_high_water, "{usage:?}");
    assert!(usage.bytes.unwrap() < 250_000, "{usage:?}");

    refused(one(&store, acquire("new", 1)).await);
    assert_eq!(one(&store, fail("fails", 1)).await, Answer::Failed);
    refused(one(&store, acquire("fails", 2)).await);
    assert_eq!(one(&store, abandon("abandons", 1)).await, Answer::Abandoned);
    assert_eq!(one(&store, fail("marked", 1)).await, Answer::Marked);
    let page = store.list(Default::default()).await.unwrap();
    assert_eq!(page.records.len(), 1);

    // The mark is known at once after a restart, and with more room the store goes on.
    drop(store);
    let store = Embedded::open(options.clone()).unwrap();
    refused(one(&store, acquire("new", 1)).await);
    drop(store);
    let roomy = EmbeddedOptions {
        max_bytes: Some(10_000_000),
        ..options
    };
    let store = Embedded::open(roomy).unwrap();
    assert!(!store.ready().await.unwrap().above_high_water);
    granted(&store, "new", 1).await;
}

fn refused(answer: Answer) {
    match answer {
        Answer::Fault(fault) => assert_eq!(fault.code, FaultCode::Capacity),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_acquires() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        min_free_bytes: u64::MAX,
        ..EmbeddedOptions::new(dir.path())
    };
    let store = Embedded::open(options).unwrap();
    refused(one(&store, acquire("k", 1)).await);
    assert!(store.ready().await.unwrap().above_high_water);
}

#[tokio::test]
async fn the_size_of_the_data_is_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    let empty = store.ready().await.unwrap().bytes.unwrap();
    for n in 0..50u8 {
        let key = format!("k{n}");
        granted(&store, &key, 1).await;
        match n % 3 {
            0 => completed(&store, &key, 1, &vec![n; 50 * usize::from(n)]).await,
            1 => assert_eq!(one(&store, fail(&key, 1)).await, Answer::Failed),
            _ => assert_eq!(one(&store, abandon(&key, 1)).await, Answer::Abandoned),
        }
        assert_eq!(one(&store, fail("mark", n)).await, Answer::Marked);
    }
    assert!(store.ready().await.unwrap().bytes.unwrap() > empty + 10_000);
    clock.advance(Duration::from_secs(100_000));
    let swept = store.sweep(1_000).await.unwrap();
    assert_eq!((swept.expired, swept.more), (50, false));
    let usage = store.ready().await.unwrap();
    assert_eq!((usage.records, usage.bytes), (Some(0), Some(empty)));
}

/// A record whose marks are over is deleted by an operator: nothing is left, and nothing stays.
#[tokio::test]
async fn what_an_operator_deletes_is_swept_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    let empty = store.ready().await.unwrap().bytes;
    // Swept by the first sweep: what comes after is not found by starting from the beginning.
    assert_eq!(one(&store, fail("other", 9)).await, Answer::Marked);
    // Kept for longer than a mark is.
    let Operation::Acquire(mut long) = acquire("k", 1) else {
        panic!("not an acquire")
    };
    long.retention.ttl_ms = 100_000_000;
    assert!(matches!(
        one(&store, Operation::Acquire(long)).await,
        Answer::Granted(_)
    ));
    for to in [Resolution::Completed(response(b"x")), Resolution::Deleted] {
        let version = store.inspect(&key("k")).await.unwrap().unwrap().version;
        let request = Resolve {
            key: key("k"),
            version,
            to,
            force: true,
        };
        assert!(matches!(
            store.resolve(request).await.unwrap(),
            Resolved::Done(_)
        ));
        assert_ne!(store.ready().await.unwrap().bytes, empty);
        clock.advance(Duration::from_secs(2 * 3_600));
        store.sweep(100).await.unwrap();
    }
    assert_eq!(store.ready().await.unwrap().bytes, empty);
}

#[tokio::test]
async fn a_sweep_works_in_bounded_batches() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = open_at(dir.path(), &clock);
    let grants = (0..1_000).map(|n| acquire(&format!("k{n}"), 1)).collect();
    store.apply(grants).await;
    let ends = (0..900).map(|n| fail(&format!("k{n}"), 1)).collect();
    store.apply(ends).await;
    clock.advance(Duration::from_secs(100_000));
    let first = store.sweep(600).await.unwrap();
    assert_eq!((first.expired + first.lapsed, first.more), (600, true));
    let rest = store.sweep(600).await.unwrap();
    assert_eq!((rest.expired + rest.lapsed, rest.more), (400, false));
    assert_eq!(first.lapsed + rest.lapsed, 100);
    assert_eq!(store.ready().await.unwrap().records, Some(100));
}

/// Slots of which only marks are left are no records, and still are something to do.
#[tokio::test]
async fn a_sweep_counts_slots_that_hold_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let on_disk = open_at(dir.path(), &clock);
    let memory = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let stores: [&dyn Store; 2] = [&on_disk, &memory];
    for store in stores {
        let marks = (0..1_000).map(|n| fail(&format!("k{n}"), 1)).collect();
        let answers = store.apply(marks).await;
        assert!(answers.iter().all(|answer| *answer == Answer::Marked));
    }
    clock.advance(Duration::from_millis(MARK_TTL_MS + 1));
    for store in stores {
        let first = store.sweep(600).await.unwrap();
        assert_eq!((first.slots, first.more), (600, true));
        assert!(first.again());
        let rest = store.sweep(600).await.unwrap();
        assert_eq!((rest.slots, rest.more), (400, false));
        assert_eq!((first.expired, rest.expired), (0, 0));
        assert!(!rest.again());
    }
}

#[tokio::test]
async fn waits_over_a_cap_time_out_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let waiters = WaiterCaps {
        per_key: 1,
        per_tenant: 2,
        total: 2,
    };
    let options = EmbeddedOptions {
        waiters,
        ..EmbeddedOptions::new(dir.path())
    };
    let store = Arc::new(Embedded::open(options).unwrap());
    let mut waits = Vec::new();
    for name in ["a", "b", "c"] {
        let grant = granted(store.as_ref(), name, 1).await;
        let wait = Wait {
            key: key(name),
            fingerprint: fingerprint(),
            fence: grant.fence,
            wait_ms: 60_000,
        };
        waits.push(wait);
    }
    let spawn = |wait: &Wait| {
        let (store, wait) = (Arc::clone(&store), wait.clone());
        tokio::spawn(async move { store.wait(wait).await })
    };
    let first = spawn(&waits[0]);
    while store.waiting() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        store.wait(waits[0].clone()).await,
        Answer::TimedOut,
        "per key"
    );
    let second = spawn(&waits[1]);
    while store.waiting() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        store.wait(waits[2].clone()).await,
        Answer::TimedOut,
        "per tenant"
    );
    let counts = WaitCounts { now: 2, refused: 2 };
    assert_eq!(store.waits(), counts);
    // They hold up nobody else.
    completed(store.as_ref(), "a", 1, b"x").await;
    assert!(matches!(first.await.unwrap(), Answer::Stored(_)));
    // Closing ends what is left.
    store.close().await;
    assert_eq!(second.await.unwrap(), Answer::TimedOut);
    assert_eq!(store.waiting(), 0);
    assert_eq!(store.wait(waits[2].clone()).await, Answer::TimedOut);
}

#[tokio::test]
async fn closing_finishes_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(EmbeddedOptions::new(dir.path())).unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { one(store.as_ref(), acquire(&format!("k{n}"), 1)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let mut granted = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        match task.await.unwrap() {
            Answer::Granted(_) => granted.push(n),
            Answer::Fault(_) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(store);
    let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
    assert_eq!(
        store.ready().await.unwrap().records,
        Some(granted.len() as u64)
    );
    for n in granted {
        in_flight(one(&store, acquire(&format!("k{n}"), 2)).await);
    }
}

fn size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files(dir)
        .iter()
        .filter_map(|f| f.metadata().ok())
        .map(|m| m.blocks() * 512)
        .sum()
}

/// Two and a half times the bound goes through; what is live at one time is a hundredth of that.
#[tokio::test]
async fn the_directory_does_not_grow_without_end() {
    const BOUND: u64 = 128 << 20;
    const BODY: usize = 32 << 10;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let manual = Arc::clone(&clock) as Arc<dyn Clock>;
    let options = EmbeddedOptions {
        durability: Durability::Relaxed {
            interval: Duration::from_millis(100),
        },
        write_buffer_bytes: 4 << 20,
        journal_bytes: 64 << 20,
        ..EmbeddedOptions::new(dir.path())
    };
    let store = Embedded::open_with_clock(options, |_| manual).unwrap();
    // Incompressible, and different each time: a window that moves over random bytes.
    let mut seed = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    })
    .take(256 << 10)
    .collect();
    let mut written = 0;
    let mut peak = 0;
    for round in 0..160 {
        let keys: Vec<String> = (0..64).map(|n| format!("{round}-{n}")).collect();
        store
            .apply(keys.iter().map(|k| acquire(k, 1)).collect())
            .await;
        let mut ends = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            let body = &noise[(round + n) * 500..][..BODY];
            written += body.len() as u64;
            ends.push(complete(key, 1, body));
        }
        let answers = store.apply(ends).await;
        assert!(
            answers.iter().all(|a| a.name() == "completed"),
            "{answers:?}"
        );
        clock.advance(Duration::from_millis(TTL_MS + 1));
        while store.sweep(1_000).await.unwrap().more {}
        peak = peak.max(size(dir.path()));
    }
    assert_eq!(written, 5 * BOUND / 2);
    println!("{peak} bytes for {written} written");
    assert!(peak < BOUND, "{peak} bytes for {written} written");
    assert_eq!(store.ready().await.unwrap().records, Some(0));
}

/// Bytes that this thread has handed to the system for writing.
fn written_by_this_thread() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// After a failed fsync the system may take pages that are on no disk for clean, and the next
/// process' fsync writes nothing. So a start writes them again, unless the end was in order.
#[tokio::test]
async fn what_an_unclean_end_left_is_written_again_before_it_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let store = Embedded::open(EmbeddedOptions::new(&first)).unwrap();
    // The journal is compressed.
    let mut state: u32 = 1;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let body: Vec<u8> = (0..1 << 20).map(|_| random()).collect();
    for n in 0..4 {
        let name = format!("k{n}");
        granted(&store, &name, 1).await;
        completed(&store, &name, 1, &body).await;
    }
    // What a killed process leaves.
    copy(&first, &second);

    let open_and_count = || {
        let before = written_by_this_thread();
        let store = Embedded::open(EmbeddedOptions::new(&second)).unwrap();
        (store, written_by_this_thread() - before)
    };
    let (again, written) = open_and_count();
    assert!(written > 4 << 20, "{written}");
    let notes = again.notes().join("; ");
    assert!(notes.contains("synced again"), "{notes}");
    for n in 0..4 {
        let answer = one(&again, acquire(&format!("k{n}"), 2)).await;
        assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    }
    again.close().await;
    drop(again);

    let (again, written) = open_and_count();
    assert!(written < 1 << 20, "{written}");
    assert!(!again.notes().join("; ").contains("synced"));
    // It is open: a crash from now on is unclean once more.
    let third = dir.path().join("third");
    copy(&second, &third);
    let third = Embedded::open(EmbeddedOptions::new(third)).unwrap();
    assert!(third.notes().join("; ").contains("synced again"));
}
