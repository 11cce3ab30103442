//! Version 1 of the wire contract, as the first releases spoke it.
//!
//! Frozen: this is a copy, made before version 2, and it is never edited. Tests hold today's encoder and
//! decoder against it, and put it between a gateway and a service, where it stands for an older release of
//! either. No product depends on it.
#![forbid(unsafe_code)]

pub mod answer;
pub mod frame;
pub mod key;
pub mod operation;
pub mod response;

mod codec;

pub use answer::{Answer, Fault, FaultCode, Grant, Stored};
pub use codec::DecodeError;
pub use frame::{
    Request, Response, MAX_OPERATIONS, MAX_SHARED_ANSWER, MAX_SHARED_OUTCOME, VERSION,
};
pub use key::{Fingerprint, LookupKey, Origin, Owner, Scheme};
pub use operation::{Acquire, Complete, OnUnknown, Operation, Retention, Settle, Settlement, Wait};
pub use response::{Outcome, StoredResponse, Tombstone, TombstoneReason};

/// Media type of messages.
pub const CONTENT_TYPE: &str = "application/vnd.idempotency-gateway.v1";
/// Path of the endpoint for [`Request`].
pub const OPERATIONS_PATH: &str = "/v1/operations";
/// Path of the endpoint for [`Wait`].
pub const WAIT_PATH: &str = "/v1/wait";
