//! Messages: what each delivery is told, and how often a handler runs.

mod common;

use common::{eventually, record, state, stores, Spy};
use idempotency::message::{
    Builder, Chosen, Deduplicator, Failure, Letter, MessageDeduplicator, MessageId, OnUnknown,
    Reason, Verdict, Why, REDRIVE_HEADER,
};
use idempotency::store::{Memory, RecordState, Store};
use idempotency::{Error, Fingerprint, Guard, SettleError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

const TINY: Duration = Duration::from_millis(1);

fn builder(store: Arc<dyn Store>, on_unknown: OnUnknown) -> Builder<Chosen> {
    let guard = Guard::new(store).lease(Duration::from_secs(10));
    Deduplicator::builder(guard, "billing")
        .id(MessageId::header("event-id").or_offset())
        .backoff(TINY, TINY)
        .on_unknown(on_unknown)
}

fn dedup(store: Arc<dyn Store>) -> Deduplicator {
    builder(store, OnUnknown::DeadLetter).build().unwrap()
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::default())
}

fn event() -> Letter {
    Letter::new("orders", "order 7")
        .header("event-id", "e-1")
        .at(0, 4)
}

/// Counts how often it runs, and ends as it is told.
#[derive(Default)]
struct Handler(AtomicU32);

impl Handler {
    async fn run(&self, dedup: &Deduplicator, message: &Letter) -> Verdict {
        self.run_to(dedup, message, || Ok(())).await
    }

    async fn run_to(
        &self,
        dedup: &Deduplicator,
        message: &Letter,
        end: impl FnOnce() -> Result<(), Failure>,
    ) -> Verdict {
        let handler = |_attempt| async {
            self.0.fetch_add(1, Ordering::SeqCst);
            end()
        };
        dedup.run(message, handler).await
    }

