//! From a stored outcome to an answer.

use crate::machine::Replay;
use idempotency_protocol::{Answer, Fault, FaultCode, Outcome, Stored};

/// The answer that replays `found`, whose data must be at hand. Data that cannot be read is a
/// fault, never "nothing stored": that would execute again.
pub(crate) fn answer(found: Replay) -> Answer {
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

/// A record that is there but cannot be read.
pub(crate) fn damaged(detail: String) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Internal,
        detail,
    })
}
