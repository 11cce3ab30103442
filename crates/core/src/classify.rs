//! What an answer to an executed request means for its key.

use crate::config::{OutcomeClass, Policy};
use crate::headers::Headers;

/// Who made an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Provably the upstream.
    Upstream,
    /// The gateway itself, and provably no byte of the request had been sent.
    Unsent,
    /// The gateway itself, or nobody can tell: the request may have been executed.
    Doubtful,
}

/// What the answer means. An answer that the upstream did not make is `Completed` only where the configuration names
/// its status.
pub fn classify(policy: &Policy, source: &Source, status: u16, headers: &Headers) -> OutcomeClass {
    match source {
        Source::Upstream => policy.outcomes.class(status, headers.has("retry-after")),
        Source::Unsent => policy.outcomes.class_of_local(status),
        Source::Doubtful => OutcomeClass::Unknown,
    }
}
