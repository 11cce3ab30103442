//! Encryption at rest: the contract on sealed stores, keys that come and go, and what is left in files.

#[path = "../common/mod.rs"]
mod common;
mod contract;
mod erased;
mod files;
mod full;
mod lab;
mod migration;
mod moved;
mod rotation;
#[path = "../common/suite.rs"]
mod suite;
mod transactions;
