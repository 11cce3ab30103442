//! What a consumer is told.

use crate::claim::Claim;
use crate::error::{Error, SettleError};
use crate::outcome::{Done, Outcome};
use idempotency_core::ending::End;
use std::fmt;
use std::time::Duration;

/// What to do with a delivery.
#[derive(Debug)]
#[must_use = "a message is acknowledged, delivered again or put aside: the verdict says which"]
pub enum Verdict {
    /// The handler has run, and that is recorded: acknowledge.
    Done,
    /// It was done before, or put aside before: acknowledge.
    Duplicate(Done),
    /// Not now: deliver it again, and nothing behind it in its partition before.
    Retry(Retry),
    /// Put it aside, say [`DeadLetter::sent`], and acknowledge it.
    DeadLetter(DeadLetter),
}

/// A delivery that has to be repeated.
#[derive(Debug)]
pub struct Retry {
    /// How long to wait.
    pub after: Duration,
    /// Why.
    pub why: Why,
}

/// Why a delivery has to be repeated.
#[derive(Debug)]
#[non_exhaustive]
pub enum Why {
    /// Another consumer executes it, or has died doing so and its lease is not over. Not counted as an attempt.
    InFlight,
    /// The handler failed, in the attempt with this number.
    Failed {
        /// 1 for the first.
        number: u32,
        /// What the handler said.
        error: String,
    },
    /// Nobody knows what the handler did; the next delivery meets what [`OnUnknown`](super::OnUnknown) says.
    Unknown {
        /// What the handler said.
        error: String,
    },
    /// The store does not answer, or refuses. Nothing was run.
    Store(Error),
    /// The handler has run, and its end is not recorded (as it was told): the next delivery finds what counts.
    NotRecorded(SettleError),
}

/// Why a message is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// All its attempts failed, or ended with the consumer.
    Poison {
        /// How many there were.
        attempts: u32,
    },
    /// The handler has said that it will never succeed.
    Rejected,
    /// Its id was used before, for another content.
    OtherContent,
    /// Its id was used before, and nobody can tell if for the same content: its fingerprint was made in another way.
    NotComparable,
    /// It may have been done, and it must not be done twice.
    Unknown,
    /// It has no id.
    NoId,
}

impl Reason {
    /// A name for headers and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Poison { .. } => "poison",
            Reason::Rejected => "rejected",
            Reason::OtherContent => "other-content",
            Reason::NotComparable => "not-comparable",
            Reason::Unknown => "outcome-unknown",
            Reason::NoId => "no-id",
        }
    }
}

/// A message that is to be put aside.
///
/// Say [`sent`](DeadLetter::sent) when it is kept elsewhere: from then on its redeliveries are duplicates. Dropped
/// before, it is put aside again at its next delivery, without being run. Messages whose record belongs to another
/// one ([`Reason::OtherContent`], [`Reason::NotComparable`]), or must stay as it is for an operator
/// ([`Reason::Unknown`]), are put aside at each delivery: a reader of dead letters can see those twice.
#[must_use = "a dead letter has to be kept elsewhere before it is acknowledged"]
pub struct DeadLetter {
    reason: Reason,
    error: Option<String>,
    /// Held until it is kept elsewhere; let go, it has failed.
    claim: Option<Claim>,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("reason", &self.reason)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl DeadLetter {
    pub(super) fn new(reason: Reason, error: Option<String>, claim: Option<Claim>) -> DeadLetter {
        DeadLetter {
            reason,
            error,
            claim,
        }
    }

    pub(super) fn with_error(mut self, error: String) -> DeadLetter {
        self.error = Some(error);
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What the handler said, if it ran in this delivery.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// It is kept elsewhere. Waits until that is recorded.
    ///
    /// # Errors
    ///
    /// As [`Execution::complete`](crate::Execution::complete). The message can be acknowledged all the same; if it is
    /// not, it may be put aside once more.
    pub async fn sent(self) -> Result<(), SettleError> {
        let Some(claim) = self.claim else {
            return Ok(());
        };
        let fact = serde_json::json!({"dead_letter": self.reason.name(), "error": self.error});
        // 422, as HTTP says it of a request that is understood and cannot be processed.
        let refused = |error: Error| SettleError::StoreFailed(error.to_string());
        let outcome = Outcome::json(422, &fact).map_err(refused)?;
        claim.end(End::Done(outcome.0)).await.result().map(drop)
    }
}
