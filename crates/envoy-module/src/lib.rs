//! The filter as a native module of Envoy: the same state machines as in the `.wasm`, behind Envoy's C ABI for
//! dynamic modules.
//!
//! | module | what |
//! |---|---|
//! | `abi` | Envoy's C ABI, as far as it is used |
//! | `envoy` | its callbacks, with Rust's types |
//! | `hooks` | what Envoy calls |
//! | `home` | a configuration, and what the main thread does for it |
//! | `unit` | the filter of one worker: who may run it, and what is done when it has returned |
//! | `core` | what the lock of a worker guards: the filter, and what it has asked for |
//! | `host` | the calls that the filter makes |
//! | `streams`, `callouts` | which streams live, and who carries which callout: no calls, no clock |
//! | `ticker` | the thread that lets the filters look at the clock |
//!
//! It must never end Envoy's process: a panic is caught, and what it may have left undone is refused. It must never
//! call Envoy for a stream that has ended, nor from another thread than the stream's. `docs/native-module.md` says
//! what it promises; ADR 30 says why it is built so.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]
#![allow(missing_docs)]

pub mod abi;
pub mod callouts;
mod check;
mod core;
pub mod envoy;
#[cfg(test)]
mod fake;
pub mod home;
mod hooks;
pub mod host;
pub mod streams;
mod ticker;
pub mod unit;

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds since the module was loaded.
pub(crate) fn clock_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
