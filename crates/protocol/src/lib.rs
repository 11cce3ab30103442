//! The wire contract between the idempotency filter (in the gateway) and the idempotency service.
//!
//! Pure data and its byte encoding: no I/O, no clock, no randomness; it compiles for `wasm32` and
//! natively. One message carries one or several operations ([`Request`]); the answer
//! ([`Response`]) holds one [`Answer`] per operation, in the same order, so that one bad operation
//! fails alone. [`Wait`] travels in a call of its own, because it may take long.
//!
//! Bodies and header values travel as raw bytes. See [`frame`] for the layout. [`limits`] is the one home of
//! every limit that both ends must agree on.
//!
//! It must never know what an operation *does*: neither the states of a record, which are the store's, nor the
//! meaning of a request, which is core's.
#![forbid(unsafe_code)]

pub mod about;
pub mod answer;
pub mod dialect;
pub mod frame;
pub mod key;
pub mod limits;
pub mod operation;
pub mod response;

mod answers;
mod codec;
mod operations;
mod parts;

pub use about::About;
pub use answer::{Answer, Fault, FaultCode, Grant, Stored};
pub use codec::DecodeError;
pub use frame::{
    Received, Request, Response, Wire, MAX_OPERATIONS, MAX_SHARED_ANSWER, MAX_SHARED_OUTCOME,
    REVISION,
};
pub use key::{log_id, Fingerprint, LookupKey, Origin, Owner, Scheme};
pub use operation::{
    Acquire, AttemptKind, Complete, FailCause, OnUnknown, Operation, Redeem, Retention, Settle,
    Settlement, Wait,
};
pub use response::{CarriedOutcome, Outcome, StoredResponse, Tombstone, TombstoneReason};

/// Media type of [`Request`] and [`Response`] bodies.
pub const CONTENT_TYPE: &str = "application/vnd.idempotency-gateway.v1";
/// Path of the endpoint that takes a [`Request`] with one or more operations.
pub const OPERATIONS_PATH: &str = "/v1/operations";
/// Path of the endpoint that takes one encoded [`Wait`].
pub const WAIT_PATH: &str = "/v1/wait";
