//! The life of one request, as a state machine without hostcalls.
//!
//! | state ↓ · event → | request body, trailers | answer | executed | response headers | response body, trailers | gone |
//! |---|---|---|---|---|---|---|
//! | `Passing`, `Answered` | continue | – | – | continue | continue | – |
//! | `Hashing` | hash; at the end *acquire* → `Acquiring` (→ `Passing` if its key is not in the body, and need not be); over the cap 413; unreadable 503 | – | – | the host answered → `Answered` | – | – |
//! | `Acquiring` | hold | granted → `Forwarded`, `Detached`; stored → replay; in flight → `Waiting` or 409; … | – | the host answered: *fail* → `Answered` | – | *fail* |
//! | `Redeeming` | hold | redeemed → `Answered`, on its way; spent, no answer → refused; lost → `Acquiring` | – | the host answered → `Answered` | – | – |
//! | `Waiting` | hold | stored → replay; changed → `Acquiring`; timed out → 409 | – | the host answered → `Answered` | – | – |
//! | `Detached` | hold | – | answer → `Answered` | the host answered → `Answered` | – | – (the root goes on) |
//! | `Forwarded` | – | – | – | classify → `Capturing`, `Settling` | – | *abandon* |
//! | `Capturing` | – | – | – | – | copy; at the end *complete*, *fail* or *abandon* → `Settling` | *abandon* (*fail* stays *fail*) |
//! | `Settling` | – | deliver or withhold → `Answered` | – | hold | hold | – (the root goes on) |
//! | `Observing` | continue, hash | count | – | continue, copy | continue, copy | *settle* |
//!
//! What the host's own rules make of a state (see [`crate::profile`]):
//!
//! | state | Envoy | Kong |
//! |---|---|---|
//! | `Hashing` | held; the body comes in pieces | not held (there is no call yet); the body comes once and whole; what has none goes on to *acquire* at the headers; unreadable 413 |
//! | `Acquiring`, `Waiting` | called from the root; any answer is heard | called from the stream, always followed by a pause |
//! | `Detached` | through an internal listener | never: `Forwarded`, and nginx finishes what a client left |
//! | `Forwarded` | – | a body that no header announced: *fail*, 411 → `Answered` |
//! | `Capturing` | the end is held back | everything passes; at the end *complete*, *fail* or *abandon* in the background → `Answered` |
//! | `Settling` | called from the response phase | never: no calls in the response phase |
//! | `Observing` | called from the root | called from the root's tick |

mod acquire;
mod effect;
mod inline;
mod observe;
#[cfg(test)]
mod tests;

pub use acquire::Ticket;
pub use effect::{Effect, Execute, Flow};

use crate::body::LENGTH_REQUIRED;
use crate::call::{Call, CallResult};
use crate::clock::Moment;
use crate::kong;
use crate::note::Note;
use crate::profile::Profile;
use crate::stats::Counter;
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::config::Mode;
use idempotency_core::fingerprint::Hasher;
use idempotency_core::headers::Headers;
use idempotency_core::hop::MayBe;
use idempotency_core::problem::Problem;
use idempotency_core::reply::LocalReply;
use idempotency_core::request::{Identity, Request};
use idempotency_protocol::{Operation, Owner};
use inline::{Capturing, Run, Settling};
use observe::Observing;
use std::borrow::Cow;
use std::sync::Arc;

