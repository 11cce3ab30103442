//! The HTTP API.

mod app;
mod arrival;
mod body;
pub(crate) mod door;
mod guard;
mod health;
pub(crate) mod model;
mod operations;
mod problem;
mod records;
mod resolve;
mod rest;
mod router;
mod settle;
mod wait;

pub(crate) use app::App;
pub(crate) use arrival::Arrival;
pub(crate) use problem::Problem;
pub use router::openapi;
pub(crate) use router::Dispatch;
