//! Histories written by hand, good and bad, and what the model must say of each.

mod answers;
mod doubt;
mod executions;
mod identity;
mod story;
