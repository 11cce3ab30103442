//! The Redis store on real servers, started here.

#[path = "../common/mod.rs"]
mod common;

mod contract;
mod support;