/// What happens to a stream.
#[derive(Debug)]
pub enum Event<'a> {
    /// More of the request's body (only what was not told before).
    RequestBody {
        /// The new bytes.
        chunk: &'a [u8],
        /// Nothing follows, not even trailers.
        end: bool,
    },
    /// The request's trailers: the body is whole.
    RequestTrailers(Headers),
    /// The answer to the stream's [`Effect::Call`], unless that was a settlement.
    Answer(CallResult),
    /// The answer to the stream's settlement, and the settlement itself, as it was sent in the end.
    Settled(Box<Operation>, CallResult),
    /// The end of the stream's [`Effect::Execute`]: what the client gets.
    Executed(LocalReply),
    /// The response's headers.
    ResponseHeaders {
        /// All of them.
        headers: Headers,
        /// Who made the response.
        source: Source,
        /// There is no body.
        end: bool,
    },
    /// More of the response's body (only what was not told before).
    ResponseBody {
        /// The new bytes.
        chunk: &'a [u8],
        /// Nothing follows, not even trailers.
        end: bool,
    },
    /// The response has trailers.
    ResponseTrailers,
    /// A piece of the body of the request (before the decision) or of the response is there, and
    /// the host does not let it be read. Unreadable is not empty.
    Unreadable,
    /// Kong: a body has come that no header announced, after the decision was made without it.
    /// Nothing has been sent upstream yet.
    UnannouncedBody,
    /// The host's plugin settings cannot deliver request bodies.
    BodiesNeverCome,
    /// The stream has ended, for whatever reason.
    Gone,
}

/// What a stream may ask while it handles an event.
pub struct Env<'a> {
    /// The host.
    pub profile: Profile,
    /// The filter's clock. Most events need no time, and to look costs a hostcall.
    pub clock: &'a dyn Fn(Look) -> Moment,
    /// A fresh random owner; `None` if the host gives no randomness.
    pub new_owner: &'a mut dyn FnMut() -> Option<Owner>,
    /// What is to be done, in order.
    pub effects: &'a mut Vec<Effect>,
}

/// How well the time has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The time.
    Now,
    /// The time, or one that has passed already where that costs nothing: the last look of a clock that ticks. From
    /// there on a lease is counted whose acquire leaves now. It is over too soon then, by a tick or by as long as
    /// the worker stood still, and never too late.
    NotLater,
}

impl Env<'_> {
    fn now(&self) -> Moment {
        (self.clock)(Look::Now)
    }

    /// When a call is sent that leaves now, at the latest.
    fn sent(&self) -> Moment {
        (self.clock)(Look::NotLater)
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn count(&mut self, counter: Counter) {
        self.effect(Effect::Count(counter));
    }
}

/// A request whose body is still arriving.
#[derive(Debug)]
struct Hashing {
    request: Arc<Request>,
    hasher: Box<Hasher>,
    seen: usize,
}

#[derive(Debug)]
enum State {
    /// Not protected.
    Passing,
    /// The client has its answer, or will get none from us.
    Answered,
    /// The body is arriving and being hashed; nothing has left yet.
    Hashing(Hashing),
    /// An acquire is out.
    Acquiring(Box<Ticket>),
    /// The proof of another gateway is shown to the store.
    Redeeming(Box<Ticket>),
    /// A wait is out.
    Waiting(Box<Ticket>),
    /// The root executes; the client waits.
    Detached,
    /// The request went on through the filter chain.
    Forwarded(Box<Run>),
    /// The response is streaming by.
    Capturing(Box<Capturing>),
    /// The settlement is out; the end of the response waits for it.
    Settling(Settling),
    /// Nothing is changed, only watched.
    Observing(Box<Observing>),
}

/// The state machine of one stream.
#[derive(Debug)]
pub struct Stream {
    state: State,
}

impl Stream {
    /// A stream that no rule protects.
    pub fn passing() -> Self {
        Stream {
            state: State::Passing,
        }
    }

    /// A stream that was answered from its headers alone.
    pub fn answered() -> Self {
        Stream {
            state: State::Answered,
        }
    }

    /// A protected request whose headers have come. `body`: all of it, if it is known.
    pub fn protect(
        request: Arc<Request>,
        hasher: Box<Hasher>,
        body: Option<&[u8]>,
        env: &mut Env,
    ) -> (Self, Flow) {
        let mut stream = if request.policy().mode == Mode::Observe {
            Stream {
                state: State::Observing(Box::new(Observing::new(request, *hasher))),
            }
        } else {
            Stream {
                state: State::Hashing(Hashing {
                    request,
                    hasher,
                    seen: 0,
                }),
            }
        };
        let mut flow = match &stream.state {
            State::Hashing(h) if env.profile == Profile::Envoy => Flow::Pause,
            _ => Flow::Continue,
        };
        if let Some(chunk) = body {
            flow = stream.on(Event::RequestBody { chunk, end: true }, env);
        }
        (stream, flow)
    }

