//! From a stored outcome to an answer: the last step of a backend that was told
//! [`Reply::Replay`](crate::machine::Reply::Replay).

use crate::machine::{Event, Replay};
use crate::record::StoredOutcome;
use crate::store::StoreError;
use idempotency_protocol::{Answer, CarriedOutcome, Fault, FaultCode, Outcome, Stored};

/// The answer that replays `found`, whose data must be at hand. Data that is damaged, or is not there, stays so:
/// the execution is done, and nobody can say with which answer. It is never "nothing stored", which would execute
/// again. A backend that could not read for the moment answers with a fault instead.
pub fn answer(found: Replay) -> Answer {
    match found.outcome.data.clone().map(CarriedOutcome::decode) {
        Some(Ok(outcome)) => Answer::Stored(Stored {
            outcome,
            fence: found.fence,
            attempt: found.attempt,
            age_ms: found.age_ms,
            expires_at_ms: found.expires_at_ms,
        }),
        Some(Err(_)) | None => unreadable(&found),
    }
}

/// A stored outcome, whose data must be at hand, for an operator.
///
/// # Errors
///
/// [`StoreError::Permanent`] if its data is damaged, or is not there.
pub fn outcome(stored: StoredOutcome) -> Result<Outcome, StoreError> {
    match stored.data.map(Outcome::decode) {
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(_)) | None => {
            let message = "the stored answer is damaged, or is not there".to_owned();
            Err(StoreError::Permanent(message))
        }
    }
}

/// Done, and what is stored cannot be read, now or ever.
pub fn unreadable(found: &Replay) -> Answer {
    Answer::Unreadable {
        status: found.outcome.status,
        fence: found.fence,
        attempt: found.attempt,
        expires_at_ms: found.expires_at_ms,
    }
}

/// The answer to an event on a record that this build cannot read whole: a later release wrote it, or it is
/// damaged. Such a record is never rewritten, and its key is never granted.
pub fn illegible(event: &Event) -> Answer {
    match event {
        Event::Acquire(_) => Answer::NotComparable,
        Event::Complete { .. }
        | Event::Fail { .. }
        | Event::Abandon { .. }
        | Event::Extend { .. }
        | Event::Settle { .. }
        | Event::Redeem { .. } => damaged("the record cannot be read by this version".to_owned()),
    }
}

/// A record that could not be read for the moment. Never [`FaultCode::Unavailable`], which a rule may let pass: what
/// could not be read may be a result.
pub fn unread(error: &StoreError) -> Answer {
    damaged(error.to_string())
}

/// The answer to an operation on a record that is there but cannot be read. `detail` says what is
/// wrong with it, for the log.
pub fn damaged(detail: String) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Internal,
        detail,
    })
}
