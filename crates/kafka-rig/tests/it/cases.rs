//! The cases with consumers in this process.

use crate::support::{await_count, count, eventually, stop, Rig, Runs};
use idempotency::kafka::rdkafka::message::{Headers, Message};

async fn case_18(name: &str, strategy: &str) {
    let Some(rig) = Rig::start(name, 2).await else {
        return;
    };
    rig.broker.send("orders", 0, &[("e-0", "zero")]).await;
    rig.broker.send("orders", 1, &[("e-1", "one")]).await;
    let runs = Runs::default();
    runs.hold("zero");
    runs.hold("one");
    let start = async || {
        let mut config = rig.config();
        config.set("partition.assignment.strategy", strategy);
        rig.guard("billing")
            .await
            .config(config)
            .start(runs.handler())
            .unwrap()
    };
    let old = start().await;
    eventually("both handlers of the first consumer run", async || {
        runs.all().len() == 2
    })
    .await;
    let new = start().await;
    // One of the two partitions moves, and its message is delivered to its new owner.
    await_count(&new, "retries_in_flight", 2).await;
    assert_eq!(runs.all().len(), 2, "it waits while the lease lives");
    let moved = new.lag().keys().next().map(|(_, partition)| *partition);
    let moved = moved.expect("a partition of its own");
    let (payload, other) = match moved {
        0 => ("zero", "one"),
        _ => ("one", "zero"),
    };
    assert_eq!(rig.broker.committed("billing", "orders", moved), None);
    runs.let_go(payload);
    // The handler ends in the old consumer, and its partition is somebody else's.
    await_count(&old, "ends_of_old_generations", 1).await;
    // The new one finds the record, and it is the one that commits.
    await_count(&new, "messages_duplicate", 1).await;
    rig.broker.await_committed("billing", "orders", moved, 1);
    assert!(count(&new, "commits") >= 1);
    assert_eq!(
        count(&old, "commits"),
        0,
        "an old generation commits nothing"
    );
    runs.let_go(other);
    rig.broker
        .await_committed("billing", "orders", 1 - moved, 1);
    assert_eq!(runs.of("zero"), 1);
    assert_eq!(runs.of("one"), 1);
    assert_eq!(count(&new, "messages_done"), 0);
    stop(old).await;
    stop(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_18_rebalance_mid_handler() {
    case_18("case 18", "range,roundrobin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_18_rebalance_mid_handler_cooperative() {
    case_18("case 18, cooperative", "cooperative-sticky").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_one_event_at_two_offsets_runs_once_per_group() {
    let Some(rig) = Rig::start("case 20", 1).await else {
        return;
    };
    let twice = [("e-1", "order"), ("e-1", "order")];
    rig.broker.send("orders", 0, &twice).await;
    for (group, expected) in [("billing", 1), ("mailing", 2)] {
        let runs = Runs::default();
        let running = rig.guard(group).await.start(runs.handler()).unwrap();
        rig.broker.await_committed(group, "orders", 0, 2);
        assert_eq!(runs.of("order"), 1, "{group}, group {expected}");
        assert_eq!(count(&running, "messages_done"), 1);
        assert_eq!(count(&running, "messages_duplicate"), 1);
        stop(running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_aside_says_why_and_the_partition_goes_on() {
    let Some(rig) = Rig::start("dead letters", 1).await else {
        return;
    };
    let messages = [
        ("e-0", "order 1"),
        ("e-0", "order 2"),
        ("e-2", "reject 3"),
        ("e-3", "panic 4"),
        ("e-4", "fail 5"),
        ("e-5", "order 6"),
    ];
    rig.broker.send("orders", 0, &messages).await;
    let runs = Runs::default();
    let running = rig.guard("billing").await.start(runs.handler()).unwrap();
    rig.broker.await_committed("billing", "orders", 0, 6);
    let dead = rig.broker.read("orders.dead", 0, 4);
    let told: Vec<_> = dead
        .iter()
        .map(|message| {
            let headers = message.headers().unwrap();
            let find = |name: &str| {
                let found = headers.iter().find(|header| header.key == name);
                let value = found.and_then(|header| header.value);
                value.map(|value| String::from_utf8_lossy(value).into_owned())
            };
            assert_eq!(find("idempotency-dead-letter-topic").unwrap(), "orders");
            (
                find("event-id").unwrap(),
                find("idempotency-dead-letter-offset").unwrap(),
                find("idempotency-dead-letter-reason").unwrap(),
                find("idempotency-dead-letter-error"),
                String::from_utf8_lossy(message.payload().unwrap()).into_owned(),
            )
        })
        .collect();
    let expected = [
        ("e-0", "1", "other-content", None, "order 2"),
        ("e-2", "2", "rejected", Some("told to"), "reject 3"),
        ("e-3", "3", "outcome-unknown", None, "panic 4"),
        ("e-4", "4", "poison", Some("told to"), "fail 5"),
    ];
    let expected = expected.map(|(id, offset, reason, error, payload)| {
        let error = error.map(str::to_owned);
        (
            id.into(),
            offset.into(),
            reason.into(),
            error,
            payload.into(),
        )
    });
    assert_eq!(told, expected);
    assert_eq!(runs.of("fail 5"), 5);
    assert_eq!(runs.of("panic 4"), 1);
    assert_eq!(runs.of("order 2"), 0);
    assert_eq!(runs.of("order 6"), 1);
    assert_eq!(count(&running, "dead_letters"), 4);
    stop(running).await;
}
