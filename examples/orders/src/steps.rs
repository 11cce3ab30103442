//! For the test that kills this example at every step. Leave it out of what you copy.

use rustix::process::{getpid, kill_process, Signal};

/// All steps at which the test kills.
pub const SERVICE: [&str; 5] = ["acquired", "inserted", "committed", "read-outbox", "sent"];
/// The same, of the billing consumer.
pub const BILLING: [&str; 4] = ["delivered", "booked", "completed", "booking-committed"];

/// Ends this process as `kill -9` does, if `DIE_AT` names this step.
pub fn reached(step: &str) {
    if std::env::var("DIE_AT").is_ok_and(|at| at == step) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
