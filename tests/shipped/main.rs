//! What is handed out to be run elsewhere (compose files, the Dockerfile, Kong's and Envoy's
//! configurations, shell scripts), checked without an engine: against the rest of the repository,
//! against the real programs, and where it can be by running the parts as processes.
#![forbid(unsafe_code)]

mod case_list;
mod cases;
mod compose;
mod dockerfile;
mod docs;
mod envoy;
mod kong;
mod kong_settings;
mod kubernetes;
mod names;
mod observability;
mod parts;
mod regions;
mod releases;
mod report;
mod repository;
mod running;
mod scripts;
mod spoilt;
mod systemd;
mod tls_page;
