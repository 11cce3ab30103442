//! The idempotency service: one [`Store`](idempotency_store::Store) behind HTTP.
//!
//! [`Server::bind`] opens the listeners, [`Server::run`] serves until told to stop; [`run`] does
//! both with the store that the configuration names. The binary `idempotencyd` is a thin command
//! line around this.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod redact;
pub mod server;
pub mod telemetry;

mod audit;
mod budget;
mod finish;
mod peer;
mod sweeper;
mod validate;

pub use config::{Config, Settings};
pub use server::{run, Server, ServerError};
