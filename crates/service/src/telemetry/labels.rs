//! Operations and answers as places in tables of counters.

use idempotency_protocol::{Answer, FaultCode, Operation};

/// What can be asked.
pub(super) const OPERATIONS: [&str; 8] = [
    "acquire",
    "complete",
    "fail",
    "abandon",
    "extend",
    "settle",
    "undecodable",
    "redeem",
];
/// What can be answered.
pub(super) const ANSWERS: [&str; 24] = [
    "granted",
    "stored",
    "in_flight",
    "mismatch",
    "not_comparable",
    "unknown_outcome",
    "cancelled",
    "spent",
    "completed",
    "differs",
    "failed",
    "abandoned",
    "marked",
    "extended",
    "lost",
    "refused",
    "changed",
    "timed_out",
    "ask_alone",
    "fault",
    "quota",
    "unreadable",
    "untrusted",
    "redeemed",
];

/// Which operation, as a place in the table of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpIndex(pub(super) usize);

impl OpIndex {
    pub(crate) const UNDECODABLE: OpIndex = OpIndex(6);

    pub(crate) fn of(operation: &Operation) -> OpIndex {
        OpIndex(match operation {
            Operation::Acquire(_) => 0,
            Operation::Complete(_) => 1,
            Operation::Fail { .. } => 2,
            Operation::Abandon { .. } => 3,
            Operation::Extend { .. } => 4,
            Operation::Settle(_) => 5,
            Operation::Redeem(_) => 7,
        })
    }

    /// Its place in [`OPERATIONS`].
    pub(super) fn place(self) -> usize {
        self.0
    }

    #[cfg(test)]
    pub(super) fn at(place: usize) -> OpIndex {
        OpIndex(place)
    }

    pub(crate) fn name(self) -> &'static str {
        OPERATIONS.get(self.0).copied().unwrap_or("undecodable")
    }
}

/// The place of an answer in [`ANSWERS`].
pub(super) fn answer_index(answer: &Answer) -> usize {
    match answer {
        Answer::Granted(_) => 0,
        Answer::Stored(_) => 1,
        Answer::InFlight { .. } => 2,
        Answer::Mismatch => 3,
        Answer::NotComparable => 4,
        Answer::UnknownOutcome { .. } => 5,
        Answer::Cancelled => 6,
        Answer::Spent => 7,
        Answer::Completed { .. } => 8,
        Answer::Differs => 9,
        Answer::Failed => 10,
        Answer::Abandoned => 11,
        Answer::Marked => 12,
        Answer::Extended { .. } => 13,
        Answer::Lost => 14,
        Answer::Refused => 15,
        Answer::Changed => 16,
        Answer::TimedOut => 17,
        Answer::AskAlone => 18,
        // No fault of anybody's: it must not ring the same alert.
        Answer::Fault(fault) if fault.code == FaultCode::Quota => 20,
        Answer::Unreadable { .. } => 21,
        // Somebody must change the store's settings.
        Answer::Fault(fault) if fault.code == FaultCode::Untrusted => 22,
        Answer::Fault(_) => 19,
        Answer::Redeemed { .. } => 23,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Fault;

    #[test]
    fn indexes_and_names_agree() {
        let fault = Fault {
            code: FaultCode::Internal,
            detail: String::new(),
        };
        for answer in [
            Answer::Mismatch,
            Answer::InFlight {
                fence: 0,
                lease_left_ms: 0,
            },
            Answer::Completed { expires_at_ms: 0 },
            Answer::Extended { lease_ms: 0 },
            Answer::Lost,
            Answer::TimedOut,
            Answer::AskAlone,
            Answer::Unreadable {
                status: 0,
                fence: 0,
                attempt: 0,
                expires_at_ms: 0,
            },
            Answer::Redeemed { lease_left_ms: 0 },
            Answer::Fault(fault),
        ] {
            assert_eq!(ANSWERS[answer_index(&answer)], answer.name());
        }
        let quota = idempotency_store::Quota::Bytes.refusal();
        assert_eq!(ANSWERS[answer_index(&quota)], "quota");
    }
}