    /// Whether events still matter to this stream.
    pub fn is_active(&self) -> bool {
        !matches!(self.state, State::Passing | State::Answered)
    }

    /// Whether the answer to a call still matters when the stream has gone: what is only observed
    /// is not held, so its response may be over before the service has answered.
    pub fn lingers(&self) -> bool {
        matches!(&self.state, State::Observing(o) if o.lingers())
    }

    /// Whether nothing is changed, only watched.
    pub fn is_observing(&self) -> bool {
        matches!(self.state, State::Observing(_))
    }

    /// Whether the stream waits for a request body.
    pub fn is_hashing(&self) -> bool {
        matches!(self.state, State::Hashing(_))
    }

    /// Handles one event.
    pub fn on(&mut self, event: Event, env: &mut Env) -> Flow {
        let state = std::mem::replace(&mut self.state, State::Answered);
        let (state, flow) = match (state, event) {
            (state @ (State::Passing | State::Answered), _) => (state, Flow::Continue),

            (State::Observing(mut o), event) => {
                o.on(event, env);
                (State::Observing(o), Flow::Continue)
            }

            (State::Hashing(h), Event::RequestBody { chunk, end }) => h.body(chunk, end, env),
            (State::Hashing(h), Event::RequestTrailers(t)) => h.trailers(t, env),
            (State::Hashing(h), Event::BodiesNeverCome) => h.refuse(
                Problem::Misconfigured,
                Some("The filter's plugin configuration does not set allow_on_headers_stop_iteration."),
                env,
            ),

            (State::Hashing(h), Event::Unreadable) => h.unreadable(env),
            (State::Capturing(mut c), Event::Unreadable) => {
                c.unreadable();
                (State::Capturing(c), Flow::Continue)
            }

            (State::Acquiring(t), Event::Answer(result)) => t.acquired(result, env),
            (State::Acquiring(t), Event::UnannouncedBody) => t.unannounced(env),
            (State::Acquiring(t), Event::Gone | Event::ResponseHeaders { .. }) => {
                // The grant may be on its way to nobody. Nothing was sent upstream.
                env.effect(Effect::Background(t.fail()));
                (State::Answered, Flow::Continue)
            }

            (State::Redeeming(t), Event::Answer(result)) => t.redeemed(result, env),
            (State::Waiting(t), Event::Answer(result)) => t.waited(result, env),
            (State::Waiting(t) | State::Redeeming(t), Event::UnannouncedBody) => {
                t.unannounced_waiting(env)
            }

            (State::Detached, Event::Executed(reply)) => {
                env.effect(Effect::Reply(reply));
                (State::Answered, Flow::Pause)
            }

            (
                State::Forwarded(run),
                Event::ResponseHeaders {
                    headers,
                    source,
                    end,
                },
            ) => run.response(&headers, &source, end, env),
            (State::Forwarded(run), Event::UnannouncedBody) => run.unannounced(env),
            (State::Forwarded(run), Event::Gone) => {
                run.cut_off(env);
                (State::Answered, Flow::Continue)
            }
            (state @ State::Forwarded(_), _) => (state, Flow::Continue),

            (State::Capturing(c), Event::ResponseBody { chunk, end }) => c.body(chunk, end, env),
            (State::Capturing(c), Event::ResponseTrailers) => c.trailers(env),
            (State::Capturing(c), Event::Gone) => {
                c.cut_off(env);
                (State::Answered, Flow::Continue)
            }
            (state @ State::Capturing(_), _) => (state, Flow::Continue),

            (State::Settling(s), Event::Settled(operation, result)) => {
                s.settled(operation, &result, env)
            }

            // The host answered by itself (a timeout, its buffer limit), or the client left,
            // while nothing of ours needs undoing.
            (
                State::Hashing(_) | State::Redeeming(_) | State::Waiting(_) | State::Detached,
                Event::Gone | Event::ResponseHeaders { .. },
            )
            | (State::Settling(_), Event::Gone) => (State::Answered, Flow::Continue),

            (
                state @ (State::Hashing(_)
                | State::Acquiring(_)
                | State::Redeeming(_)
                | State::Waiting(_)
                | State::Detached
                | State::Settling(_)),
                _,
            ) => (state, Flow::Pause),
        };
        self.state = state;
        flow
    }
}

