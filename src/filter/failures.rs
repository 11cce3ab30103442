//! Calls that failed, told to the operator: one line for each kind in a while, with how many were left
//! out. A wrong token or address must not be silent, and an outage must not fill a disk.

use crate::call::{CallFailed, FailureReason};

/// How long nothing is told of a kind after a line about it.
const PAUSE_NS: u64 = 10_000_000_000;

/// What was told of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// When the last line was written; `None`: never.
    at_ns: Option<u64>,
    /// How many calls have failed since.
    left_out: u64,
}

/// What was told, by kind.
#[derive(Debug, Default)]
pub(super) struct Failures([Told; FailureReason::ALL.len()]);

impl Failures {
    /// A call has failed: the line to be written now, if one is due.
    pub fn note(&mut self, failed: CallFailed, now_ns: u64) -> Option<String> {
        let reason = failed.reason();
        let place = FailureReason::ALL.iter().position(|r| *r == reason)?;
        let told = self.0.get_mut(place)?;
        let quiet = |at: u64| now_ns.saturating_sub(at) < PAUSE_NS;
        if told.at_ns.is_some_and(quiet) {
            told.left_out = told.left_out.saturating_add(1);
            return None;
        }
        told.at_ns = Some(now_ns);
        let line = format!("idempotency: a call to the service failed: {failed}");
        match std::mem::take(&mut told.left_out) {
            0 => Some(line),
            more => Some(format!("{line} ({more} more since the last such line)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_at_once_and_then_once_in_a_while() {
        let mut failures = Failures::default();
        let mut note = |failed, now_ns| failures.note(failed, now_ns);
        let first = note(CallFailed::Status(401), 5).expect("a line");
        assert!(first.contains("service.token"), "{first}");
        assert_eq!(note(CallFailed::Status(401), 6), None);
        assert_eq!(note(CallFailed::Status(503), 7), None);
        assert!(note(CallFailed::Unanswered, 7).is_some());
        assert!(note(CallFailed::Undecodable, 7).is_some());
        assert!(note(CallFailed::NotSent, 7).is_some());
        let later = note(CallFailed::Status(503), 5 + PAUSE_NS).expect("a line");
        assert!(
            later.contains("503") && later.contains("(2 more"),
            "{later}"
        );
    }
}
