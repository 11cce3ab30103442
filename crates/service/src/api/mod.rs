//! The HTTP API.

mod app;
mod body;
mod guard;
mod health;
pub(crate) mod model;
mod operations;
mod problem;
mod records;
mod resolve;
mod router;
mod settle;
mod wait;

pub(crate) use app::App;
pub use router::openapi;
pub(crate) use router::Dispatch;
