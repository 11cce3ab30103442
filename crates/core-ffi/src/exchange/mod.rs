//! The life of one request, as a state machine without I/O.
//!
//! | state ↓ · event → | piece of the body | body is whole | answer | may it be sent? | head of the upstream's answer | its end | given up |
//! |---|---|---|---|---|---|---|---|
//! | `Over` | – | – | of what is in the background: done, or once more | – | – | – | – |
//! | `Hashing` | hash; over the cap 413 | *acquire* → `Acquiring`, or *redeem* → `Redeeming` | – | – | – | – | → `Over` |
//! | `Acquiring` | – | – | granted → `Holding`; stored → replay; in flight → `Waiting` or 409; … | – | – | – | *fail* |
//! | `Redeeming` | – | – | redeemed → `Over`, on its way; spent, no answer → refused; lost → `Acquiring` | – | – | – | → `Over` |
//! | `Waiting` | – | – | stored → replay; changed → `Acquiring`; timed out → 409 | – | – | – | → `Over` |
//! | `Holding` | – | – | – | yes → `Sent`; too late: *fail* | – | – | *fail* |
//! | `Sent` | – | – | – | – | → `Answering` | – | *abandon* |
//! | `Answering` | – | – | – | – | copy | *complete*, *fail* or *abandon* → `Settling` | *abandon* (*fail* stays *fail*) |
//! | `Settling` | – | – | deliver or withhold → `Over` | – | – | – | → `Over`; the settlement stays |
//!
//! An operation that nobody waits for is *pending* in the state `Over`: the host delivers it in the background, again
//! and again, until [`Exchange::answer`] says [`Step::Done`].

mod acquire;
mod execute;
#[cfg(test)]
mod tests;

use crate::batch::Batch;
use crate::call::CallResult;
use crate::plugin::Plugin;
use bytes::Bytes;
use idempotency_core::decide::{
    decide, ours_among, too_large, Decision, Properties, RequestHead, Verdict,
};
use idempotency_core::fingerprint::Hasher;
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_core::reply::LocalReply;
use idempotency_core::request::{Identity, Request};
use idempotency_protocol::{log_id, LookupKey, Operation, Owner, Wait};
use std::sync::Arc;
use std::time::Duration;

use acquire::Ticket;
pub use execute::Cut;
use execute::{Answering, Run, Settling};

/// What the host is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the request go on: it is not protected.
    Pass,
    /// Answer with [`Exchange::reply`].
    Reply,
    /// Give the body.
    Body,
    /// Send the pending operation ([`Exchange::add_to`]), then [`Exchange::answer`].
    Call,
    /// Send [`Exchange::wait`], then [`Exchange::waited`].
    Wait,
    /// Connect to the upstream, ask [`Exchange::may_send`], and send.
    Execute,
    /// Let the request go on with the fields of [`Exchange::forwarded`]: it is another gateway's execution.
    Relay,
    /// Give the client the upstream's answer, with [`Exchange::additions`] where its head has not left.
    Deliver,
    /// Nothing is left to do.
    Done,
    /// The pending operation got no answer: send it again later.
    Later,
}

enum State {
    Over,
    Hashing { hasher: Box<Hasher>, seen: usize },
    Acquiring(Ticket),
    Redeeming(Ticket),
    Waiting(Ticket),
    Holding(Run),
    Sent(Run),
    Answering(Box<Answering>),
    Settling(Box<Settling>),
}

/// The state machine of one request.
pub struct Exchange {
    strip: Vec<Bytes>,
    request: Option<Arc<Request>>,
    state: State,
    /// What is to be sent to the service.
    pending: Option<Operation>,
    /// It travels in a message of its own.
    alone: bool,
    reply: Option<LocalReply>,
    why: String,
    key: Option<LookupKey>,
    /// What goes upstream.
    forwarded: Vec<(Bytes, Bytes)>,
    /// What a client gets of the upstream's header.
    passed: Vec<(Bytes, Bytes)>,
    additions: Vec<(Bytes, Bytes)>,
}

/// Properties that the host has read beforehand, by their names with dots.
pub struct Known<'a>(pub &'a [(Bytes, Bytes)]);

impl Known<'_> {
    fn named(&self, name: &str) -> Option<Bytes> {
        let mut all = self.0.iter();
        let found = all.find(|(known, _)| known.as_ref() == name.as_bytes());
        found.map(|(_, value)| value.clone())
    }
}

impl Properties for Known<'_> {
    fn property(&self, path: &[&str]) -> Option<Bytes> {
        self.named(&path.join("."))
    }

    fn route(&self) -> Option<Bytes> {
        self.named("kong.route_id")
    }

    fn service(&self) -> Option<Bytes> {
        self.named("kong.service_id")
    }
}

