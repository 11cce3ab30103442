//! Observe mode: fingerprint, acquire, complete, count what *would* have been answered, change
//! nothing. The request is never held, so its answer and the service's come in any order.

use super::{call, Effect, Env, Event};
use crate::call::CallResult;
use crate::ending::{settle, Ending, Passing};
use crate::lease::Lease;
use crate::note::Note;
use crate::stats::Counter;
use idempotency_core::fingerprint::Hasher;
use idempotency_core::problem::Problem;
use idempotency_core::request::{Identity, Request};
use idempotency_protocol::{Answer, FaultCode, Outcome};
use std::borrow::Cow;
use std::sync::Arc;

#[derive(Debug)]
enum Right {
    /// Not asked yet, refused, or given back.
    None,
    /// The acquire is out.
    Asked(Lease),
    /// Granted.
    Held(Lease),
}

#[derive(Debug)]
pub(super) struct Observing {
    request: Arc<Request>,
    hasher: Option<Hasher>,
    seen: usize,
    right: Right,
    response: Option<Passing>,
    gone: bool,
    /// The fingerprint that was asked with is not the request's.
    mistaken: bool,
}

impl Observing {
    pub fn new(request: Arc<Request>, hasher: Hasher) -> Self {
        Observing {
            request,
            hasher: Some(hasher),
            seen: 0,
            right: Right::None,
            response: None,
            gone: false,
            mistaken: false,
        }
    }

    /// The stream has gone, and the answer that would have decided about it is still to be counted.
    pub fn lingers(&self) -> bool {
        self.gone && matches!(self.right, Right::Asked(_))
    }

    pub fn on(&mut self, event: Event, env: &mut Env) {
        match event {
            Event::RequestBody { chunk, end } => {
                self.seen = self.seen.saturating_add(chunk.len());
                if self.seen > self.request.policy().max_body_bytes {
                    if self.hasher.take().is_some() {
                        self.tell(Problem::BodyTooLarge, "", env);
                    }
                    return;
                }
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(chunk);
                }
                if end {
                    self.ask(env);
                }
            }
            Event::Unreadable => match &mut self.response {
                Some(response) => response.unreadable(),
                None => self.hasher = None,
            },
            // It was asked for without the body; what comes of it must not be kept.
            Event::UnannouncedBody => {
                self.tell(Problem::UnsupportedRequest, "a body without a length", env);
                self.mistaken = true;
            }
            Event::RequestTrailers(trailers) => {
                if self.request.unwelcome_trailer(&trailers).is_some() {
                    self.tell(
                        Problem::UnsupportedRequest,
                        "a trailer that must not be one",
                        env,
                    );
                    self.hasher = None;
                }
                self.ask(env);
            }
            Event::Answer(result) => self.answered(result, env),
            Event::ResponseHeaders {
                headers,
                source,
                end,
            } => {
                let response = Passing::begin(&self.request, None, &source, &headers, end);
                self.response = Some(response);
                self.settle(env);
            }
            Event::ResponseBody { chunk, end } => {
                if let Some(response) = &mut self.response {
                    response.body(chunk, end, env.profile);
                }
                self.settle(env);
            }
            Event::ResponseTrailers => {
                if let Some(response) = &mut self.response {
                    response.trailers();
                }
                self.settle(env);
            }
            Event::Gone => {
                self.gone = true;
                self.settle(env);
            }
            Event::Executed(_) | Event::Settled(..) | Event::BodiesNeverCome => {}
        }
    }

    fn ask(&mut self, env: &mut Env) {
        let Some(hasher) = self.hasher.take() else {
            return;
        };
        let (key, fingerprint) = match self.request.identify(hasher) {
            Identity::Known(key, fingerprint) => (key, fingerprint),
            Identity::Refused(problem, detail) => return self.tell(problem, detail, env),
            Identity::Pass => return,
        };
        let Some(owner) = (env.new_owner)() else {
            return self.tell(
                Problem::Misconfigured,
                "the host gives no random numbers",
                env,
            );
        };
        let gateway = env.profile.name();
        let acquire = self
            .request
            .acquire(key.clone(), owner, fingerprint, gateway);
        env.effect(call(Box::new(acquire)));
        let lease_ms = self.request.policy().lease_ms;
        self.right = Right::Asked(Lease {
            key: Arc::new(key),
            owner,
            // Nothing of it is told to anybody behind this gateway.
            fence: 0,
            lease_ms,
            since_ns: env.sent().most_ns,
        });
    }

    /// It would have been refused.
    fn tell(&self, problem: Problem, why: impl Into<Cow<'static, str>>, env: &mut Env) {
        let note = Note::of(&self.request, Counter::Observed(problem));
        env.effect(Effect::Note(note.because(why)));
    }

    fn answered(&mut self, result: CallResult, env: &mut Env) {
        let right = std::mem::replace(&mut self.right, Right::None);
        let Right::Asked(mut lease) = right else {
            return;
        };
        let key = Arc::clone(&lease.key);
        let (mut fence, mut status, mut why) = (0, None, String::new());
        let counter = match result {
            Ok(Answer::Granted(grant)) => {
                fence = grant.fence;
                lease.lease_ms = grant.lease_ms;
                env.effect(Effect::Track(lease.clone()));
                self.right = Right::Held(lease);
                Counter::ObservedExecution
            }
            Ok(Answer::Stored(stored)) => {
                fence = stored.fence;
                match &*stored.outcome {
                    Outcome::Response(response) => {
                        status = Some(response.status);
                        Counter::ObservedReplay
                    }
                    Outcome::Tombstone(_) => Counter::Observed(Problem::NotReplayable),
                }
            }
            Ok(Answer::Unreadable { .. }) => Counter::Observed(Problem::NotReplayable),
            Ok(Answer::InFlight { fence: other, .. }) => {
                fence = other;
                Counter::Observed(Problem::InFlight)
            }
            Ok(Answer::Mismatch) => Counter::Observed(Problem::KeyReused),
            Ok(Answer::NotComparable) => Counter::Observed(Problem::NotComparable),
            Ok(Answer::UnknownOutcome { .. }) => Counter::Observed(Problem::OutcomeUnknown),
            Ok(Answer::Fault(fault)) if fault.code == FaultCode::Quota => {
                Counter::Observed(Problem::TenantQuota)
            }
            other => {
                why = match other {
                    Ok(Answer::Fault(fault)) => fault.to_string(),
                    Err(failed) => failed.to_string(),
                    Ok(_) => why,
                };
                // It may have been granted all the same; its outcome will tell the record.
                self.right = Right::Held(lease);
                Counter::Observed(Problem::StoreUnavailable)
            }
        };
        let mut note = Note::of(&self.request, counter)
            .about(&key, fence)
            .because(why);
        note.status = status.unwrap_or(note.status);
        env.effect(Effect::Note(note));
        self.settle(env);
    }

    /// Settles once both the grant and the end of the response, or of the stream, are known.
    fn settle(&mut self, env: &mut Env) {
        let ended = self.response.as_ref().is_some_and(Passing::is_over);
        if !(ended || self.gone) || !matches!(self.right, Right::Held(_)) {
            return;
        }
        let Right::Held(lease) = std::mem::replace(&mut self.right, Right::None) else {
            return;
        };
        let ending = match self.response.take() {
            // It was executed, and asked for by mistake.
            _ if self.mistaken => Ending::Failed,
            Some(response) => response.ending(),
            None => Ending::Unknown,
        };
        let operation = settle(ending, &lease, env.effects);
        env.effect(Effect::Background(operation));
    }
}
