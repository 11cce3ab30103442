//! Talks to a running idempotency service, over HTTP, HTTPS or a Unix socket.
//!
//! [`Client`] sends single requests; the operators' command line stands on it. [`Remote`] is a
//! [`Store`](idempotency_store::Store) whose records the service keeps: a program that uses it shares them
//! with gateways and with other programs.
//!
//! It knows the service's addresses, tokens, endpoints and the versions of the wire. It must never know the
//! service's insides, nor repeat an operation that may have been done unless its owner token makes that safe.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod calls;
mod client;
mod connect;
mod records;
mod remote;
mod shared;
mod tls;
mod url;

pub use client::{Answer, CallError, Client};
pub use remote::Remote;
pub use tls::TlsFiles;
pub use url::ServiceUrl;
