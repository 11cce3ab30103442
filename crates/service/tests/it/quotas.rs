//! Quotas of tenants, over the service and its settings.

use crate::support::*;
use idempotency_protocol::{Answer, FaultCode, Operation};

on_shared_stores!(two_services_count_the_same_and_what_was_there_before);

fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Fault(fault) if fault.code == FaultCode::Quota)
}

async fn two_services_count_the_same_and_what_was_there_before(shared: &Shared) {
    let before = shared.service();
    let gateway = before.gateway();
    let (first, second) = (owner(), owner());
    granted(gateway.one(acquire("a", first)).await);
    drop(before);
    let quota = [
        "--max-executions-per-tenant",
        "2",
        "--sweep-interval",
        "10ms",
    ];
    let services = [
        shared.service_in(&quota, &[]),
        shared.service_in(&[], &[("IDEMPOTENCYD_MAX_EXECUTIONS_PER_TENANT", "2")]),
    ];
    let [one, two] = services.each_ref().map(Child::gateway);
    granted(one.one(acquire("b", second)).await);
    // Redis is counted in the background.
    let tries = std::sync::atomic::AtomicU32::new(0);
    eventually("what was there counts", || async {
        let name = format!(
            "c{}",
            tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
        );
        let me = owner();
        let answer = two.one(acquire(&name, me)).await;
        let key = key(&name);
        two.one(Operation::Fail {
            key,
            owner: me,
            cause: Default::default(),
        })
        .await;
        is_refused(&answer)
    })
    .await;
    for client in [&one, &two] {
        assert!(is_refused(&client.one(acquire("d", owner())).await));
    }
    let completed = two.one(complete("a", first, "done")).await;
    assert!(
        matches!(completed, Answer::Completed { .. }),
        "{completed:?}"
    );
    assert_eq!(replayed(&one.one(acquire("a", owner())).await), b"done");
    let metrics = two.get("/metrics").await.text();
    let refusals = metric(
        &metrics,
        "idempotencyd_quota_refusals_total{reason=\"executions\"}",
    );
    assert!(refusals >= 1, "{metrics}");
    let faults = "idempotencyd_operations_total{answer=\"fault\",operation=\"acquire\"}";
    assert_eq!(metric(&metrics, faults), 0);
}

#[tokio::test]
async fn the_embedded_store_has_them_from_its_first_moment_on() {
    let dir = child::Dir::new();
    let quota = [
        "--max-executions-per-tenant",
        "1",
        "--max-bytes-per-tenant",
        "1MiB",
    ];
    let service = Child::embedded(dir, &quota);
    let gateway = service.gateway();
    let me = owner();
    granted(gateway.one(acquire("a", me)).await);
    assert!(is_refused(&gateway.one(acquire("b", owner())).await));
    gateway.one(complete("a", me, "done")).await;
    granted(gateway.one(acquire("b", owner())).await);
}

#[test]
fn a_quota_of_nothing_is_a_mistake() {
    for change in [
        |s: &mut idempotency_service::Settings| s.max_executions_per_tenant = Some(0),
        |s: &mut idempotency_service::Settings| s.max_records_per_tenant = Some(0),
        |s: &mut idempotency_service::Settings| s.max_records_per_tenant = Some(u64::MAX),
    ] {
        let mut settings = settings();
        change(&mut settings);
        let errors = settings.check().unwrap_err();
        assert!(errors[0].field.ends_with("_per_tenant"), "{errors:?}");
    }
}
