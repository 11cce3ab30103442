//! Where idempotency records live: one trait ([`Store`]), one contract, several backends.
//!
//! It knows what a record is and what each event does to it ([`machine`]), how long leases and
//! results last by its own clock ([`clock`]), who waits for which key ([`waiters`]), and what a
//! tenant may have ([`Quotas`]). Its backends keep all of that, find it again and forget it.
//!
//! It must never know what a request is: no HTTP, no header, no rule, no gateway, and not how a
//! fingerprint was made. It must never know its callers' clocks. Only the transition function
//! decides what may be executed, and no answer tells of what is less durable than the store's mode
//! promises.
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `embedded` (default) | `Embedded`: a directory of one process, durable |
//! | `redis` | `RedisStore`: a Redis server, Sentinel or Cluster, shared by any number of processes |
//! | `postgres` | `Postgres`: a PostgreSQL database, shared by any number of processes |
//! | `encryption` | `sealed`: a store around another one, which gets answers, keys and descriptions sealed |
//! | `contract` | `contract`: the suite that every backend is run through |
//!
//! Without any of them there is the trait, all that a backend is made of, and [`Memory`].
//!
//! # Writing a backend
//!
//! A backend implements [`Store`], and is finished when the suite in `contract` holds on it. Where
//! this process reads and writes the records, the backend decides nothing itself:
//!
//! | for | call |
//! |---|---|
//! | [`Store::apply`] | [`Event::prepare`](machine::Event::prepare) outside of every lock, then for each operation: read the slot, [`machine::apply`], write the slot that it returns, and answer when that is as durable as promised |
//! | [`Reply::Replay`](machine::Reply::Replay) in an answer | [`replay::answer`], with the outcome's data at hand |
//! | [`Store::wait`] | [`Waiters::wait`](waiters::Waiters::wait) around [`machine::wait`]; and [`Waiters::wake`](waiters::Waiters::wake) after every change |
//! | [`Store::inspect`] | [`machine::view`] |
//! | [`Store::list`] | [`keys::prefix`] and [`keys::PageBuilder`] |
//! | [`Store::search`] | nothing: the default goes through pages of the list; or [`search::FoundBuilder`] |
//! | [`Store::stored`] | [`machine::stored`], and [`replay::outcome`] with the outcome's data at hand |
//! | [`Store::resolve`] | [`machine::resolve`] |
//! | [`Store::sweep`] | [`machine::sweep`] for what is due by [`Slot::due`](record::Slot::due) |
//! | [`Store::apply_events`], [`Store::export`], [`Store::replace`] | nothing that decides: they are what `sealed` needs of a backend |
//! | [`Store::set_quotas`] | [`Tenants`], and [`Context::used_up`](machine::Context::used_up) from it |
//! | a slot as bytes | [`codec`], or a form of its own: all fields are public |
//! | a key as bytes | `LookupKey::to_bytes`, and back [`keys::from_bytes`] |
//!
//! `examples/backend` is such a backend, complete and small; a test runs the suite on it. Where the
//! transition runs elsewhere, as in the script of the Redis store, the suite holds it to the machine.
#![forbid(unsafe_code)]

pub mod clock;
// Beside the embedded store, which it was made for; it needs nothing of it.
#[path = "embedded/codec.rs"]
pub mod codec;
#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod history;
pub mod keys;
pub mod machine;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod record;
#[cfg(feature = "redis")]
pub mod redis;
pub mod replay;
#[cfg(feature = "encryption")]
pub mod sealed;
pub mod search;
pub mod transaction;
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
#[cfg(feature = "encryption")]
pub use sealed::Sealed;
pub use store::*;
pub use transaction::{ReadBack, Transactions};
pub use waiters::{WaitCounts, WaiterCaps};
