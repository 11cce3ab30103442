//! What the benches share: the machine, the placing of processes, what they use, and how numbers
//! are summed up and drawn. It must never know what is measured; each bench is a program of its own in this package.
#![forbid(unsafe_code)]

pub mod cores;
pub mod driver;
pub mod machine;
pub mod spread;
pub mod svg;
pub mod usage;
pub mod wrk;
