//! What a request means to idempotency, whatever program asks.
//!
//! [`config`] reads what is protected and how; [`decide`] turns the head of a request into a decision
//! with [`rules`], [`key`], [`tenant`] and [`fingerprint`]; [`classify`], [`capture`] and [`ending`] say what
//! an answer means for its key and what of it is stored, [`settled`] how the service took that; [`reply`] and
//! [`problem`] make the answers that a client gets in its place, [`forward`] the fields that an upstream gets.
//!
//! The wasm filter, the service's `check-config` and the library stand on it. It knows no host, no
//! network, no clock and no async runtime, and must never know them: what a host cannot do arrives as
//! plain data ([`settings::Capabilities`]), what a host knows of a request through a trait
//! ([`decide::Properties`]).
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

pub mod canonical_json;
pub mod capture;
pub mod classify;
pub mod config;
pub mod cors;
pub mod decide;
pub mod ending;
pub mod fingerprint;
pub mod forward;
pub mod headers;
pub mod hop;
mod json;
pub mod key;
mod named;
pub mod names;
pub mod path;
pub mod problem;
pub mod query;
pub mod reply;
pub mod request;
pub mod rules;
pub mod settings;
pub mod settled;
pub mod stripe;
pub mod tenant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upstream;
