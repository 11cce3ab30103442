//! The exactly-once checker.
//!
//! [`run::run`] starts the real gateway (Envoys with the filter, services, a store, the demo
//! upstream), lets hundreds of seeded clients call it ([`workload`], [`client`]) while a seeded
//! nemesis kills, pauses and cuts off its parts ([`nemesis`]), and records everything that clients,
//! upstream and nemesis do as a [`history`]. Then [`model::check`], which is pure, decides from the
//! history alone whether the promise held. `docs/checker.md` tells the model in words.
//!
//! The model must never look into the gateway or the store: it knows what was asked, what was answered, what the
//! upstream executed and what was broken when, and no more.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
pub mod history;
pub mod keys;
pub mod link;
pub mod model;
pub mod nemesis;
pub mod orders;
mod quiet;
pub mod report;
pub mod rig;
pub mod run;
pub mod stall;
pub mod workload;
