//! The records are counted by state, in the background.

use crate::support::*;
use idempotency_protocol::{About, Operation};

#[tokio::test]
async fn metrics_tell_records_by_state_and_acquires_by_rule() {
    let mut settings = settings();
    settings.census_interval = Some("20ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    for n in 0..3 {
        let me = owner();
        let name = format!("k-{n}");
        let mut first = acquire(&name, me);
        if let Operation::Acquire(acquire) = &mut first {
            acquire.about = Some(std::sync::Arc::new(About {
                rule: "payments".into(),
                ..About::default()
            }));
        }
        granted(gateway.one(first).await);
        match n {
            0 => gateway.one(complete(&name, me, "x")).await,
            1 => gateway.one(abandon(&name, me)).await,
            _ => continue,
        };
    }
    for (state, count) in [
        ("completed", 1),
        ("unknown", 1),
        ("executing", 1),
        ("failed", 0),
    ] {
        let name = format!("idempotencyd_records{{state=\"{state}\"}}");
        eventually(&name, || async { server.metric(&name).await == count }).await;
    }
    assert_eq!(server.metric("idempotencyd_census_complete").await, 1);
    assert!(server.metric("idempotencyd_census_timestamp_seconds").await > 1_700_000_000);
    let granted = "idempotencyd_rule_acquires_total{answer=\"granted\",rule=\"payments\"}";
    assert_eq!(server.metric(granted).await, 3);
    let acquires = "idempotencyd_store_duration_seconds_count{operation=\"acquire\"}";
    assert_eq!(server.metric(acquires).await, 3);
    // The oldest one ages with each count.
    let age = "idempotencyd_oldest_record_age_seconds{state=\"unknown\"}";
    eventually(age, || async { server.metric(age).await >= 1 }).await;
}

#[tokio::test]
async fn nothing_is_counted_where_nobody_wants_it() {
    let mut settings = settings();
    settings.census_interval = Some("0ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let text = server.client().get("/metrics").await.text();
    assert!(!text.contains("idempotencyd_records{"), "{text}");
    assert!(!text.contains("operation=\"search\""), "{text}");
}
