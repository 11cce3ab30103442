//! Where idempotency records live: one trait, one contract suite, several backends.
#![forbid(unsafe_code)]

mod store;

pub use store::*;