/// What the host calls a request, for people.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The client's address.
    pub client: Bytes,
    /// The id of the request, for where the client sends none.
    pub request_id: Bytes,
}

impl Exchange {
    /// Decides from the head of a request. `None`: it goes on as it is.
    pub fn decide(
        plugin: &Plugin,
        head: RequestHead,
        known: &Known,
        names: Names,
    ) -> (Step, Option<Exchange>) {
        let Some(ready) = plugin.ready() else {
            return Exchange::misconfigured(&head);
        };
        let Decision { strip, verdict } = decide(&ready.settings, head, known);
        let mut exchange = Exchange::new();
        exchange.strip = strip;
        let step = match verdict {
            // (Nothing is only observed here: the configuration is refused.)
            Verdict::Pass | Verdict::Observed(_) => {
                let unchanged = exchange.strip.is_empty();
                return (Step::Pass, (!unchanged).then_some(exchange));
            }
            Verdict::Refuse(refused, reply) => {
                exchange.why = format!("{}: {}", refused.problem.name(), refused.detail);
                exchange.reply = Some(reply);
                Step::Reply
            }
            Verdict::Protect {
                mut request,
                hasher,
            } => {
                if let Some(request) = Arc::get_mut(&mut request) {
                    request.client = names.client;
                    if request.request_id.is_empty() {
                        request.request_id = names.request_id;
                    }
                }
                exchange.request = Some(request);
                exchange.state = State::Hashing { hasher, seen: 0 };
                Step::Body
            }
        };
        (step, Some(exchange))
    }

    fn new() -> Exchange {
        Exchange {
            strip: Vec::new(),
            request: None,
            state: State::Over,
            pending: None,
            alone: false,
            reply: None,
            why: String::new(),
            key: None,
            forwarded: Vec::new(),
            passed: Vec::new(),
            additions: Vec::new(),
        }
    }

    /// A configuration that was rejected protects by refusing.
    fn misconfigured(head: &RequestHead) -> (Step, Option<Exchange>) {
        let mut exchange = Exchange::new();
        if matches!(head.method.as_ref(), b"GET" | b"HEAD" | b"OPTIONS") {
            exchange.strip = ours_among(&head.headers);
            let unchanged = exchange.strip.is_empty();
            return (Step::Pass, (!unchanged).then_some(exchange));
        }
        exchange.why = "misconfigured: the configuration was rejected; an earlier error line says \
                        what to correct"
            .to_owned();
        exchange.reply = Some(Problem::Misconfigured.reply(&ProblemSettings::DEFAULT, None));
        (Step::Reply, Some(exchange))
    }

    /// Fields that are to be removed from the request, whatever becomes of it.
    pub fn strip(&self) -> &[Bytes] {
        &self.strip
    }

    /// What the client gets.
    pub fn reply(&self) -> Option<&LocalReply> {
        self.reply.as_ref()
    }

    /// For the log: the problem's name and its reason; empty where there is none.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// By which name logs know the record; empty while it is not known.
    pub fn log_id(&self) -> String {
        self.key.as_ref().map(log_id).unwrap_or_default()
    }

    /// The name of the rule that matched.
    pub fn rule(&self) -> &str {
        self.request
            .as_ref()
            .map_or("", |request| &request.rule.name)
    }

    /// What goes upstream: all fields but those of a connection and those that frame the body.
    pub fn forwarded(&self) -> &[(Bytes, Bytes)] {
        &self.forwarded
    }

    /// The fields of the upstream's answer that the client gets.
    pub fn passed(&self) -> &[(Bytes, Bytes)] {
        &self.passed
    }

    /// Fields that are added to the upstream's answer if its head has not left yet.
    pub fn additions(&self) -> &[(Bytes, Bytes)] {
        &self.additions
    }

    /// The longest body that is accepted, in bytes; 0 where nothing is protected.
    pub fn max_body_bytes(&self) -> usize {
        let request = self.request.as_ref();
        request.map_or(0, |request| request.policy().max_body_bytes)
    }

