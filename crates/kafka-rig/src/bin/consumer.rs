//! `kafka-consumer SETTINGS`: a guarded consumer that a test can kill. What its handlers do is in the messages, and
//! what happens is written into a journal, a line at a time, which survives it.
#![forbid(unsafe_code)]

use idempotency::kafka::rdkafka::{ClientConfig, Message};
use idempotency::kafka::KafkaGuard;
use idempotency::message::{Deduplicator, Failure, MessageId, OnUnknown};
use idempotency::store::{RedisOptions, RedisStore};
use idempotency::Guard;
use serde::Deserialize;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, SignalKind};

#[derive(Deserialize)]
struct Settings {
    brokers: String,
    redis: String,
    group: String,
    topic: String,
    journal: PathBuf,
    runs_again: bool,
    lease_ms: u64,
    commit_interval_ms: u64,
    backoff_ms: u64,
    #[serde(default)]
    config: Vec<(String, String)>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .init();
    let settings = std::env::args().nth(1).ok_or("which settings?")?;
    let settings: Settings = serde_json::from_str(&settings)?;
    let store = RedisStore::open(RedisOptions::parse(&settings.redis)?).await?;
    let guard = Guard::new(Arc::new(store)).lease(Duration::from_millis(settings.lease_ms));
    let pause = Duration::from_millis(settings.backoff_ms);
    let dedup = Deduplicator::builder(guard.clone(), &settings.group)
        .id(MessageId::header("event-id").or_offset())
        .backoff(pause, pause)
        .on_unknown(match settings.runs_again {
            true => OnUnknown::RunAgain,
            false => OnUnknown::DeadLetter,
        })
        .build()?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    for (name, value) in &settings.config {
        config.set(name, value);
    }
    let journal = File::options()
        .append(true)
        .create(true)
        .open(&settings.journal)?;
    let journal = Arc::new(journal);
    let told = Arc::clone(&journal);
    let running = KafkaGuard::new(dedup, config)
        .topic(&settings.topic)
        .dead_letter_topic(&format!("{}.dead", settings.topic))
        .commit_interval(Duration::from_millis(settings.commit_interval_ms))
        .start(move |message, attempt| {
            let journal = Arc::clone(&told);
            async move {
                let payload = String::from_utf8_lossy(message.payload().unwrap_or_default());
                let (what, name) = payload.split_once(' ').unwrap_or(("ok", &payload));
                let line = |verb: &str| format!("{verb} {name} {}\n", attempt.number());
                // One write, which a kill of this process does not take back.
                journal.as_ref().write_all(line("ran").as_bytes())?;
                match what {
                    "fail" => Err(Failure::again("it was told to fail")),
                    "hang" if attempt.number() == 1 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        })?;
    signal(SignalKind::terminate())?.recv().await;
    let counts = serde_json::to_string(&running.counts())?;
    running
        .stop(Duration::from_secs(5))
        .await
        .map_err(|error| error.to_string())?;
    guard.drain(Duration::from_secs(5)).await;
    journal
        .as_ref()
        .write_all(format!("counts {counts}\n").as_bytes())?;
    Ok(())
}
