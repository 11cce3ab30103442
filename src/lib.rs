//! The idempotency filter: one `.wasm` for Envoy and Kong.
//!
//! Logic knows no I/O: everything but `abi` compiles and is tested natively.

pub mod config;
