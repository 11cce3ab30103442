//! How an execution ends, and what the service is told of it: one place for executions that went on through
//! the filter chain, for detached ones, and for those that are only observed.

use crate::lease::Lease;
use crate::profile::Profile;
use crate::stream::Effect;
use idempotency_core::capture::Capture;
use idempotency_core::classify::{classify, Source};
use idempotency_core::config::OutcomeClass;
use idempotency_core::headers::Headers;
use idempotency_core::hop::{self, MayBe};
use idempotency_core::request::Request;
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
    /// What the head of an answer says. Its body is still to come. `lease`: under which the request was
    /// forwarded, so that a gateway of ours behind this one may have refused it.
    pub fn answered(
        request: &Request,
        lease: Option<&Lease>,
        source: &Source,
        headers: &Headers,
    ) -> Ending {
        match lease.and_then(|lease| hop::refusal(headers, &lease.key, lease.fence)) {
            Some(MayBe::NotExecuted) => return Ending::NotSent,
            Some(MayBe::Executed) => return Ending::Unknown,
            None => {}
        }
        let policy = request.policy();
        let status = headers.status().unwrap_or(0);
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

    /// The answer was cut in the middle. What its status proved stays proven; half an answer proves nothing.
    fn cut(self) -> Ending {
        match self {
            Ending::Completed(_) => Ending::Unknown,
            Ending::Redirected(_) => Ending::Refused,
            proven => proven,
        }
    }

    /// What the service is told: the only place where it is decided.
    pub fn operation(self, key: &LookupKey, owner: Owner) -> Operation {
        let key = key.clone();
        let cause = match self {
            Ending::Completed(capture) => {
                return Operation::Complete(Complete {
                    key,
                    owner,
                    outcome: capture.outcome(),
                })
            }
            Ending::Unknown => return Operation::Abandon { key, owner },
            Ending::NotSent => FailCause::NotSent,
            Ending::Failed => FailCause::Other,
            Ending::Refused => FailCause::Refused,
            Ending::Redirected(capture) => match capture.outcome() {
                Outcome::Response(answer) => FailCause::Redirected(Box::new(answer)),
                // Too large to be remembered, or not to be stored.
                Outcome::Tombstone(_) => FailCause::Refused,
            },
        };
        Operation::Fail { key, owner, cause }
    }

    /// Ends the execution that holds a lease: it is renewed no more. What the service is to be told.
    pub fn settle(self, lease: &Lease, effects: &mut Vec<Effect>) -> Operation {
        effects.push(Effect::Untrack(lease.owner));
        self.operation(&lease.key, lease.owner)
    }
}

/// An answer that passes the filter.
#[derive(Debug)]
pub struct Passing {
    ending: Ending,
    /// What is left of `content-length`.
    left: Option<u64>,
    over: bool,
}

impl Passing {
    /// The head has come. `end`: there is no body.
    pub fn begin(
        request: &Request,
        lease: Option<&Lease>,
        source: &Source,
        headers: &Headers,
        end: bool,
    ) -> Passing {
        Passing {
            ending: Ending::answered(request, lease, source, headers),
            left: headers.content_length(),
            over: end,
        }
    }

    /// More of the body. `end`: nothing follows, not even trailers.
    pub fn body(&mut self, chunk: &[u8], end: bool, profile: Profile) {
        self.ending.body(chunk);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
        }
        // Kong's host does not always say that a body is whole.
        self.over |= end || profile == Profile::Kong && self.left == Some(0);
    }

    /// There are trailers: the body is over.
    pub fn trailers(&mut self) {
        self.ending.trailers();
        self.over = true;
    }

    /// A piece of the body cannot be read.
    pub fn unreadable(&mut self) {
        self.ending.unreadable();
    }

    /// How it ends, as far as it has come.
    pub fn so_far(&self) -> &Ending {
        &self.ending
    }

    /// What is left of `content-length`.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether nothing of it is to come.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// How the execution ended. An answer that is not over will never be: it was cut.
    pub fn ending(self) -> Ending {
        match self.over {
            true => self.ending,
            false => self.ending.cut(),
        }
    }
}
