//! The PostgreSQL store on real servers, which these tests start.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/model.rs"]
mod model;
#[path = "../common/suite.rs"]
mod suite;

mod application;
mod clock;
mod contract;
mod failover;
mod faults;
mod formats;
mod migrations;
mod open_transaction;
mod opening;
mod previous;
mod processes;
mod rollout;
mod server;
mod statements;
mod sweeps;
mod tls;
