//! The Redis store on real servers, started here.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/suite.rs"]
mod suite;

mod contract;
mod distrust;
mod failover;
mod faults;
mod illegible;
mod model;
mod persistence;
mod quotas;
mod ready;
mod redlock;
mod releases;
mod search;
mod storm;
mod support;
mod tls;
mod together;
mod two_stores;
