//! How an execution's end is told to the service, and what its answer means for the client.

use crate::call::CallResult;
use crate::lease::Lease;
use crate::stats::Counter;
use idempotency_core::capture::Capture;
use idempotency_core::config::{OnCompleteFailure, OutcomeClass};
use idempotency_protocol::{Answer, Complete, FaultCode, Operation};

/// The operation that ends an execution. A capture exists only for `Completed`.
pub fn operation(lease: &Lease, class: OutcomeClass, capture: Option<Capture>) -> Operation {
    match (class, capture) {
        (OutcomeClass::Completed, Some(capture)) => Operation::Complete(Complete {
            key: lease.key.clone(),
            owner: lease.owner,
            outcome: capture.outcome(),
        }),
        (OutcomeClass::Failed, _) => lease.fail(),
        _ => lease.abandon(),
    }
}

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
    /// Reads the service's answer.
    pub fn read(result: &CallResult) -> Settled {
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

    /// What is counted.
    pub fn counter(self, operation: &Operation) -> Option<Counter> {
        Some(match (self, operation) {
            (Settled::Recorded { .. }, Operation::Complete(_)) => Counter::Completed,
            (Settled::Recorded { .. }, Operation::Fail { .. }) => Counter::Failed,
            (Settled::Recorded { .. }, Operation::Abandon { .. }) => Counter::Unknown,
            (Settled::Refused, Operation::Complete(_)) => Counter::CompleteRefused,
            (Settled::Unanswered, Operation::Complete(_)) => Counter::CompleteUnanswered,
            _ => return None,
        })
    }

    /// Whether the client may have the answer.
    pub fn withhold(self, operation: &Operation, policy: OnCompleteFailure) -> bool {
        matches!(operation, Operation::Complete(_))
            && policy == OnCompleteFailure::Withhold
            && !matches!(self, Settled::Recorded { .. })
    }
}
