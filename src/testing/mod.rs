//! What native tests share: the rules of hosts that cannot be run in every test. Built for tests
//! of this package and behind the feature `testing`, never into the wasm.

pub mod kong_reply;
pub mod kong_rules;
mod lookups;
