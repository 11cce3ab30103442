//! Walks the table of states × events: for each cell, what the host is told, what is to be done,
//! and the state after it.

mod decision;
mod execution;
mod in_kong;
