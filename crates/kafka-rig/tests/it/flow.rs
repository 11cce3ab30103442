//! Order, concurrency, back-pressure, the end.

use crate::support::{await_count, count, eventually, stop, Rig, Runs};
use idempotency::kafka::KafkaGuard;
use idempotency::store::RecordState;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_runs_in_order_and_others_beside_it() {
    let Some(rig) = Rig::start("order", 2).await else {
        return;
    };
    let runs = Runs::default();
    runs.hold("0-1");
    for partition in 0..2 {
        let messages: Vec<(String, String)> = (0..5)
            .map(|n| (format!("e-{partition}-{n}"), format!("{partition}-{n}")))
            .collect();
        let messages: Vec<(&str, &str)> = messages
            .iter()
            .map(|(id, payload)| (id.as_str(), payload.as_str()))
            .collect();
        rig.broker.send("orders", partition, &messages).await;
    }
    let running = rig.guard("billing").await.start(runs.handler()).unwrap();
    // Partition 1 goes on while a handler of partition 0 hangs; nothing behind that one begins.
    rig.broker.await_committed("billing", "orders", 1, 5);
    rig.broker.await_committed("billing", "orders", 0, 1);
    let of = |partition: &str| -> Vec<String> {
        let mut all = runs.all();
        all.retain(|run| run.starts_with(partition));
        all
    };
    assert_eq!(of("0"), ["0-0", "0-1"]);
    let lag = running.lag();
    assert_eq!(lag[&("orders".to_owned(), 0)], 4, "{lag:?}");
    assert_eq!(lag[&("orders".to_owned(), 1)], 0, "{lag:?}");
    runs.let_go("0-1");
    rig.broker.await_committed("billing", "orders", 0, 5);
    for partition in ["0", "1"] {
        let expected: Vec<String> = (0..5).map(|n| format!("{partition}-{n}")).collect();
        assert_eq!(of(partition), expected);
    }
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_too_much_is_paused_and_resumed() {
    let Some(rig) = Rig::start("back-pressure", 1).await else {
        return;
    };
    let payloads: Vec<String> = (0..60).map(|n| format!("m-{n}")).collect();
    let messages: Vec<(&str, &str)> = payloads
        .iter()
        .map(|payload| (payload.as_str(), payload.as_str()))
        .collect();
    rig.broker.send("orders", 0, &messages).await;
    let runs = Runs::default();
    runs.hold("m-0");
    let guard = rig.guard("billing").await.high_water(10);
    let running = guard.start(runs.handler()).unwrap();
    await_count(&running, "pauses", 1).await;
    assert_eq!(count(&running, "pending"), 10);
    runs.let_go("m-0");
    rig.broker.await_committed("billing", "orders", 0, 60);
    assert_eq!(runs.all(), payloads, "each once, in order");
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_end_lets_the_handler_finish_and_commits_it() {
    let Some(rig) = Rig::start("a good end", 1).await else {
        return;
    };
    let messages = [("e-0", "a"), ("e-1", "b")];
    rig.broker.send("orders", 0, &messages).await;
    let runs = Runs::default();
    runs.hold("a");
    let guard = rig.guard("billing").await;
    // Nothing is committed before the end.
    let guard = guard.commit_interval(Duration::from_secs(3_600));
    let running = guard.start(runs.handler()).unwrap();
    eventually("the handler runs", async || runs.of("a") == 1).await;
    let stopping = tokio::spawn(running.stop(Duration::from_secs(20)));
    runs.let_go("a");
    stopping.await.unwrap().unwrap();
    assert_eq!(rig.broker.committed("billing", "orders", 0), Some(1));
    assert_eq!(runs.all(), ["a"], "nothing new is begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_cut_short_abandons_the_handler() {
    let Some(rig) = Rig::start("a cut", 1).await else {
        return;
    };
    rig.broker.send("orders", 0, &[("e-0", "a")]).await;
    let runs = Runs::default();
    runs.hold("a");
    let dedup = rig.dedup("billing").await;
    let guard = dedup.guard().clone();
    let running = KafkaGuard::new(dedup, rig.config())
        .topic("orders")
        .dead_letter_topic("orders.dead")
        .start(runs.handler())
        .unwrap();
    eventually("the handler runs", async || runs.of("a") == 1).await;
    running.stop(Duration::from_millis(50)).await.unwrap();
    assert!(guard.drain(Duration::from_secs(20)).await);
    let filter = idempotency::store::ListFilter {
        limit: 2,
        ..Default::default()
    };
    let page = rig.store().await.list(filter).await.unwrap();
    assert_eq!(page.records[0].state, RecordState::Unknown);
    assert_eq!(rig.broker.committed("billing", "orders", 0), None);
    assert_eq!(runs.ended(), [""; 0]);
}

#[tokio::test]
async fn settings_that_contradict_the_guard_are_refused() {
    let Some(rig) = Rig::start("settings", 1).await else {
        return;
    };
    let runs = Runs::default();
    for (name, value) in [
        ("enable.auto.commit", "true"),
        ("group.id", "other"),
        ("no.such.setting", "1"),
    ] {
        let mut config = rig.config();
        config.set(name, value);
        let guard = rig.guard("billing").await.config(config);
        assert!(guard.start(runs.handler()).is_err(), "{name}");
    }
    let dedup = rig.dedup("billing").await;
    let without = KafkaGuard::new(dedup.clone(), rig.config()).topic("orders");
    assert!(
        without.start(runs.handler()).is_err(),
        "no dead letter topic"
    );
    let without = KafkaGuard::new(dedup, rig.config()).dead_letter_topic("d");
    assert!(without.start(runs.handler()).is_err(), "no topic");
}
