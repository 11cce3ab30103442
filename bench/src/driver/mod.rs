//! What the filter itself does for one request, without Envoy and without a quiet machine: the glue
//! and the state machines run natively against a host in memory.

mod drive;
mod host;

pub use drive::{Driver, Kind, TICK_EVERY};
pub use host::Memory;
