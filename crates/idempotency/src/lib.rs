//! Idempotency without a gateway: an operation runs once per key, however often it is asked for.
//!
//! The same promise as the gateway's, for programs that have none in front: same records, same states, same
//! fences. A key that a gateway locked is locked here too, and the other way round.
//!
//! It knows how a program acquires a key, renews its lease and settles it on every path, even in a panic or a dropped
//! future; HTTP services, transactions of PostgreSQL and messages are built on that. What a request means is decided by
//! `idempotency_core`, and what happens to a record by the store. It must never know the filter or a gateway's host.
//!
//! ```
//! use idempotency::{Entry, Fingerprint, Guard, Outcome};
//! use idempotency_store::Memory;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! # #[derive(serde::Serialize)] struct Order { item: &'static str }
//! # async fn place(_: &Order, _fence: u64) -> Result<u64, idempotency::Error> { Ok(7) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let idem = Guard::new(Arc::new(Memory::default()))
//!     .namespace("orders")
//!     .lease(Duration::from_secs(60))
//!     .ttl(Duration::from_secs(24 * 3600));
//!
//! let request = Order { item: "chair" };
//! let id: u64 = match idem.acquire("key-1", Fingerprint::json(&request)?).await? {
//!     Entry::Execute(execution) => {
//!         let id = place(&request, execution.fence()).await?;
//!         execution.complete(Outcome::json(201, &id)?).await?;
//!         id
//!     }
//!     Entry::Replay(done) => done.json()?,
//!     Entry::InFlight(_) => return Err("another request with this key is running".into()),
//!     Entry::Mismatch => return Err("this key was used for another order".into()),
//!     Entry::NotComparable => return Err("this key was used before the payload changed its form".into()),
//!     Entry::Unknown(_) => return Err("an earlier try may have placed the order".into()),
//! };
//! assert_eq!(id, 7);
//! # Ok(())
//! # }
//! ```
//!
//! [`Memory`](idempotency_store::Memory) forgets everything when the process ends; it is for tests. Features
//! choose a store that lasts:
//!
//! | feature | |
//! |---|---|
//! | `embedded` | `idempotency_store::Embedded`: a directory of this process, durable |
//! | `redis`, `postgres` | records that several processes share |
//! | `tokio-postgres`, `sqlx-0_8`, `sqlx-0_9` | the record in the caller's own transaction: [`postgres`] |
//! | `remote` | `remote::Remote`: records that a running `idempotencyd` keeps, shared with gateways |
//! | `http`, `axum` | `http::IdempotencyLayer`: a tower layer for HTTP services |
//! | `message` | `message::Deduplicator`: one verdict per message, for consumers of any broker |
//! | `kafka` | `kafka::KafkaGuard`: a consumer of Kafka whose messages run once |
//! | `daily` (default) | windows of one day in a named time zone ([`keys::Daily`]) |
#![forbid(unsafe_code)]
// Some of it is for the HTTP layer, some for messages.
#![cfg_attr(not(all(feature = "http", feature = "message")), allow(dead_code))]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod acquire;
mod claim;
mod cleanup;
mod counters;
mod entry;
mod error;
mod execution;
mod fingerprint;
mod guard;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod keys;
#[cfg(feature = "message")]
pub mod message;
mod operations;
mod outbox;
mod outcome;
mod owners;
mod patience;
pub mod postgres;
mod renewal;
mod seldom;
mod settle;
mod shared;
mod wakes;

#[cfg(feature = "remote")]
pub use idempotency_client as remote;

pub use cleanup::cleanup_job;
pub use entry::{Entry, InFlight, Unknown};
pub use error::{Error, SettleError};
pub use execution::{Completed, Execution};
pub use fingerprint::Fingerprint;
pub use guard::{Guard, OnUnknown};
pub use idempotency_store as store;
pub use outcome::{Done, Outcome};
