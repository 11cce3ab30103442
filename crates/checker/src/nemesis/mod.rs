//! The nemesis: what goes wrong, when, and doing it.

mod act;
mod plan;

pub use act::run;
pub use plan::{Episode, Plan, Planned, Topology};
