//! How an execution ends, and what the store is told of it: one place for every program that executes.

use crate::capture::Capture;
use crate::classify::{classify, Source};
use crate::config::OutcomeClass;
use crate::headers::Headers;
use crate::hop::{self, MayBe};
use crate::request::Request;
use idempotency_protocol::{Complete, FailCause, LookupKey, Operation, Outcome, Owner};

/// How an execution ended, as far as it is known.
#[derive(Debug)]
pub enum Ending {
    /// Nothing was sent upstream: a retry may execute, and so may a corrected request.
    NotSent,
    /// It was answered, and by the rule a retry may execute. Work may be half done.
    Failed,
    /// It was refused with a 4xx status that the rule lets be retried: nothing was done.
    Refused,
    /// It was redirected (307, 308), which is remembered for this request: nothing was done.
    Redirected(Capture),
    /// It was answered, and this is the answer.
    Completed(Capture),
    /// It may have been executed, nobody knows.
    Unknown,
}

impl Ending {
    /// What the head of an answer says. Its body is still to come. `sent`: the record and the fence that the
    /// request was forwarded with, so that a gateway of ours behind this program may have refused it.
    pub fn answered(
        request: &Request,
        sent: Option<(&LookupKey, u64)>,
        source: &Source,
        status: u16,
        headers: &Headers,
    ) -> Ending {
        match sent.and_then(|(key, fence)| hop::refusal(headers, key, fence)) {
            Some(MayBe::NotExecuted) => return Ending::NotSent,
            Some(MayBe::Executed) => return Ending::Unknown,
            None => {}
        }
        let policy = request.policy();
        let origin = request.origin();
        match classify(policy, source, status, headers) {
            OutcomeClass::Completed => {
                Ending::Completed(Capture::new(policy, status, headers, origin))
            }
            OutcomeClass::Failed if *source == Source::Unsent => Ending::NotSent,
            OutcomeClass::Failed => match status {
                307 | 308 => {
                    Ending::Redirected(Capture::of_redirect(policy, status, headers, origin))
                }
                400..=499 => Ending::Refused,
                _ => Ending::Failed,
            },
            OutcomeClass::Unknown => Ending::Unknown,
        }
    }

    /// The status of an answer that the gateway made itself for an execution that was cut: the client gets
    /// [`Request::cut`] in its place.
    pub fn is_cut(&self, source: &Source, headers: &Headers) -> Option<u16> {
        let status = headers.status().filter(|status| *status >= 400)?;
        let cut = matches!(self, Ending::Unknown) && *source == Source::Doubtful;
        // What a gateway of ours says is said.
        (cut && !headers.has(hop::REFUSAL)).then_some(status)
    }

    fn capture(&mut self) -> Option<&mut Capture> {
        match self {
            Ending::Completed(capture) | Ending::Redirected(capture) => Some(capture),
            _ => None,
        }
    }

    /// More of the answer's body.
    pub fn body(&mut self, chunk: &[u8]) {
        if let Some(capture) = self.capture() {
            capture.push(chunk);
        }
    }

    /// The answer has trailers, which a replay cannot carry: done, not replayable.
    pub fn trailers(&mut self) {
        if let Some(capture) = self.capture() {
            capture.trailers();
        }
    }

    /// A piece of the body cannot be read, so it cannot be replayed: done, not replayable.
    pub fn unreadable(&mut self) {
        if let Some(capture) = self.capture() {
            capture.unreadable();
        }
    }

    /// Whether nothing of the answer will be kept, whatever comes of it.
    pub fn keeps_nothing(&self) -> bool {
        match self {
            Ending::Completed(capture) | Ending::Redirected(capture) => capture.is_tombstone(),
            _ => true,
        }
    }

    /// The answer was cut in the middle. What its status proved stays proven; half an answer proves nothing.
    pub fn cut(self) -> Ending {
        match self {
            Ending::Completed(_) => Ending::Unknown,
            Ending::Redirected(_) => Ending::Refused,
            proven => proven,
        }
    }

    /// What the store is told: the only place where it is decided.
    pub fn end(self) -> End {
        match self {
            Ending::Completed(capture) => End::Done(capture.outcome()),
            Ending::Unknown => End::Unknown,
            Ending::NotSent => End::NotDone(FailCause::NotSent),
            Ending::Failed => End::NotDone(FailCause::Other),
            Ending::Refused => End::NotDone(FailCause::Refused),
            Ending::Redirected(capture) => End::NotDone(match capture.outcome() {
                Outcome::Response(answer) => FailCause::Redirected(Box::new(answer)),
                // Too large to be remembered, or not to be stored.
                Outcome::Tombstone(_) => FailCause::Refused,
            }),
        }
    }
}

/// What the store is told of the end of an execution.
#[derive(Debug)]
pub enum End {
    /// It is done, and this is what came out.
    Done(Outcome),
    /// A retry may execute; the cause says if it may be another request.
    NotDone(FailCause),
    /// May have been done.
    Unknown,
}

impl End {
    /// As an operation of the execution with this owner.
    pub fn operation(self, key: LookupKey, owner: Owner) -> Operation {
        match self {
            End::Done(outcome) => Operation::Complete(Complete {
                key,
                owner,
                outcome: outcome.into(),
            }),
            End::NotDone(cause) => Operation::Fail { key, owner, cause },
            End::Unknown => Operation::Abandon { key, owner },
        }
    }
}
