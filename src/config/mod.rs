//! The configuration: JSON text in, a validated [`Plan`] out.

mod plan;

pub use plan::*;
