//! [`idempotency_core`] and [`idempotency_protocol`] for hosts that are not written in Rust: a C ABI.
//!
//! | | |
//! |---|---|
//! | [`plugin`] | a configuration, validated for a host that executes by itself |
//! | [`exchange`] | the life of one request as a state machine without I/O: decide, hash, acquire, execute, settle |
//! | [`batch`] | operations of several requests in one message, and its answers |
//! | [`forward`] | the header fields that an upstream gets, and those that a client gets |
//! | [`glue`] | the C functions over all of these; the only module with `unsafe` |
//!
//! The host does the I/O: it reads requests, calls the service, executes, and sends answers. It decides nothing.
//!
//! `include/idempotency.h` is made from [`glue`] (`UPDATE_HEADER=1 cargo test -p idempotency-core-ffi header`).
//!
//! # The border
//!
//! - **Nothing is allocated for the other side to free**, but for handles, which have functions of their own
//!   for that. Bytes that go in are copied or read before a function returns. Bytes that come out are borrowed from a
//!   handle: they stay where they are until the next call with the same handle.
//! - **No panic crosses it.** A function in which one is caught answers `IG_FAULT`, and its host must refuse the
//!   request (`ig_fault_reply`). The handle answers nothing but `IG_FAULT` from then on, except to `ig_request_abort`.
//! - **A handle belongs to one thread at a time.** A configuration may be shared.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod batch;
pub mod call;
pub mod exchange;
pub mod forward;
#[allow(unsafe_code)]
pub mod glue;
pub mod plugin;

/// What a client gets after a defect of this library or of its host. The defect may lie behind the moment at which the
/// request was sent, so this says neither that it was executed nor that it was not. A retry with the same key is safe.
fn defect_reply() -> idempotency_core::reply::LocalReply {
    use idempotency_core::problem::{Problem, ProblemSettings};
    let detail = "The gateway failed at this request, and cannot tell whether it was executed. \
                  Send it again with the same key.";
    Problem::StoreUnavailable.reply(&ProblemSettings::DEFAULT, Some(detail))
}
