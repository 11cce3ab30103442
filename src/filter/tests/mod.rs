//! The filter in hosts that run in the test's own process. [`fake`] stands for Envoy and [`fake_kong`] for Kong: each does
//! what `docs/kong-facts.md` and `docs/architecture.md` say of the real one. [`bench`] and [`nginx`] drive them step by
//! step, [`random`] and `random_kong` by events in random order, with a service that keeps a ledger of what it granted.

pub(super) mod fake;
pub(super) mod random;
mod random_service;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod fake_kong;
#[cfg(test)]
mod kong;
#[cfg(test)]
mod lane;
#[cfg(test)]
mod nginx;
#[cfg(test)]
mod random_kong;
#[cfg(test)]
mod shared_calls;
#[cfg(test)]
mod work;
