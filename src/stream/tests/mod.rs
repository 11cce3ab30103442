//! The state machine of one request: [`table`] tries every cell of the table at the top of `stream`; the others follow one
//! subject through several states. [`bench`] brings a stream into a state.

mod behaviour;
mod bench;
mod endings;
mod hops;
mod table;
