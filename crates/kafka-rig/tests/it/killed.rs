//! The cases in which consumers are killed: real processes, `kill -9`.

use crate::support::{eventually, Options, Rig};
use idempotency::kafka::rdkafka::message::{Headers, OwnedMessage};
use idempotency::kafka::rdkafka::Message;
use idempotency::store::{ListFilter, RecordState};

/// How many records are in this state.
async fn records(rig: &Rig, state: RecordState) -> usize {
    let filter = ListFilter {
        state: Some(state),
        limit: 100,
        ..ListFilter::default()
    };
    let page = rig.store().await.list(filter).await.unwrap();
    page.records.len()
}

fn reason(message: &OwnedMessage) -> String {
    let headers = message.headers().unwrap();
    let name = "idempotency-dead-letter-reason";
    let mut headers = headers.iter().filter(|header| header.key == name);
    let value = headers.next().unwrap().value.unwrap();
    String::from_utf8_lossy(value).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_dies_between_record_and_offset_commit() {
    let Some(rig) = Rig::start("case 17", 1).await else {
        return;
    };
    let messages = [("e-0", "ok a"), ("e-1", "ok b"), ("e-2", "ok c")];
    rig.broker.send("orders", 0, &messages).await;
    let mut first = rig.consumer(&Options {
        commit_interval_ms: 3_600_000,
        ..Options::default()
    });
    eventually("all are recorded", async || {
        records(&rig, RecordState::Completed).await == 3
    })
    .await;
    first.process.kill();
    assert_eq!(rig.broker.committed("billing", "orders", 0), None);
    let second = rig.consumer(&Options::default());
    rig.broker.await_committed("billing", "orders", 0, 3);
    for name in ["a", "b", "c"] {
        assert_eq!(second.runs(name), [1], "{name}");
    }
    let counts = second.stop();
    assert_eq!(
        (counts["messages_duplicate"], counts["messages_done"]),
        (3, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn case_19_poison_is_known_over_restarts() {
    let Some(rig) = Rig::start("case 19", 1).await else {
        return;
    };
    let messages = [
        ("e-0", "ok 0"),
        ("e-1", "ok 1"),
        ("e-2", "ok 2"),
        ("e-3", "ok 3"),
        ("e-4", "fail 4"),
        ("e-5", "ok 5"),
    ];
    rig.broker.send("orders", 0, &messages).await;
    // Killed while the message rests after its attempt, twice: the attempt is in the record.
    let slow = Options {
        backoff_ms: 3_600_000,
        ..Options::default()
    };
    for attempt in 1..=2 {
        let mut consumer = rig.consumer(&slow);
        consumer.await_line(&format!("ran 4 {attempt}")).await;
        eventually("the failure is recorded", async || {
            records(&rig, RecordState::Failed).await == 1
        })
        .await;
        consumer.process.kill();
    }
    let consumer = rig.consumer(&Options::default());
    rig.broker.await_committed("billing", "orders", 0, 6);
    assert_eq!(consumer.runs("4"), [1, 2, 3, 4, 5]);
    assert_eq!(consumer.runs("5"), [1]);
    let last = consumer.journal().pop().unwrap();
    assert_eq!(last, "ran 5 1", "it goes on after the dead letter");
    let dead = rig.broker.read("orders.dead", 0, 1);
    assert_eq!(reason(&dead[0]), "poison");
    assert_eq!(dead[0].payload().unwrap(), b"fail 4");
    assert_eq!(rig.broker.count("orders.dead", 0), 1);
    consumer.stop();
}

async fn case_21(name: &str, runs_again: bool) {
    let Some(rig) = Rig::start(name, 1).await else {
        return;
    };
    let messages = [("e-0", "hang a"), ("e-1", "ok b")];
    rig.broker.send("orders", 0, &messages).await;
    let options = Options {
        runs_again,
        ..Options::default()
    };
    let mut first = rig.consumer(&options);
    first.await_line("ran a 1").await;
    first.process.kill();
    let second = rig.consumer(&options);
    rig.broker.await_committed("billing", "orders", 0, 2);
    let dead = rig.broker.count("orders.dead", 0);
    if runs_again {
        assert_eq!(second.runs("a"), [1, 2]);
        assert_eq!(dead, 0);
    } else {
        assert_eq!(second.runs("a"), [1]);
        assert_eq!(dead, 1);
        let letter = rig.broker.read("orders.dead", 0, 1).remove(0);
        assert_eq!(reason(&letter), "outcome-unknown");
        assert_eq!(letter.payload().unwrap(), b"hang a");
    }
    assert_eq!(second.runs("b"), [1]);
    second.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_killed_in_a_handler_run_again() {
    case_21("case 21, run again", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_killed_in_a_handler_dead_letter() {
    case_21("case 21, dead letter", false).await;
}

/// A consumer that stands still for longer than its session: its partition is given to another one, and what it says
/// when it wakes is not heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_slept_through_a_rebalance_commits_nothing() {
    let Some(rig) = Rig::start("a consumer that slept", 1).await else {
        return;
    };
    rig.broker.send("orders", 0, &[("e-0", "hang a")]).await;
    let options = Options {
        runs_again: true,
        ..Options::default()
    };
    let mut asleep = rig.consumer(&options);
    asleep.await_line("ran a 1").await;
    asleep.process.pause();
    let awake = rig.consumer(&options);
    awake.await_line("ran a 2").await;
    rig.broker.await_committed("billing", "orders", 0, 1);
    rig.broker.send("orders", 0, &[("e-1", "ok b")]).await;
    rig.broker.await_committed("billing", "orders", 0, 2);
    asleep.process.resume();
    // Its handler hangs on; asked to end, it abandons it, which changes nothing about what is done.
    let counts = asleep.stop();
    assert_eq!(counts["commits"], 0);
    assert_eq!(rig.broker.committed("billing", "orders", 0), Some(2));
    assert_eq!(records(&rig, RecordState::Completed).await, 2);
    awake.stop();
}
