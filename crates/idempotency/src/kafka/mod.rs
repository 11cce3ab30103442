//! Kafka: a consumer whose messages run once.
//!
//! [`KafkaGuard`] is a consumer on `rdkafka` (re-exported as [`rdkafka`]) around a
//! [`Deduplicator`](crate::message::Deduplicator):
//!
//! - Each partition's messages run one after the other, in their order; partitions run beside each other.
//! - An offset is committed after its message's record is stored (or the message was put aside), and never past one
//!   that is not. A consumer that dies in between gets the message again, and skips it.
//! - When partitions move, running handlers go on to their end and record it; only their offsets are not committed by
//!   this consumer any more. The new owner waits for them ([`Why::InFlight`](crate::message::Why)).
//! - A partition whose handler is slow is paused, and the others go on.
//! - A message that must not be run (any more) goes to the dead letter topic, with headers that say why, and its
//!   partition goes on. While that topic cannot be written to, its partition stands still.
//!
//! ```no_run
//! use idempotency::kafka::{rdkafka::{ClientConfig, Message}, KafkaGuard};
//! use idempotency::message::{Deduplicator, Failure, MessageId, OnUnknown};
//! use idempotency::{store::Memory, Guard};
//! use std::{sync::Arc, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guard = Guard::new(Arc::new(Memory::default())).lease(Duration::from_secs(10));
//! let dedup = Deduplicator::builder(guard.clone(), "billing")
//!     .id(MessageId::header("event-id").or_offset())
//!     .on_unknown(OnUnknown::DeadLetter)
//!     .build()?;
//! let mut config = ClientConfig::new();
//! config.set("bootstrap.servers", "127.0.0.1:9092");
//!
//! let consumer = KafkaGuard::new(dedup, config)
//!     .topic("orders")
//!     .dead_letter_topic("orders.dead")
//!     .start(|message, attempt| async move {
//!         let order = std::str::from_utf8(message.payload().unwrap_or_default())?;
//!         println!("{order}, attempt {}", attempt.number());
//!         Ok(())
//!     })?;
//!
//! // … at the end of the program:
//! consumer.stop(Duration::from_secs(10)).await?;
//! guard.drain(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What to build with
//!
//! This feature builds librdkafka from its source, which needs a C and a C++ compiler and `make`, and takes minutes.
//! It has no TLS, SASL, zlib or zstd (lz4 and snappy are in it): a dependency of your own on `rdkafka` with its
//! features `ssl`, `sasl`, `libz`, `zstd` adds them.
//!
//! # What it does not do
//!
//! It commits offsets, and takes no part in Kafka's transactions as a producer. It reads what is committed
//! (`isolation.level`, librdkafka's default). A handler that sends events sends them at least once: write them into
//! an outbox in the transaction of the effect, or make their ids from the message's.

mod commit;
mod context;
mod dead_letters;
mod guard;
mod ledger;
mod message;
mod metrics;
mod poll;
mod state;
mod worker;

pub use guard::{KafkaGuard, Running};
pub use metrics::Lag;
pub use rdkafka;

/// Why there is no consumer, or why it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is missing, or contradicts what the guard does.
    #[error("invalid setting: {0}")]
    Settings(String),
    /// What rdkafka says.
    #[error(transparent)]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The consumer's thread could not be started, or has ended.
    #[error("the consumer's thread: {0}")]
    Thread(String),
}
