//! The whole gateway behind a real Envoy: what clients get, and how often the upstream executes.
#![forbid(unsafe_code)]

#[macro_use]
extern crate idempotency_e2e;

mod bodies;
mod browsers;
mod conflict;
mod corrected;
mod faults;
mod floods;
mod hangups;
mod headers;
mod identity;
mod keys;
mod kong_lua;
mod kong_names;
mod methods;
mod odd;
mod problems;
mod races;
mod replay;
mod tombstones;
mod two_hops;

mod batches;
mod chain;
mod collector;
mod config;
mod crowds;
mod gateways;
mod inline_stream;
mod leases;
mod load;
mod logs;
mod metrics;
mod mtls;
mod observe;
mod operators;
mod paths;
mod quotas;
mod secrets;
mod service_down;
mod settle_down;
mod spellings;
mod storm;
mod streams;
mod support;
mod tenants;
mod tls;
mod traces;
mod versions;
mod whole_kong;
