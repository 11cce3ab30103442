//! The HTTP layer. Cases that the specification numbers carry their number in their names.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod client;
mod configuration;
mod decisions;
mod delivery;
mod streams;
mod tasks;
mod watched;
