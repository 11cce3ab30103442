//! Inline execution: the request went on through the filter chain, and its response streams by.

use super::{call, refuse_unannounced, Effect, Env, Flow, State, Step};
use crate::call::CallResult;
use crate::lease::Lease;
use crate::profile::Profile;
use crate::settlement::{self, Settled};
use crate::stats::Counter;
use idempotency_core::capture::Capture;
use idempotency_core::classify::{classify, Source};
use idempotency_core::config::OutcomeClass;
use idempotency_core::headers::Headers;
use idempotency_core::problem::Problem;
use idempotency_core::reply;
use idempotency_core::request::Request;
use idempotency_protocol::Operation;
use std::sync::Arc;

/// Responses of known length up to this are held whole: the client sees nothing before the record
/// is stored, and the record's expiry can travel in a header. Well below any host's buffer limit.
const HOLD_LIMIT: u64 = 64 * 1024;

/// A running execution.
#[derive(Debug)]
pub(super) struct Run {
    pub request: Arc<Request>,
    pub lease: Lease,
}

/// What the client has seen of the response when the settlement goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    Whole,
    /// All but the end.
    End,
}

/// A response that is streaming by.
#[derive(Debug)]
pub(super) struct Capturing {
    run: Run,
    class: OutcomeClass,
    capture: Option<Capture>,
    held: Held,
    /// What is left of `content-length`. A client is done when it has all of that, so the piece
    /// that reaches it is held back, not only the empty last call (measured).
    left: Option<u64>,
}

/// A response whose end waits for the settlement's answer.
#[derive(Debug)]
pub(super) struct Settling {
    run: Run,
    operation: Operation,
    held: Held,
}

impl Run {
    pub(super) fn response(
        self,
        headers: &Headers,
        source: &Source,
        end: bool,
        env: &mut Env,
    ) -> Step {
        let policy = self.request.policy();
        let status = headers.status().unwrap_or(0);
        let class = classify(policy, source, status, headers);
        let capture = (class == OutcomeClass::Completed)
            .then(|| Capture::new(policy, status, headers, self.request.origin()));
        for (name, _) in &headers.0 {
            if reply::is_ours(&self.request.settings.policies, name) {
                env.effect(Effect::RemoveResponseHeader(name.clone()));
            }
        }
        let left = headers.content_length();
        let held = match left {
            Some(length) if length <= HOLD_LIMIT => Held::Whole,
            _ if end => Held::Whole,
            _ => Held::End,
        };
        let capturing = Box::new(Capturing {
            run: self,
            class,
            capture,
            held,
            left,
        });
        if end {
            return capturing.settle(env);
        }
        let flow = if held == Held::Whole && Capturing::can_hold(env) {
            Flow::Pause
        } else {
            Flow::Continue
        };
        (State::Capturing(capturing), flow)
    }

    /// It was never sent, and must not be: its fingerprint was made without the body.
    pub(super) fn unannounced(&self, env: &mut Env) -> Step {
        env.effect(Effect::Untrack(self.lease.owner));
        env.effect(Effect::Background(self.lease.fail()));
        refuse_unannounced(&self.request, env)
    }

    /// The stream ended before there was an answer: it may have been executed.
    pub(super) fn cut_off(&self, env: &mut Env) {
        env.effect(Effect::Untrack(self.lease.owner));
        env.effect(Effect::Background(self.lease.abandon()));
    }
}

impl Capturing {
    pub(super) fn body(mut self: Box<Self>, chunk: &[u8], end: bool, env: &mut Env) -> Step {
        if let Some(capture) = &mut self.capture {
            capture.push(chunk);
        }
        if end {
            return self.settle(env);
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
        }
        if !Self::can_hold(env) {
            // The host does not always say that a body is whole.
            if self.left == Some(0) {
                return self.settle(env);
            }
            return (State::Capturing(self), Flow::Continue);
        }
        let hold = self.held == Held::Whole || self.left == Some(0);
        (
            State::Capturing(self),
            if hold { Flow::Pause } else { Flow::Continue },
        )
    }

    /// Whether the host lets a response wait, and calls be made meanwhile.
    fn can_hold(env: &Env) -> bool {
        env.profile == Profile::Envoy
    }

    /// What cannot be read cannot be replayed: done, with a tombstone.
    pub(super) fn unreadable(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.unreadable();
        }
    }

    pub(super) fn trailers(mut self: Box<Self>, env: &mut Env) -> Step {
        if let Some(capture) = &mut self.capture {
            capture.trailers();
        }
        self.settle(env)
    }

    fn settle(self: Box<Self>, env: &mut Env) -> Step {
        let can_hold = Self::can_hold(env);
        let Capturing {
            run,
            class,
            capture,
            held,
            ..
        } = *self;
        let operation = settlement::operation(&run.lease, class, capture);
        env.effect(Effect::Untrack(run.lease.owner));
        if !can_hold {
            env.effect(Effect::Background(operation));
            return (State::Answered, Flow::Continue);
        }
        env.effect(call(operation.clone()));
        (
            State::Settling(Box::new(Settling {
                run,
                operation,
                held,
            })),
            Flow::Pause,
        )
    }

    /// Cut in the middle. What the status proved stays proven; a half answer proves nothing.
    pub(super) fn cut_off(self: Box<Self>, env: &mut Env) {
        env.effect(Effect::Untrack(self.run.lease.owner));
        env.effect(Effect::Background(settlement::operation(
            &self.run.lease,
            self.class,
            None,
        )));
    }
}

impl Settling {
    pub(super) fn settled(self: Box<Self>, result: &CallResult, env: &mut Env) -> Step {
        let settled = Settled::read(result);
        if let Some(counter) = settled.counter(&self.operation) {
            env.count(counter);
        }
        let policy = self.run.request.policy();
        let withhold = settled.withhold(&self.operation, policy.on_complete_failure);
        if settled == Settled::Unanswered {
            env.effect(Effect::Background(self.operation));
        }
        if !withhold {
            if let (
                Settled::Recorded {
                    expires_at_ms: Some(at),
                },
                Held::Whole,
            ) = (settled, self.held)
            {
                let (name, value) = reply::expires(at);
                env.effect(Effect::AddResponseHeader(name, value));
            }
            env.effect(Effect::ResumeResponse);
            return (State::Answered, Flow::Pause);
        }
        let problem = Problem::OutcomeUnrecorded;
        env.count(Counter::Problem(problem));
        env.effect(match self.held {
            Held::Whole => Effect::Reply(self.run.request.problem(problem, None)),
            Held::End => Effect::Reset,
        });
        (State::Answered, Flow::Pause)
    }
}
