//! How the service took the end of an execution.

use idempotency_protocol::{Answer, FaultCode};

/// How the service took a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// As asked.
    Recorded {
        /// When the record is forgotten; known for stored outcomes.
        expires_at_ms: Option<u64>,
    },
    /// Refused, or the key belongs to another execution: asking again is pointless.
    Refused,
    /// No usable answer: ask again.
    Unanswered,
}

impl Settled {
    /// Reads the service's answer. What came of a call without one (`Err`) is the host's own type.
    pub fn read<E>(result: &Result<Answer, E>) -> Settled {
        match result {
            Ok(Answer::Completed { expires_at_ms }) => Settled::Recorded {
                expires_at_ms: Some(*expires_at_ms),
            },
            Ok(Answer::Failed | Answer::Abandoned | Answer::Marked) => Settled::Recorded {
                expires_at_ms: None,
            },
            Ok(Answer::Lost | Answer::Differs | Answer::Refused) => Settled::Refused,
            Ok(Answer::Fault(fault)) if fault.code == FaultCode::Invalid => Settled::Refused,
            _ => Settled::Unanswered,
        }
    }
}
