//! The PostgreSQL store on real servers, which these tests start.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/model.rs"]
mod model;
#[path = "../common/suite.rs"]
mod suite;

mod clock;
mod contract;
mod failover;
mod faults;
mod migrations;
mod opening;
mod processes;
mod server;
mod sweeps;
mod tls;
