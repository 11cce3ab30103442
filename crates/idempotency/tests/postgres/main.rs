//! Records in transactions of the caller's own, on real servers. Names say which of the deciding cases a test is.

#[path = "../common/mod.rs"]
mod common;

mod commits;
mod crashes;
mod drivers;
mod failover;
mod gateway;
mod isolation;
mod open;
mod scopes;
mod server;
mod server_crashes;
mod settle;
mod wire;
mod zombies;
