//! The example, killed (`kill -9`) at each of its steps: one order, one invoice.

use idempotency_kafka_rig::Broker;
use idempotency_stack::{until, Postgres};
use orders::demo::Shop;
use orders::steps::{BILLING, SERVICE};
use std::future::Future;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

async fn shop(test: &str) -> Option<Shop> {
    let broker = Broker::for_test(test)?;
    Some(Shop::open(Postgres::shared().unwrap(), broker).await)
}

fn one_of_each(shop: &Shop, step: &str) {
    shop.await_count("invoices", 1);
    shop.await_quiet();
    assert_eq!(shop.count("orders"), 1, "killed at {step}: orders");
    assert_eq!(shop.count("invoices"), 1, "killed at {step}: invoices");
}

/// All at the same time: most of it is waiting for leases and sessions to end.
async fn each<F: Future<Output = ()> + Send + 'static>(runs: impl Iterator<Item = F>) {
    let runs: Vec<_> = runs.map(tokio::spawn).collect();
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn one_order_wherever_the_service_is_killed() {
    each(SERVICE.into_iter().map(|step| async move {
        let Some(shop) = shop("the service, killed").await else {
            return;
        };
        let _billing = shop.start("orders-billing", None);
        let mut service = shop.start_service(Some(step));
        let first = shop.place("key-1", "chair");
        let died = until(PATIENCE, || service.exit_status().is_some());
        assert!(died, "it has not come to {step}");
        let mut again = shop.start_service(None);
        let answer = shop.place_until_answered("key-1", "chair");
        assert_eq!(answer.status, 201, "killed at {step}");
        // After the commit it is a replay; before it, it is executed.
        let replayed = ["committed", "read-outbox", "sent"].contains(&step);
        let told = answer.header("idempotency-replayed");
        assert_eq!(told == Some("true"), replayed, "killed at {step}");
        if let Some(first) = first {
            assert_eq!(first.body, answer.body, "killed at {step}");
        }
        one_of_each(&shop, step);
        let other = shop.place("key-1", "table").unwrap();
        assert_eq!(other.status, 422, "another order with this key");
        assert!(again.stop(PATIENCE).is_some());
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn one_invoice_wherever_the_consumer_is_killed() {
    each(BILLING.into_iter().map(|step| async move {
        let Some(shop) = shop("the consumer, killed").await else {
            return;
        };
        let _service = shop.start_service(None);
        let mut billing = shop.start("orders-billing", Some(step));
        assert_eq!(shop.place_until_answered("key-1", "chair").status, 201);
        let died = until(PATIENCE, || billing.exit_status().is_some());
        assert!(died, "it has not come to {step}");
        let _again = shop.start("orders-billing", None);
        one_of_each(&shop, step);
    }))
    .await;
}
