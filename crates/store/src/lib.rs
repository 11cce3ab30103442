//! Where idempotency records live: one trait, one contract suite, several backends.
#![forbid(unsafe_code)]

pub mod clock;
#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod machine;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod record;
#[cfg(feature = "redis")]
pub mod redis;

mod keys;
mod quota;
mod replay;
mod store;
mod waiters;

#[cfg(feature = "embedded")]
pub use embedded::{Durability, Embedded, EmbeddedOptions};
pub use memory::Memory;
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions};
pub use quota::{Quota, Quotas, TenantUse};
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisStore, RedlockOptions};
pub use store::*;
pub use waiters::WaiterCaps;
