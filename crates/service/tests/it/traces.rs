//! Traces where there is no collector. With one: `tests/gateway/traces.rs`, behind a real gateway.

use crate::support::child::Dir;
use crate::support::*;
use idempotency_protocol::Answer;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_spans_and_no_request() {
    // Nobody listens there (`tcpmux`).
    let nowhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let dir = Dir::new();
    let data = dir.path().join("data");
    let args = [
        "--data-dir",
        data.to_str().unwrap(),
        "--gateway-token",
        GATEWAY,
    ];
    let child = Child::start_in(dir, &args, &[nowhere]);
    let failed = || child.metric("idempotencyd_trace_spans_total{result=\"failed\"}");
    let gateway = child.gateway();
    assert!(matches!(
        gateway.one(acquire("k-1", owner())).await,
        Answer::Granted(_)
    ));
    assert_eq!(failed().await, 0);
    // The operation and the store.
    let traced = gateway.header("traceparent", PARENT);
    for key in ["k-2", "k-3"] {
        assert!(matches!(
            traced.one(acquire(key, owner())).await,
            Answer::Granted(_)
        ));
    }
    eventually("they are lost", || async { failed().await == 4 }).await;
    let exported = "idempotencyd_trace_spans_total{result=\"exported\"}";
    assert_eq!(child.metric(exported).await, 0);
    let log = child.log();
    let line = log.lines().find(|line| line.contains("spans not exported"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("http://127.0.0.1:1/v1/traces") && line.contains("refused"),
        "{line}"
    );
    let (status, _) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_there_are_no_traces_and_no_counts_of_them() {
    let child = Child::embedded(Dir::new(), &[]);
    let gateway = child.gateway().header("traceparent", PARENT);
    assert!(matches!(
        gateway.one(acquire("k-1", owner())).await,
        Answer::Granted(_)
    ));
    let metrics = Client::tcp(child.address).get("/metrics").await.text();
    assert!(!metrics.contains("trace_spans"), "{metrics}");
    assert!(!child.log().contains("traces are exported"));
}
