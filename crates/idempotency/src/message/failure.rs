//! What a handler says when it did not succeed.

use std::fmt;

/// Why a handler did not succeed, and what that means for the message. Every error becomes
/// [`Failure::again`] by `?`.
///
/// ```
/// use idempotency::message::Failure;
///
/// fn book(payload: &str) -> Result<u32, Failure> {
///     let amount: i64 = payload.parse()?; // again
///     u32::try_from(amount).map_err(|_| Failure::reject("an amount below zero is nothing to book"))
/// }
/// assert!(!book("x").unwrap_err().is_rejection());
/// assert!(book("-1").unwrap_err().is_rejection());
/// ```
pub struct Failure {
    pub(super) kind: FailureMeaning,
    pub(super) error: String,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureMeaning {
    Again,
    Reject,
    Unknown,
}

impl Failure {
    /// It may be run again: it did nothing, or what it did can be done twice. After the last attempt the message is
    /// put aside.
    pub fn again(error: impl fmt::Display) -> Failure {
        Failure::new(FailureMeaning::Again, &error)
    }

    /// No attempt will ever succeed, for example since the message cannot be read: it is put aside at once.
    pub fn reject(error: impl fmt::Display) -> Failure {
        Failure::new(FailureMeaning::Reject, &error)
    }

    /// It may have been done, for example since the answer of another system was lost: what
    /// [`OnUnknown`](super::OnUnknown) says. The same as a panic.
    pub fn unknown(error: impl fmt::Display) -> Failure {
        Failure::new(FailureMeaning::Unknown, &error)
    }

    fn new(kind: FailureMeaning, error: &dyn fmt::Display) -> Failure {
        Failure {
            kind,
            error: error.to_string(),
        }
    }

    /// Whether the message is put aside at once.
    pub fn is_rejection(&self) -> bool {
        self.kind == FailureMeaning::Reject
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.error)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        // With its causes: a dead letter is read where the program is not at hand.
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        Failure {
            kind: FailureMeaning::Again,
            error: text,
        }
    }
}
