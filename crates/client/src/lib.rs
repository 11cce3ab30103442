//! Talks to a running idempotency service, over HTTP or a Unix socket.
//!
//! [`Client`] sends single requests; the operators' command line stands on it. [`Remote`] is a
//! [`Store`](idempotency_store::Store) whose records the service keeps: a program that uses it shares them
//! with gateways and with other programs.
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
mod url;

pub use client::{Answer, CallError, Client};
pub use remote::Remote;
pub use url::ServiceUrl;
