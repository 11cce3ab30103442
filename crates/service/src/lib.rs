//! The idempotency service: one [`Store`](idempotency_store::Store) behind HTTP.
//!
//! [`Server::bind`] opens the listeners, [`Server::run`] serves until told to stop; [`run`] does
//! both with the store that the configuration names. The binary `idempotencyd` is a thin command
//! line around this.
//!
//! It knows who may ask what (roles, tokens, certificates, budgets), HTTP, the operators' commands, metrics and logs. What an
//! operation does to a record is decided by the store alone; what a request means, by `idempotency_core`, of
//! which only `check-config` makes use. It must never know the filter.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod encryption;
pub mod redact;
pub mod server;
pub mod telemetry;
pub mod tls;

mod audit;
mod budget;
mod census;
mod finish;
mod peer;
mod sweeper;
mod ui;
mod validate;

pub use config::{Config, Settings};
pub use server::{run, Server, ServerError};
