//! From a stored outcome to an answer: the last step of a backend that was told
//! [`Reply::Replay`](crate::machine::Reply::Replay).

use crate::machine::Replay;
use idempotency_protocol::{Answer, Fault, FaultCode, Outcome, Stored};

/// The answer that replays `found`, whose data must be at hand: a backend that keeps it apart
/// from the slot reads it first. Data that is missing or cannot be read is a fault, never "nothing
/// stored": that would execute again.
pub fn answer(found: Replay) -> Answer {
    let outcome = found.outcome.data.map(Outcome::decode);
    match outcome {
        Some(Ok(outcome)) => Answer::Stored(Stored {
            outcome,
            fence: found.fence,
            attempt: found.attempt,
            age_ms: found.age_ms,
            expires_at_ms: found.expires_at_ms,
        }),
        Some(Err(error)) => damaged(format!("stored outcome cannot be read: {error}")),
        None => damaged("stored outcome is missing".to_owned()),
    }
}

/// The answer to an operation on a record that is there but cannot be read. `detail` says what is
/// wrong with it, for the log.
pub fn damaged(detail: String) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Internal,
        detail,
    })
}