    fn runs(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

fn reason(verdict: &Verdict) -> Reason {
    match verdict {
        Verdict::DeadLetter(letter) => letter.reason(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_done_is_skipped_in_every_store() {
    for (name, store, _dir) in stores() {
        let (dedup, handler) = (dedup(store), Handler::default());
        let first = handler.run(&dedup, &event()).await;
        assert!(matches!(first, Verdict::Done), "{name}: {first:?}");
        for _ in 0..3 {
            let again = handler.run(&dedup, &event()).await;
            assert!(matches!(again, Verdict::Duplicate(_)), "{name}: {again:?}");
        }
        assert_eq!(handler.runs(), 1, "{name}");
    }
}

#[tokio::test]
async fn case_20_one_event_at_two_offsets_runs_once_per_group_and_again_in_another() {
    let store = memory();
    let handler = Handler::default();
    for (group, runs) in [("billing", 1), ("mailing", 2)] {
        let guard = Guard::new(store.clone());
        let dedup = Deduplicator::builder(guard, group)
            .id(MessageId::header("event-id"))
            .on_unknown(OnUnknown::DeadLetter)
            .build()
            .unwrap();
        for offset in [4, 9] {
            let verdict = handler.run(&dedup, &event().at(0, offset)).await;
            assert!(matches!(verdict, Verdict::Done | Verdict::Duplicate(_)));
        }
        assert_eq!(handler.runs(), runs, "{group}");
    }
    // The same id in another topic is another message, too.
    let dedup = dedup(store);
    let other = Letter::new("refunds", "order 7").header("event-id", "e-1");
    assert!(matches!(handler.run(&dedup, &other).await, Verdict::Done));
}

#[tokio::test]
async fn the_same_id_with_another_content_is_put_aside() {
    let (dedup, handler) = (dedup(memory()), Handler::default());
    assert!(matches!(handler.run(&dedup, &event()).await, Verdict::Done));
    let others = [
        Letter::new("orders", "order 8"),
        Letter::new("orders", ""),
        Letter::empty("orders"),
    ];
    for other in others {
        let verdict = handler.run(&dedup, &other.header("event-id", "e-1")).await;
        let expected = [Reason::OtherContent, Reason::NotComparable];
        assert!(expected.contains(&reason(&verdict)), "{verdict:?}");
    }
    assert_eq!(handler.runs(), 1);
}

#[tokio::test]
async fn a_fingerprint_of_ones_own_says_what_counts() {
    let of = |m: &dyn idempotency::message::Message| {
        let value: serde_json::Value = serde_json::from_slice(m.payload().unwrap_or_default())?;
        Fingerprint::json(&value["order"])
    };
    let dedup = builder(memory(), OnUnknown::DeadLetter).fingerprint(of);
    let (dedup, handler) = (dedup.build().unwrap(), Handler::default());
    let sent = |payload: &str| Letter::new("orders", payload).header("event-id", "e-1");
    let first = handler
        .run(&dedup, &sent(r#"{"order":7,"sent_at":1}"#))
        .await;
    assert!(matches!(first, Verdict::Done));
    let again = handler
        .run(&dedup, &sent(r#"{"order":7,"sent_at":2}"#))
        .await;
    assert!(matches!(again, Verdict::Duplicate(_)));
    let other = handler
        .run(&dedup, &sent(r#"{"order":8,"sent_at":1}"#))
        .await;
    assert_eq!(reason(&other), Reason::OtherContent);
    let unreadable = handler.run(&dedup, &sent("{")).await;
    assert_eq!(reason(&unreadable), Reason::Rejected);
}

#[tokio::test]
async fn what_another_consumer_executes_is_tried_later_and_is_no_attempt() {
    let (dedup, handler) = (dedup(memory()), Handler::default());
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel::<()>();
    let other = dedup.clone();
    let running = tokio::spawn(async move {
        let end = |attempt: idempotency::message::Attempt| async move {
            begin.send(()).unwrap();
            gone.await.unwrap();
            assert_eq!(attempt.number(), 1);
            Err(Failure::again("not yet"))
        };
        other.run(&event(), end).await
    });
    begun.await.unwrap();
    for _ in 0..10 {
        let verdict = handler.run(&dedup, &event()).await;
        let Verdict::Retry(retry) = verdict else {
            panic!("{verdict:?}")
        };
        assert!(matches!(retry.why, Why::InFlight), "{retry:?}");
        assert!(retry.after > Duration::ZERO && retry.after <= Duration::from_secs(1));
    }
    go.send(()).unwrap();
    let failed = running.await.unwrap();
    assert!(matches!(failed, Verdict::Retry(_)), "{failed:?}");
    // The ten looks were no attempts: this one is the second.
    let number = AtomicU32::new(0);
    let verdict = dedup
        .run(&event(), |attempt| {
            number.store(attempt.number(), Ordering::SeqCst);
            async { Ok(()) }
        })
        .await;
    assert!(matches!(verdict, Verdict::Done));
    assert_eq!(number.load(Ordering::SeqCst), 2);
    assert_eq!(handler.runs(), 0);
}

#[tokio::test]
async fn a_message_that_fails_is_put_aside_after_its_attempts_and_skipped_afterwards() {
    for (name, store, _dir) in stores() {
        let handler = Handler::default();
        let fail = || Err(Failure::again("no stock"));
        for number in 1..=5_u32 {
            // A deduplicator of its own each time: the attempts are in the record.
            let dedup = dedup(Arc::clone(&store));
            let verdict = handler.run_to(&dedup, &event(), fail).await;
            match verdict {
                Verdict::Retry(retry) if number < 5 => {
                    let Why::Failed { number: n, error } = retry.why else {
                        panic!("{name}: {retry:?}")
                    };
                    assert_eq!((n, error.as_str()), (number, "no stock"), "{name}");
                }
                Verdict::DeadLetter(letter) if number == 5 => {
                    assert_eq!(letter.reason(), Reason::Poison { attempts: 5 }, "{name}");
                    assert_eq!(letter.error(), Some("no stock"), "{name}");
                    // Not kept anywhere: the consumer dies here.
                    drop(letter);
                }
                other => panic!("{name}, attempt {number}: {other:?}"),
            }
        }
        assert_eq!(handler.runs(), 5, "{name}");
        let dedup = dedup(Arc::clone(&store));
        let again = eventually_dead(&handler, &dedup).await;
        assert_eq!(again, Reason::Poison { attempts: 5 }, "{name}");
        let again = handler.run(&dedup, &event()).await;
        assert!(matches!(again, Verdict::Duplicate(_)), "{name}: {again:?}");
        assert_eq!(handler.runs(), 5, "{name}: put aside without a run");
    }
}

/// Puts it aside, as soon as the record says that nobody else does.
async fn eventually_dead(handler: &Handler, dedup: &Deduplicator) -> Reason {
    let mut found = None;
    eventually("it is put aside", async || {
        match handler.run(dedup, &event()).await {
            Verdict::DeadLetter(letter) => {
                found = Some(letter.reason());
                letter.sent().await.unwrap();
            }
            Verdict::Retry(retry) => assert!(matches!(retry.why, Why::InFlight), "{retry:?}"),
            other => panic!("{other:?}"),
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn what_is_driven_again_runs_again() {
    let (dedup, handler) = (dedup(memory()), Handler::default());
    let verdict = handler
        .run_to(&dedup, &event(), || {
            Err(Failure::reject("no such customer"))
        })
        .await;
    let Verdict::DeadLetter(letter) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(letter.reason(), Reason::Rejected);
    letter.sent().await.unwrap();
    let again = handler.run(&dedup, &event()).await;
    assert!(matches!(again, Verdict::Duplicate(_)), "{again:?}");
    let driven = event().header(REDRIVE_HEADER, "1");
    assert!(matches!(handler.run(&dedup, &driven).await, Verdict::Done));
    let twice = handler.run(&dedup, &driven).await;
    assert!(matches!(twice, Verdict::Duplicate(_)), "{twice:?}");
}

#[tokio::test]
async fn a_message_without_an_id_is_put_aside() {
    let (dedup, handler) = (dedup(memory()), Handler::default());
    let verdict = handler.run(&dedup, &Letter::new("orders", "x")).await;
    assert_eq!(reason(&verdict), Reason::NoId);
    assert_eq!(handler.runs(), 0);
}

#[tokio::test]
async fn unknown_is_what_was_chosen() {
    type End = fn() -> Result<(), Failure>;
    let ends: [(&str, End); 2] = [
        ("said", || Err(Failure::unknown("no answer"))),
        ("panicked", || panic!("on purpose")),
    ];
    for (name, end) in ends {
        for (choice, runs) in [(OnUnknown::DeadLetter, 1), (OnUnknown::RunAgain, 2)] {
            let dedup = builder(memory(), choice).build().unwrap();
            let handler = Handler::default();
            let first = handler.run_to(&dedup, &event(), end).await;
            let Verdict::Retry(retry) = first else {
                panic!("{name}: {first:?}")
            };
            assert!(matches!(retry.why, Why::Unknown { .. }), "{name}");
            let second = handler.run(&dedup, &event()).await;
            match choice {
                OnUnknown::DeadLetter => assert_eq!(reason(&second), Reason::Unknown, "{name}"),
                OnUnknown::RunAgain => assert!(matches!(second, Verdict::Done), "{name}"),
            }
            assert_eq!(handler.runs(), runs, "{name}, {choice:?}");
        }
    }
}

#[tokio::test]
async fn attempts_that_end_with_their_consumer_count() {
    let store = memory();
    let run = |end: fn() -> Result<(), Failure>| {
        let guard = Guard::new(store.clone());
        let dedup = Deduplicator::builder(guard, "billing")
            .max_attempts(2)
            .on_unknown(OnUnknown::RunAgain)
            .build()
            .unwrap();
        async move { Handler::default().run_to(&dedup, &event(), end).await }
    };
    for _ in 0..2 {
        let verdict = run(|| Err(Failure::unknown("gone"))).await;
        assert!(matches!(verdict, Verdict::Retry(_)), "{verdict:?}");
    }
    let verdict = run(|| Ok(())).await;
    assert_eq!(reason(&verdict), Reason::Poison { attempts: 2 });
}

#[tokio::test]
async fn a_run_that_is_cut_off_is_unknown() {
    let store = memory();
    let dedup = dedup(store.clone());
    let message = event();
    let run = dedup.run(&message, |_| std::future::pending());
    assert!(tokio::time::timeout(Duration::from_millis(20), run)
        .await
        .is_err());
    eventually("it is recorded", async || {
        state(store.as_ref()).await == Some(RecordState::Unknown)
    })
    .await;
}

#[tokio::test]
async fn no_verdict_before_the_record_and_no_second_run_while_the_store_is_down() {
    let store = Spy::memory();
    let dedup = dedup(store.clone());
    let handler = Handler::default();
    let message = event();
    let mut run = std::pin::pin!(handler.run_to(&dedup, &message, || {
        store.set_down(true);
        Ok(())
    }));
    let early = tokio::time::timeout(Duration::from_millis(500), run.as_mut()).await;
    assert!(early.is_err(), "it waits for the record: {early:?}");
    store.set_down(false);
    let verdict = run.await;
    assert!(matches!(verdict, Verdict::Done), "{verdict:?}");
    assert_eq!(
        record(store.as_ref()).await.unwrap().state,
        RecordState::Completed
    );
    assert_eq!(handler.runs(), 1);
}

#[tokio::test]
async fn without_a_store_nothing_runs() {
    let store = Spy::memory();
    store.set_down(true);
    let (dedup, handler) = (dedup(store.clone()), Handler::default());
    let verdict = handler.run(&dedup, &event()).await;
    let Verdict::Retry(retry) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(matches!(retry.why, Why::Store(Error::StoreDown(_))));
    assert_eq!(handler.runs(), 0);
}

#[tokio::test]
async fn who_was_overtaken_is_told_so_and_acknowledges_nothing() {
    let store = Spy::memory();
    store.deaf.store(true, Ordering::SeqCst);
    let guard = Guard::new(store.clone()).lease(Duration::from_millis(200));
    let dedup = Deduplicator::builder(guard, "billing")
        .on_unknown(OnUnknown::RunAgain)
        .build()
        .unwrap();
    let other = dedup.clone();
    let handler = Handler::default();
    let slow = dedup
        .run(&event(), |_| async {
            eventually("another one takes it and is done", async || {
                matches!(handler.run(&other, &event()).await, Verdict::Done)
            })
            .await;
            Ok(())
        })
        .await;
    let Verdict::Retry(retry) = slow else {
        panic!("{slow:?}")
    };
    assert!(matches!(
        retry.why,
        Why::NotRecorded(SettleError::Lost | SettleError::Refused)
    ));
    let next = handler.run(&dedup, &event()).await;
    assert!(matches!(next, Verdict::Duplicate(_)), "{next:?}");
    assert_eq!(handler.runs(), 1);
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let with = |group: &str| {
        Deduplicator::builder(Guard::new(memory()), group).on_unknown(OnUnknown::RunAgain)
    };
    assert!(with("").build().is_err());
    assert!(with("g").max_attempts(0).build().is_err());
    let guard = Guard::new(memory()).lease(Duration::ZERO);
    let zero = Deduplicator::builder(guard, "g").on_unknown(OnUnknown::RunAgain);
    assert!(zero.build().is_err());
    assert_eq!(with("g").build().unwrap().group(), "g");
}

#[tokio::test]
async fn processed_messages_are_remembered() {
    for (name, store, _dir) in stores() {
        let processed = MessageDeduplicator::new(Guard::new(store).namespace("mails"));
        assert!(!processed.is_duplicate("e-1").await.unwrap(), "{name}");
        assert!(processed.mark_processed("e-1").await.unwrap(), "{name}");
        assert!(processed.is_duplicate("e-1").await.unwrap(), "{name}");
        assert!(!processed.mark_processed("e-1").await.unwrap(), "{name}");
        assert!(!processed.is_duplicate("e-2").await.unwrap(), "{name}");
    }
    let store = Spy::memory();
    let processed = MessageDeduplicator::new(Guard::new(store.clone()));
    store.set_down(true);
    assert!(processed.mark_processed("e-1").await.is_err());
}

/// What its documentation says of its race.
#[tokio::test]
async fn two_who_ask_before_either_has_marked_both_work() {
    let processed = MessageDeduplicator::new(Guard::new(memory()));
    let one = processed.is_duplicate("e-1").await.unwrap();
    let other = processed.is_duplicate("e-1").await.unwrap();
    assert!(!one && !other);
    assert!(processed.mark_processed("e-1").await.unwrap());
    assert!(!processed.mark_processed("e-1").await.unwrap());
}
