//! Where idempotency records live: one trait, one contract, several backends.
//!
//! It knows what a record is, in which states it can be, and what each event does to it
//! ([`machine`]); how long leases and results last, by its own clock ([`clock`]); who waits for
//! which key ([`waiters`]); what a tenant may have ([`Quotas`]); and how all of that is kept, found
//! again and forgotten in a directory, in Redis or in PostgreSQL.
//!
//! It must never know what a request is: no HTTP, no header, no rule, no gateway, and nothing of
//! how a fingerprint came about. Keys and outcomes are bytes to it. It never decides whether
//! something may be executed by any other means than the transition function, it never asks the
//! caller's clock, and it never answers what is less durable than its mode promises.
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `embedded` (default) | `Embedded`: a directory of one process, durable |
//! | `redis` | `RedisStore`: a Redis server, Sentinel or Cluster, shared by any number of processes |
//! | `postgres` | `Postgres`: a PostgreSQL database, shared by any number of processes |
//! | `contract` | `contract`: the suite that every backend is run through |
//!
//! Without any of them there is the trait, all that a backend is made of, and [`Memory`].
//!
//! # Writing a backend
//!
//! A backend implements [`Store`], and is one when the suite in `contract` holds on it. Where its
//! records can be read and written by this process, it has nothing to decide:
//!
//! | for | call |
//! |---|---|
//! | [`Store::apply`] | [`Event::prepare`](machine::Event::prepare) outside of every lock, then for each operation: read the slot, [`machine::apply`], write the slot that it returns, and answer when that is as durable as promised |
//! | [`Reply::Replay`](machine::Reply::Replay) in an answer | [`replay::answer`], with the outcome's data at hand |
//! | [`Store::wait`] | [`Waiters::wait`](waiters::Waiters::wait) around [`machine::wait`]; and [`Waiters::wake`](waiters::Waiters::wake) after every change |
//! | [`Store::inspect`] | [`machine::view`] |
//! | [`Store::list`] | [`keys::prefix`] and [`keys::PageBuilder`] |
//! | [`Store::resolve`] | [`machine::resolve`] |
//! | [`Store::sweep`] | [`machine::sweep`] for what is due by [`Slot::due`](record::Slot::due) |
//! | [`Store::set_quotas`] | [`Tenants`], and [`Context::used_up`](machine::Context::used_up) from it |
//! | a slot as bytes | [`codec`], or a form of its own: all fields are public |
//! | a key as bytes | `LookupKey::to_bytes`, and back [`keys::from_bytes`] |
//!
//! `examples/backend.rs` is such a backend, complete and small. Where the transition runs elsewhere,
//! as in Redis' script, the machine is what it is held to.
#![forbid(unsafe_code)]

pub mod clock;
// Beside the embedded store, which it was made for; it needs nothing of it.
#[path = "embedded/codec.rs"]
pub mod codec;
#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod keys;
pub mod machine;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod record;
#[cfg(feature = "redis")]
pub mod redis;
pub mod replay;
pub mod waiters;

mod quota;
mod store;

#[cfg(feature = "embedded")]
pub use embedded::{Durability, Embedded, EmbeddedOptions};
pub use memory::Memory;
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions};
pub use quota::{Quota, Quotas, TenantUse, Tenants};
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisStore, RedlockOptions};
pub use store::*;
pub use waiters::{WaitCounts, WaiterCaps};
