//! A real browser and real client libraries in front of the gateway. `scripts/get-clients.sh` installs them;
//! one that is not there is said to be left out, and fails the test under `CI=true`.
#![forbid(unsafe_code)]

#[macro_use]
extern crate idempotency_e2e;

mod browser;
mod resume;
mod retries;
mod stripe;
mod tools;
