//! A tower layer: an HTTP service executes each request once per key.
//!
//! ```
//! # #[cfg(feature = "axum")] mod example {
//! use axum::{extract::Request, http::request::Parts, routing::post, Router};
//! use idempotency::http::{Attempt, IdempotencyLayer};
//! use idempotency::{store::Memory, Guard};
//! use std::{sync::Arc, time::Duration};
//!
//! #[derive(Clone)]
//! struct User { org: String }
//!
//! async fn create(attempt: Attempt, body: String) -> String {
//!     format!("{body} under fence {}", attempt.fence())
//! }
//!
//! pub fn app() -> Router {
//!     let idem = Guard::new(Arc::new(Memory::default())).namespace("orders");
//!     let layer = IdempotencyLayer::new(idem)
//!         .tenant(|parts: &Parts| parts.extensions.get::<User>().map(|user| user.org.clone()))
//!         .wait(Duration::from_secs(2));
//!     Router::new().route("/orders", post(create)).layer(layer)
//! }
//! # }
//! # #[cfg(feature = "axum")] let _ = example::app();
//! ```
//!
//! Rules, keys, fingerprints, what an answer means for its key, what is stored of it and what clients are
//! told are the gateway's, from one crate: `docs/semantics.md` says it all. What is special here:
//!
//! - The handler runs in a task of its own from the moment when it first has to wait. A client that leaves
//!   does not cancel it: its answer is stored, and the retry gets it.
//! - Bodies of requests are read before the handler runs, up to `max_body_bytes`. Answers stream while they
//!   are copied; only their end waits for the record, so that a client that saw the end can always get it
//!   again. Short ones (64 KiB, of known length) wait whole.
//! - An answer over `max_response_bytes`, or with trailers, is passed on and remembered as done; a retry
//!   gets 409 `not-replayable`.
//! - An error of the service passes unchanged. The outcome is then *unknown*, as it is after a panic (the
//!   client gets 502 `outcome-unknown`).
//! - It stands behind authentication and authorisation: a replay does not ask the handler.
//! - After the server has stopped to accept, [`Guard::drain`](crate::Guard::drain) waits for handlers whose
//!   clients have left.

mod answer;
mod attempt;
mod head;
mod layer;
mod not_sent;
mod observe;
mod protect;
mod request_body;
mod response_body;
mod run;
mod service;

pub use attempt::Attempt;
#[cfg(feature = "axum")]
pub use attempt::NotProtected;
pub use layer::{IdempotencyLayer, NoTenant, RulesError, Tenant, TheRules};
pub use not_sent::NotSent;
pub use request_body::RequestBody;
pub use response_body::ResponseBody;
pub use service::{IdempotencyService, ResponseFuture};

pub use idempotency_core::config::WhenMissing;

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
