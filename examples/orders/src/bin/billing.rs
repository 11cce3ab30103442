//! The consumer: one invoice per order. The invoice and the message's record are one commit.
#![forbid(unsafe_code)]

use deadpool_postgres::Pool;
use idempotency::kafka::rdkafka::{ClientConfig, Message};
use idempotency::kafka::KafkaGuard;
use idempotency::message::{Attempt, Deduplicator, Failure, MessageId, OnUnknown};
use orders::steps::reached;
use orders::{database, BoxError, OrderPlaced, Settings, DEAD_LETTERS, EVENT_ID, TOPIC};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let settings = Settings::from_env()?;
    let (pool, guard) = database(&settings.database).await?;
    let dedup = Deduplicator::builder(guard.clone(), "billing")
        .id(MessageId::header(EVENT_ID))
        // An attempt without a recorded end has committed nothing: `book` says both or neither.
        .on_unknown(OnUnknown::RunAgain)
        .build()?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    // How long the partitions of a consumer that died stand still.
    config.set("session.timeout.ms", "6000");
    let consumer = KafkaGuard::new(dedup, config)
        .topic(TOPIC)
        .dead_letter_topic(DEAD_LETTERS)
        .start(move |message, attempt| {
            let pool = pool.clone();
            async move { book(&pool, message.payload().unwrap_or_default(), &attempt).await }
        })?;

    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    term.recv().await;
    let stopped = consumer.stop(Duration::from_secs(10)).await;
    guard.drain(Duration::from_secs(5)).await;
    stopped.map_err(|error| error.to_string().into())
}

async fn book(pool: &Pool, payload: &[u8], attempt: &Attempt) -> Result<(), Failure> {
    // What cannot be read will never be: it goes to the dead letters at once.
    let placed: OrderPlaced = serde_json::from_slice(payload).map_err(Failure::reject)?;
    reached("delivered");
    let mut client = pool.get().await?;
    let client: &mut tokio_postgres::Client = &mut client;
    let mut tx = client.transaction().await?;
    let insert = "INSERT INTO invoices (order_id, amount_cents) VALUES ($1, 4900)";
    tx.execute(insert, &[&placed.order]).await?;
    reached("booked");
    attempt.complete_in_tx(&mut tx).await?;
    reached("completed");
    tx.commit().await?;
    reached("booking-committed");
    Ok(())
}
