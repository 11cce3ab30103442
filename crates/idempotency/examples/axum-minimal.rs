//! `cargo run -p idempotency --example axum-minimal`, then twice:
//! `curl -i -XPOST localhost:8080/orders -H 'Idempotency-Key: k1' -d chair`

use axum::{http::StatusCode, routing::post, Router};
use idempotency::http::{Attempt, IdempotencyLayer};
use idempotency::store::{Embedded, EmbeddedOptions};
use idempotency::Guard;
use std::{sync::Arc, time::Duration};

async fn create(attempt: Attempt, item: String) -> (StatusCode, String) {
    println!("ordering {item}: attempt {}", attempt.number());
    (StatusCode::CREATED, format!("ordered {item}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Embedded::open(EmbeddedOptions::new("orders.records"))?;
    let idem = Guard::new(Arc::new(store)).namespace("orders");
    // One tenant, for the example; a real service says `.tenant(…)`.
    let layer = IdempotencyLayer::new(idem.clone()).global();
    let layer = layer.wait(Duration::from_secs(2));
    layer.check()?;

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let cleanup = tokio::spawn(idem.cleanup_job(Duration::from_secs(60), stopped));
    let app = Router::new().route("/orders", post(create)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app)
        .with_graceful_shutdown(ctrl_c)
        .await?;

    // Handlers whose clients have left go on; they get half a minute.
    idem.drain(Duration::from_secs(30)).await;
    drop(stop);
    cleanup.await?;
    idem.store().close().await;
    Ok(())
}
