//! What clients do: rules, and seeded scripts of operations on one key each.

mod behaviour;
mod rules;
mod script;

pub use behaviour::{Behaviour, Class, Reset};
pub use rules::{Rule, Rules, HOP};
pub use script::{Attempt, Http, Leave, Script, Scripts};
