//! `make orders`: starts everything, places an order twice with one key, and shows one.
#![forbid(unsafe_code)]

use idempotency_kafka_rig::Broker;
use idempotency_stack::{Postgres, PostgresOptions};
use orders::demo::Shop;
use orders::BoxError;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    println!("PostgreSQL, a Kafka broker, the service and the billing consumer start …");
    let postgres = Arc::new(Postgres::start(PostgresOptions::default())?);
    let shop = Shop::open(postgres, Broker::start()?).await;
    let mut service = shop.start_service(None);
    let mut billing = shop.start("orders-billing", None);

    println!("\nAnn orders a chair. Her client does not get the answer, and sends the order again, with the same key:");
    for _ in 0..2 {
        let answer = shop.place_until_answered("key-1", "chair");
        println!("\n  POST /orders   Idempotency-Key: key-1   {{\"customer\":\"ann\",\"item\":\"chair\"}}");
        println!(
            "  {}   Idempotency-Replayed: {}   {}",
            answer.status,
            answer.header("idempotency-replayed").unwrap_or_default(),
            answer.text()
        );
    }
    shop.await_count("invoices", 1);
    shop.await_quiet();
    println!(
        "\nIn the database: {} order, {} invoice.",
        shop.count("orders"),
        shop.count("invoices")
    );

    if std::env::args().any(|argument| argument == "--stay") {
        let address = shop.address();
        println!("\nThe service stays at http://{address} until Ctrl-C. Try:\n");
        println!("  curl -i http://{address}/orders -H 'Idempotency-Key: key-2' -H 'Content-Type: application/json' \\");
        println!("      -d '{{\"customer\":\"ann\",\"item\":\"table\"}}'");
        tokio::signal::ctrl_c().await?;
    }
    let grace = std::time::Duration::from_secs(20);
    billing.stop(grace);
    service.stop(grace);
    Ok(())
}
