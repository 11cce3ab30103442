//! The service over real sockets: in this process where that is enough, as a child where signals
//! and crashes matter.

mod store_end;
mod support;

mod census;
mod cli;
mod clocks;
mod encryption;
mod floods;
mod http_limits;
mod open_ports;
mod openapi;
mod operations;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod quotas;
mod records;
mod redis;
#[cfg(all(feature = "redis", feature = "postgres"))]
mod refused;
mod remote;
mod roles;
mod search;
mod settle;
mod sizes;
mod sweeps;
mod tls;
mod traces;
mod transport;
mod two_processes;
mod ui;
mod ui_browser;
mod waits;
mod zombies;
