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
pub mod call;
pub mod canonical_json;
pub mod capture;
pub mod classify;
pub mod config;
pub mod decide;
pub mod execution;
pub mod filter;
pub mod fingerprint;
pub mod headers;
pub mod host;
mod json;
pub mod key;
pub mod kong;
pub mod lease;
pub mod names;
pub mod outbox;
pub mod path;
pub mod problem;
pub mod profile;
pub mod query;
pub mod reply;
pub mod request;
pub mod rules;
pub mod settlement;
pub mod stats;
pub mod stream;
pub mod tenant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upstream;
