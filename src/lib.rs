//! The idempotency filter: one `.wasm` for Envoy and Kong.
//!
//! It knows the proxy-wasm ABI ([`host`]), what its hosts do differently ([`profile`], [`kong`]), and how a
//! protected request lives: [`stream`] is a state machine for each request that emits effects as data,
//! [`batch`], [`lease`] and [`outbox`] belong to the worker, and [`filter`] is the glue between the host's
//! callbacks and all of them. Only `abi` makes hostcalls, and only it is not built natively.
//!
//! What a request *means* (rules, keys, fingerprints, classes of answers, problem documents) is decided by
//! `idempotency_core`; what is sent to the service is written by `idempotency_protocol`. The filter must
//! never decide such a thing itself, since the library and `check-config` would then decide otherwise. It
//! must never know a store, and it must never trap: whatever a client or the service sends is answered.
//!
//! # All crates
//!
//! `cargo doc --workspace --no-deps` documents all of them. The first five are in the order in which a request meets
//! them:
//!
//! | crate | what it is |
//! |---|---|
//! | `idempotency_filter`, this one | the `.wasm` in Envoy or Kong |
//! | [`idempotency_core`] | what a request and an answer mean; the configuration |
//! | [`idempotency_protocol`] | the messages between filter and service, and the limits of both |
//! | [`idempotency_service`](../idempotency_service/index.html) | `idempotencyd`: HTTP API, command line, operators' page |
//! | [`idempotency_store`](../idempotency_store/index.html) | records: the table of states, the stores, the contract suite |
//! | [`idempotency_client`](../idempotency_client/index.html) | calls a running service |
//! | [`idempotency`](../idempotency/index.html) | the library: the same promise for programs without a gateway |
//!
//! `CONTRIBUTING.md` has a picture of them, the way of a replay through their files, and where new things go.
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
pub mod note;
pub mod outbox;
pub mod profile;
#[cfg(test)]
mod sdk_test;
pub mod settings;
pub mod settlement;
pub mod stats;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
