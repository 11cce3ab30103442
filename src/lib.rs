//! The idempotency filter: one `.wasm` for Envoy and Kong.
//!
//! Logic knows no I/O. From the outside in: [`filter`] is the glue between the host's callbacks
//! and the state machine in [`stream`], which emits effects as data; [`decide`] turns headers into
//! a decision with [`rules`], [`key`], [`tenant`] and [`fingerprint`]; [`call`], [`reply`] and
//! [`problem`] say what goes to the service and to the client. Only `abi` makes hostcalls, and only
//! it is not built natively.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

#[cfg(target_arch = "wasm32")]
mod abi;

pub mod batch;
pub mod body;
pub mod call;
pub mod clock;
pub mod detached;
pub mod details;
pub mod ending;
pub mod execution;
pub mod filter;
pub mod forward;
pub mod head;
pub mod host;
pub mod ids;
pub mod kong;
pub mod lease;
pub mod outbox;
pub mod profile;
pub mod settings;
pub mod settlement;
pub mod stats;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