    /// Whether the rule says that answers stream.
    pub fn streams(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| request.policy().stream)
    }

    /// Whether an answer that could not be recorded is kept from the client.
    pub fn withholds(&self) -> bool {
        use idempotency_core::config::OnCompleteFailure;
        let request = self.request.as_ref();
        request.is_some_and(|r| r.policy().on_complete_failure == OnCompleteFailure::Withhold)
    }

    /// More of the request's body.
    pub fn body(&mut self, piece: &[u8]) -> Step {
        let cap = self.max_body_bytes();
        let State::Hashing { hasher, seen } = &mut self.state else {
            return self.defect();
        };
        *seen = seen.saturating_add(piece.len());
        if *seen <= cap {
            hasher.update(piece);
            return Step::Body;
        }
        let Some(request) = self.request.clone() else {
            return self.defect();
        };
        self.refuse(
            &request,
            Problem::BodyTooLarge,
            Some(&too_large(request.policy())),
        )
    }

    /// The body is whole. `owner`: random, and nobody has had it.
    pub fn begin(&mut self, owner: Owner, now: Duration) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Hashing { hasher, .. }, Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        match request.identify(*hasher) {
            Identity::Known(key, fingerprint) => {
                self.key = Some(key.clone());
                self.ask(&request, Ticket::new(key, fingerprint, owner, now))
            }
            Identity::Pass => Step::Pass,
            Identity::Refused(problem, detail) => self.refuse(&request, problem, Some(&detail)),
        }
    }

    /// Refuses a request that was not sent to the service yet, with another status than the problem's where `status`
    /// is not 0.
    pub fn refuse_as(&mut self, problem: Problem, status: u16, detail: &str) -> Step {
        let Some(request) = self.request.clone() else {
            return self.defect();
        };
        let step = self.refuse(&request, problem, Some(detail));
        if let (Some(reply), true) = (&mut self.reply, status != 0) {
            use idempotency_core::hop::MayBe;
            *reply = request.problem_as(None, problem, status, Some(detail), MayBe::NotExecuted);
        }
        step
    }

    /// Refuses with a problem document about the record, if that is known.
    fn refuse(&mut self, request: &Request, problem: Problem, detail: Option<&str>) -> Step {
        self.state = State::Over;
        self.reply = Some(request.problem(self.key.as_ref(), problem, detail));
        let told = detail.unwrap_or(problem.detail());
        self.why = format!("{}: {told}", problem.name());
        Step::Reply
    }

    /// The same, with what only the operator is told.
    fn refuse_since(&mut self, request: &Request, problem: Problem, why: &str) -> Step {
        let step = self.refuse(request, problem, None);
        self.why = format!("{}: {why}", problem.name());
        step
    }

    /// The host asked in a wrong order: refused, and what was begun is given up.
    fn defect(&mut self) -> Step {
        self.give_up();
        self.reply = Some(crate::defect_reply());
        self.why = "store-unavailable: the plugin asked in a wrong order (a defect)".to_owned();
        Step::Reply
    }

    /// Whether an operation is to be sent.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Puts the pending operation into a message; its place, or `None` where it has no room there, or nothing is
    /// pending.
    pub fn add_to(&mut self, batch: &mut Batch, now: Duration) -> Option<usize> {
        let operation = self.pending.clone()?;
        let trace = self.trace();
        let place = batch.add(operation, trace, self.alone)?;
        if let State::Acquiring(ticket) | State::Redeeming(ticket) = &mut self.state {
            ticket.sent(now);
        }
        Some(place)
    }

    fn trace(&self) -> Bytes {
        let request = self.request.as_ref();
        request
            .map(|request| request.traceparent())
            .unwrap_or_default()
    }

    /// What came of the pending operation.
    pub fn answer(&mut self, result: CallResult, now: Duration) -> Step {
        use idempotency_protocol::Answer;
        if result == Ok(Answer::AskAlone) && !self.alone {
            self.alone = true;
            return Step::Call;
        }
        let Some(operation) = self.pending.take() else {
            return self.defect();
        };
        let state = std::mem::replace(&mut self.state, State::Over);
        let Some(request) = self.request.clone() else {
            return self.defect();
        };
        match state {
            State::Acquiring(ticket) => self.acquired(&request, ticket, result, now),
            State::Redeeming(ticket) => self.redeemed(&request, ticket, result, now),
            State::Settling(settling) => self.settled(&request, *settling, operation, &result),
            State::Over => self.delivered(operation, &result),
            other => {
                self.state = other;
                self.defect()
            }
        }
    }

    /// The wait that [`Step::Wait`] asks for.
    pub fn wait(&self, now: Duration) -> Option<Wait> {
        match &self.state {
            State::Waiting(ticket) => ticket.wait(now),
            _ => None,
        }
    }

    /// What came of the wait. `owner`: random, for where it must be acquired anew.
    pub fn waited(&mut self, result: CallResult, owner: Owner, now: Duration) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Waiting(ticket), Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        self.after_wait(&request, ticket, result, owner, now)
    }

    /// The host goes no further with this request: what has to be told to the service is pending afterwards.
    pub fn give_up(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::Over | State::Hashing { .. } | State::Redeeming(_) | State::Waiting(_) => {}
            // What it settles with is pending already.
            State::Settling(_) => {}
            State::Acquiring(ticket) => self.pending = Some(ticket.fail()),
            State::Holding(run) => self.pending = Some(run.not_sent()),
            State::Sent(run) => self.pending = Some(run.unknown()),
            State::Answering(answering) => self.pending = Some(answering.cut()),
        }
    }
}