type Step = (State, Flow);

/// Answers with a problem document. The operator is told the detail.
fn refuse(request: &Request, problem: Problem, detail: Option<&str>, env: &mut Env) -> Step {
    let note = Note::of(request, Counter::Problem(problem));
    refuse_with(note, request, problem, detail, env)
}

/// The same, with what the operator is told besides.
fn refuse_with(
    mut note: Box<Note>,
    request: &Request,
    problem: Problem,
    detail: Option<&str>,
    env: &mut Env,
) -> Step {
    let reply = request.problem(note.key.as_ref(), problem, detail);
    note.status = reply.status;
    if let (Some(detail), true) = (detail, note.why == problem.detail()) {
        note.why = Cow::Owned(detail.to_owned());
    }
    env.effect(Effect::Note(note));
    env.effect(Effect::Reply(reply));
    (State::Answered, Flow::Pause)
}

impl Hashing {
    fn body(mut self, chunk: &[u8], end: bool, env: &mut Env) -> Step {
        self.seen = self.seen.saturating_add(chunk.len());
        let cap = self.request.policy().max_body_bytes;
        if self.seen > cap {
            let detail = format!("This operation accepts request bodies of at most {cap} bytes.");
            return self.refuse(Problem::BodyTooLarge, Some(&detail), env);
        }
        self.hasher.update(chunk);
        if end {
            return self.finish(Vec::new(), env);
        }
        (State::Hashing(self), Flow::Pause)
    }

    /// Some upstreams merge trailers into the headers, and nothing of them was compared or hashed.
    fn trailers(self, trailers: Headers, env: &mut Env) -> Step {
        let Some(name) = self.request.unwelcome_trailer(&trailers) else {
            return self.finish(trailers.0, env);
        };
        let detail = format!("{} must not be a trailer.", String::from_utf8_lossy(name));
        self.refuse(Problem::UnsupportedRequest, Some(&detail), env)
    }

    fn finish(self, trailers: Vec<(Bytes, Bytes)>, env: &mut Env) -> Step {
        let Hashing {
            request, hasher, ..
        } = self;
        match request.identify(*hasher) {
            Identity::Known(key, fingerprint) => {
                Ticket::begin(request, Arc::new(key), fingerprint, trailers, env)
            }
            Identity::Refused(problem, detail) => refuse(&request, problem, Some(&detail), env),
            Identity::Pass => (State::Passing, Flow::Continue),
        }
    }

    fn refuse(&self, problem: Problem, detail: Option<&str>, env: &mut Env) -> Step {
        refuse(&self.request, problem, detail, env)
    }

    fn unreadable(&self, env: &mut Env) -> Step {
        if env.profile == Profile::Envoy {
            let detail = "The gateway does not let the filter read the request's body.";
            return self.refuse(Problem::Misconfigured, Some(detail), env);
        }
        self.refuse(Problem::BodyTooLarge, Some(kong::SPILLED), env)
    }
}

/// Kong, HTTP/2 and 3: a body without a length. What was asked of the service was without it.
fn refuse_unannounced(request: &Request, env: &mut Env) -> Step {
    let problem = Problem::UnsupportedRequest;
    let detail = "This gateway needs to know the length of the body beforehand: send \
                  Content-Length.";
    let mut note = Note::of(request, Counter::Problem(problem)).because(detail);
    note.status = LENGTH_REQUIRED;
    env.effect(Effect::Note(note));
    let unsent = MayBe::NotExecuted;
    let reply = request.problem_as(None, problem, LENGTH_REQUIRED, Some(detail), unsent);
    env.effect(Effect::Reply(reply));
    (State::Answered, Flow::Pause)
}

fn call(operation: Box<Operation>) -> Effect {
    Effect::Call(Call::Operation(operation))
}
