//! The HTTP API.

mod app;
mod arrival;
mod body;
pub(crate) mod door;
mod guard;
mod health;
pub(crate) mod keeping;
pub(crate) mod model;
mod operations;
mod problem;
mod records;
mod refusals;
mod resolve;
mod rest;
mod router;
mod settle;
mod wait;

pub(crate) use app::App;
pub(crate) use arrival::Arrival;
pub(crate) use health::usage;
pub(crate) use model::{KeyQuery, ResolveTo};
pub(crate) use problem::Problem;
pub(crate) use resolve::{change, resolution};
pub use router::openapi;
pub(crate) use router::Dispatch;
