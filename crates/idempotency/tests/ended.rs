//! How an execution that was not done ends, what the record says of it, and how long a daily window lasts.

mod common;

use common::record;
use idempotency::keys::Daily;
use idempotency::store::clock::ManualClock;
use idempotency::store::Memory;
use idempotency::{Entry, Execution, Fingerprint, Guard, Outcome};
use idempotency_protocol::AttemptKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

async fn acquire(guard: &Guard, payload: &str) -> Entry {
    let payload = Fingerprint::raw(payload);
    guard.acquire("k", payload).await.unwrap()
}

async fn execution(guard: &Guard, payload: &str) -> Execution {
    match acquire(guard, payload).await {
        Entry::Execute(execution) => execution,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_refused_may_be_corrected_and_what_failed_only_repeated() {
    let guard = Guard::new(Arc::new(Memory::default()));
    execution(&guard, "-1").await.refuse().await.unwrap();
    let corrected = execution(&guard, "1").await;
    assert_eq!(corrected.number(), 2);
    corrected.fail().await.unwrap();
    // Half of it may be done.
    assert!(matches!(acquire(&guard, "2").await, Entry::Mismatch));
    // And a refusal does not take that back.
    execution(&guard, "1").await.refuse().await.unwrap();
    assert!(matches!(acquire(&guard, "2").await, Entry::Mismatch));
    let done = execution(&guard, "1").await;
    done.complete(Outcome::empty(204).unwrap()).await.unwrap();
    assert!(matches!(acquire(&guard, "1").await, Entry::Replay(_)));
}

#[tokio::test]
async fn a_record_names_the_program_and_its_attempts() {
    let store = Arc::new(Memory::default());
    let guard = Guard::new(store.clone());
    execution(&guard, "").await.fail().await.unwrap();
    let program = record(store.as_ref()).await.unwrap().about.unwrap().gateway;
    assert!(program.starts_with("ended"), "the test's own: {program}");
    let named = guard.program("orders");
    drop(execution(&named, "").await);
    let seen = record(store.as_ref()).await.unwrap();
    assert_eq!(seen.about.unwrap().gateway, "orders");
    let kinds: Vec<_> = seen.attempts.iter().map(|a| (a.number, a.kind)).collect();
    assert_eq!(kinds, [(1, AttemptKind::Guard), (2, AttemptKind::Guard)]);
}

/// The hour of a store, and of a window, that the test sets.
struct Clock {
    of_store: Arc<ManualClock>,
    window: Daily,
    guard: Guard,
}

impl Clock {
    /// `utc`: seconds since the Unix epoch.
    fn at(zone: &str, utc: u64) -> Clock {
        let of_store = Arc::new(ManualClock::at(utc * 1_000_000));
        let store = Memory::new(of_store.clone());
        Clock {
            of_store,
            window: Daily::in_zone(zone).unwrap(),
            guard: Guard::new(Arc::new(store)),
        }
    }

    fn now(&self) -> SystemTime {
        use idempotency::store::clock::Clock as _;
        UNIX_EPOCH + Duration::from_micros(self.of_store.now())
    }

    async fn try_once(&self) -> Entry {
        // What `Guard::daily` takes the time for is the machine's clock, which no test can set.
        let guard = self.guard.clone().ttl(self.window.ttl_at(self.now()));
        acquire(&guard, "").await
    }

    async fn does_it(&self) {
        let Entry::Execute(execution) = self.try_once().await else {
            panic!("it is not done yet");
        };
        let done = Outcome::empty(204).unwrap();
        execution.complete(done).await.unwrap();
    }

    async fn is_replayed_after(&self, seconds: u64) -> bool {
        self.of_store.advance(Duration::from_secs(seconds));
        matches!(self.try_once().await, Entry::Replay(_))
    }
}

/// 2026-11-29T00:00:00Z; in Berlin it is one o'clock.
const SUNDAY: u64 = 1_795_910_400;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

#[tokio::test]
async fn a_try_at_23_59_59_and_its_retry_at_00_00_01_are_one() {
    for (zone, offset) in [("UTC", 0), ("Europe/Berlin", HOUR)] {
        let clock = Clock::at(zone, SUNDAY - offset + DAY - 1);
        let (before, date) = (clock.window.date_at(clock.now()), "2026-11-29");
        assert_eq!(before, date, "{zone}");
        clock.does_it().await;
        assert!(clock.is_replayed_after(2).await, "{zone}");
        assert_ne!(clock.window.date_at(clock.now()), date, "{zone}");
        // The overlap is an hour.
        assert!(clock.is_replayed_after(HOUR - 3).await, "{zone}");
        assert!(!clock.is_replayed_after(1).await, "{zone}");
    }
}

#[tokio::test]
async fn what_was_done_at_noon_may_be_done_again_tomorrow_and_not_before() {
    for (zone, offset) in [("UTC", 0), ("Europe/Berlin", HOUR)] {
        let clock = Clock::at(zone, SUNDAY - offset + DAY / 2);
        clock.does_it().await;
        assert!(clock.is_replayed_after(DAY / 2 - 1).await, "{zone}");
        assert!(!clock.is_replayed_after(1).await, "{zone}");
    }
}

#[tokio::test]
async fn a_day_on_which_the_clocks_change_is_as_long_as_it_is() {
    // Begins at 00:00 local time; its length in hours.
    for (begins, hours) in [
        // 2026-03-29, 2026-10-25, and a day without a change, in Berlin.
        (1_774_738_800, 23),
        (1_792_879_200, 25),
        (1_795_906_800, 24),
    ] {
        let clock = Clock::at("Europe/Berlin", begins);
        clock.does_it().await;
        let left = hours * HOUR;
        assert!(clock.is_replayed_after(left - 1).await, "{hours}");
        assert!(!clock.is_replayed_after(1).await, "{hours}");
    }
}
