//! From the fingerprint to the decision: acquire, wait, and what their answers mean.

use super::inline::Run;
use super::{
    call, refuse, refuse_unannounced, refuse_with, Effect, Env, Execute, Flow, State, Step,
};
use crate::call::{Call, CallResult};
use crate::clock::Moment;
use crate::ending::Ending;
use crate::forward;
use crate::lease::{self, Lease};
use crate::note::Note;
use crate::profile::Profile;
use crate::stats::Counter;
use bytes::Bytes;
use idempotency_core::config::{Execution, OnServiceFailure};
use idempotency_core::decide::ONLY_OURS;
use idempotency_core::forward::Forwarding;
use idempotency_core::hop::MayBe;
use idempotency_core::problem::Problem;
use idempotency_core::reply;
use idempotency_core::request::Request;
use idempotency_protocol::{
    Answer, FaultCode, Fingerprint, Grant, LookupKey, Operation, Outcome, Owner, Stored,
};
use std::sync::Arc;

/// What a client is told whose request two gateways protect that know nothing of each other.
const TWO_HOPS: &str =
    "The request was not executed: two gateways protect it with one lock, and no hop.key \
                        that both accept lets the second one know of the first.";

/// A request that asks for the right to execute.
#[derive(Debug)]
pub struct Ticket {
    request: Arc<Request>,
    key: Arc<LookupKey>,
    fingerprint: Fingerprint,
    owner: Owner,
    /// When the acquire was sent: the lease counts from here.
    sent: Moment,
    trailers: Vec<(Bytes, Bytes)>,
    /// Until when this request waits for another execution ([`Moment::least_ns`]); set at the first
    /// *in flight*.
    wait_until_ns: Option<u64>,
}

impl Ticket {
    pub(super) fn acquire(
        request: Arc<Request>,
        key: Arc<LookupKey>,
        fingerprint: Fingerprint,
        trailers: Vec<(Bytes, Bytes)>,
        wait_until_ns: Option<u64>,
        env: &mut Env,
    ) -> Step {
        let Some(owner) = (env.new_owner)() else {
            // Without randomness two gateways could be one owner: nothing can be protected.
            let why = Some("The host gives no random numbers.");
            return refuse(&request, Problem::Misconfigured, why, env);
        };
        let acquire = request.acquire(
            LookupKey::clone(&key),
            owner,
            fingerprint,
            env.profile.name(),
        );
        env.effect(call(Box::new(acquire)));
        let sent = env.sent();
        let ticket = Ticket {
            request,
            key,
            fingerprint,
            owner,
            sent,
            trailers,
            wait_until_ns,
        };
        (State::Acquiring(Box::new(ticket)), Flow::Pause)
    }

    /// A request whose body is whole: it acquires, unless a gateway of ours before this one has proved that it
    /// is that gateway's execution.
    pub(super) fn begin(
        request: Arc<Request>,
        key: Arc<LookupKey>,
        fingerprint: Fingerprint,
        trailers: Vec<(Bytes, Bytes)>,
        env: &mut Env,
    ) -> Step {
        let proven = request.proven(&key, &fingerprint);
        // In Kong, what a client has forged cannot be removed.
        if proven.is_none() && env.profile == Profile::Kong && request.carried.is_some() {
            return refuse(&request, Problem::UnsupportedRequest, Some(ONLY_OURS), env);
        }
        let Some(proven) = proven.filter(|proven| proven.ours) else {
            return Ticket::acquire(request, key, fingerprint, trailers, None, env);
        };
        let redeem = Request::redeem(LookupKey::clone(&key), fingerprint, &proven);
        env.effect(call(Box::new(redeem)));
        let sent = env.sent();
        let ticket = Ticket {
            request,
            key,
            fingerprint,
            owner: Owner([0; 16]),
            sent,
            trailers,
            wait_until_ns: None,
        };
        (State::Redeeming(Box::new(ticket)), Flow::Pause)
    }

    /// What the store says of a proof.
    pub(super) fn redeemed(self, result: CallResult, env: &mut Env) -> Step {
        let margin_ms = self.request.policy().lease_margin_ms;
        match result {
            Ok(Answer::Redeemed { lease_left_ms })
                if !lease::is_too_late(&self.sent, &env.now(), lease_left_ms, margin_ms) =>
            {
                env.count(Counter::Relayed);
                self.send_on(&Forwarding::Relayed, env);
                // It is the other gateway's execution, and its answer passes.
                (State::Answered, Flow::Pause)
            }
            // It was redeemed for this request, and is sent nowhere.
            Ok(Answer::Redeemed { .. }) => {
                env.count(Counter::GrantExpired);
                refuse(&self.request, Problem::StoreUnavailable, None, env)
            }
            // Another copy of this request was let through, and may still be executed.
            Ok(Answer::Spent) => self.refuse_copy(Problem::InFlight, env),
            // Not (any more) an execution of this store, or of a service that knows no proofs: a client's request.
            Ok(Answer::Lost) => self.ask_as_a_client(env),
            Ok(Answer::Fault(fault)) if fault.code == FaultCode::Invalid => {
                self.ask_as_a_client(env)
            }
            // Whether one was, nobody knows.
            _ => self.refuse_copy(Problem::StoreUnavailable, env),
        }
    }

    fn ask_as_a_client(self, env: &mut Env) -> Step {
        let Ticket {
            request,
            key,
            fingerprint,
            trailers,
            ..
        } = self;
        Ticket::acquire(request, key, fingerprint, trailers, None, env)
    }

    fn refuse_copy(&self, problem: Problem, env: &mut Env) -> Step {
        let note = Note::of(&self.request, Counter::Problem(problem));
        env.effect(Effect::Note(note.about(&self.key, 0)));
        let (status, executed) = (problem.status(), MayBe::Executed);
        let reply = self
            .request
            .problem_as(Some(&self.key), problem, status, None, executed);
        env.effect(Effect::Reply(reply));
        (State::Answered, Flow::Pause)
    }

    /// Takes the acquire back, whether or not it has arrived: nothing was sent upstream.
    pub(super) fn fail(&self) -> Box<Operation> {
        let key = LookupKey::clone(&self.key);
        Box::new(Ending::NotSent.end().operation(key, self.owner))
    }

    /// A wait holds nothing.
    pub(super) fn unannounced_waiting(&self, env: &mut Env) -> Step {
        refuse_unannounced(&self.request, env)
    }

    pub(super) fn unannounced(&self, env: &mut Env) -> Step {
        env.effect(Effect::Background(self.fail()));
        refuse_unannounced(&self.request, env)
    }

    pub(super) fn acquired(self: Box<Self>, result: CallResult, env: &mut Env) -> Step {
        match result {
            Ok(Answer::Granted(grant)) => self.granted(grant, env),
            Ok(Answer::Stored(stored)) => self.stored(&stored, env),
            Ok(Answer::InFlight { fence, .. }) => self.in_flight(fence, env),
            Ok(Answer::Mismatch) => self.refuse(Problem::KeyReused, 0, env),
            Ok(Answer::NotComparable) => self.refuse(Problem::NotComparable, 0, env),
            Ok(Answer::UnknownOutcome { .. }) => self.refuse(Problem::OutcomeUnknown, 0, env),
            Ok(Answer::Unreadable { .. }) => self.refuse(Problem::NotReplayable, 0, env),
            Ok(Answer::Fault(fault)) => match fault.code {
                FaultCode::Capacity | FaultCode::Untrusted => {
                    self.refuse_since(Problem::StoreUnavailable, fault.to_string(), env)
                }
                FaultCode::Quota => self.refuse_since(Problem::TenantQuota, fault.to_string(), env),
                FaultCode::Unavailable => self.unanswered(fault.to_string(), env),
                // The service is there, and said something else than that it is down.
                FaultCode::Invalid | FaultCode::Internal => {
                    self.not_understood(fault.to_string(), env)
                }
            },
            Err(failed) if failed.is_outage() => self.unanswered(failed.to_string(), env),
            Err(failed) => self.not_understood(failed.to_string(), env),
            // `Cancelled` and `Spent` cannot concern a fresh owner of a live stream, and the other
            // answers are not answers to an acquire.
            Ok(_) => self.not_understood(String::new(), env),
        }
    }

    /// Refuses what the store has decided about.
    fn refuse(&self, problem: Problem, fence: u64, env: &mut Env) -> Step {
        let note = Note::of(&self.request, Counter::Problem(problem)).about(&self.key, fence);
        refuse_with(note, &self.request, problem, None, env)
    }

    /// The same, with what only the operator is told.
    fn refuse_since(&self, problem: Problem, why: String, env: &mut Env) -> Step {
        let note = Note::of(&self.request, Counter::Problem(problem));
        let note = note.about(&self.key, 0).because(why);
        refuse_with(note, &self.request, problem, None, env)
    }

    fn granted(self, grant: Grant, env: &mut Env) -> Step {
        let margin_ms = self.request.policy().lease_margin_ms;
        if lease::is_too_late(&self.sent, &env.now(), grant.lease_ms, margin_ms) {
            env.count(Counter::GrantExpired);
            env.effect(Effect::Background(self.fail()));
            let why = "the grant came too late to be forwarded".to_owned();
            return self.refuse_since(Problem::StoreUnavailable, why, env);
        }
        let lease = Lease {
            key: Arc::clone(&self.key),
            owner: self.owner,
            fence: grant.fence,
            lease_ms: grant.lease_ms,
            since_ns: self.sent.most_ns,
        };
        let rule = Arc::clone(&self.request.rule);
        env.effect(Effect::CountRule(Counter::Executed, rule));
        env.effect(Effect::Track(lease.clone()));
        let forwarding = Forwarding::Granted {
            fence: grant.fence,
            attempt: grant.attempt,
            proof: self.request.prove(&self.key, &self.fingerprint, &grant),
        };
        match self.request.policy().execution {
            // In Kong, nginx owns the execution where `proxy_ignore_client_abort` is on.
            Execution::Detached if env.profile == Profile::Envoy => {
                env.effect(Effect::Execute(Box::new(Execute {
                    request: self.request,
                    lease,
                    forwarding,
                    trailers: self.trailers,
                })));
                (State::Detached, Flow::Pause)
            }
            Execution::Inline | Execution::Detached => self.forward(lease, &forwarding, env),
        }
    }

    fn send_on(&self, forwarding: &Forwarding, env: &mut Env) {
        let changes = forward::changes(env.profile, &self.request, &self.key, forwarding);
        env.effect(Effect::ChangeRequest(changes));
        env.effect(Effect::ResumeRequest);
    }

    fn forward(self, lease: Lease, forwarding: &Forwarding, env: &mut Env) -> Step {
        self.send_on(forwarding, env);
        (
            State::Forwarded(Box::new(Run {
                request: self.request,
                lease,
            })),
            Flow::Pause,
        )
    }

    fn stored(&self, stored: &Stored, env: &mut Env) -> Step {
        match &*stored.outcome {
            Outcome::Response(response) if reply::is_replayable(response) => {
                let policy = self.request.policy();
                let policies = &self.request.settings.policies;
                let origin = self.request.origin();
                let rule = Arc::clone(&self.request.rule);
                env.effect(Effect::CountRule(Counter::Replayed, rule));
                env.effect(Effect::Reply(reply::replay(
                    policies, policy, stored, response, origin,
                )));
                (State::Answered, Flow::Pause)
            }
            _ => self.refuse(Problem::NotReplayable, stored.fence, env),
        }
    }

    fn in_flight(mut self: Box<Self>, fence: u64, env: &mut Env) -> Step {
        if self.request.carries(fence) {
            return refuse(&self.request, Problem::Misconfigured, Some(TWO_HOPS), env);
        }
        let wait_ns = self.request.policy().wait_ms.saturating_mul(1_000_000);
        if self.wait_until_ns.is_none() && wait_ns > 0 {
            env.count(Counter::Waited);
        }
        let now_ns = env.now().least_ns;
        let until = *self
            .wait_until_ns
            .get_or_insert(now_ns.saturating_add(wait_ns));
        let left_ms = until.saturating_sub(now_ns) / 1_000_000;
        if left_ms == 0 {
            return self.refuse(Problem::InFlight, fence, env);
        }
        let wait = Request::wait(
            LookupKey::clone(&self.key),
            self.fingerprint,
            fence,
            left_ms,
        );
        env.effect(Effect::Call(Call::Wait(Box::new(wait))));
        (State::Waiting(self), Flow::Pause)
    }

    pub(super) fn waited(self, result: CallResult, env: &mut Env) -> Step {
        match result {
            Ok(Answer::Stored(stored)) => self.stored(&stored, env),
            Ok(Answer::Changed) => {
                let Ticket {
                    request,
                    key,
                    fingerprint,
                    trailers,
                    wait_until_ns,
                    ..
                } = self;
                Ticket::acquire(request, key, fingerprint, trailers, wait_until_ns, env)
            }
            Ok(Answer::Unreadable { .. }) => self.refuse(Problem::NotReplayable, 0, env),
            // No answer to the wait changes nothing about what is known: it was in flight.
            _ => self.refuse(Problem::InFlight, 0, env),
        }
    }

    /// An answer that is no reason to go on, whatever the rule says of outages.
    fn not_understood(&self, why: String, env: &mut Env) -> Step {
        // The service may have granted it: take it back, before or after it arrives.
        env.effect(Effect::Background(self.fail()));
        self.refuse_since(Problem::StoreUnavailable, why, env)
    }

    /// The service is down: by the rule's policy.
    fn unanswered(self, why: String, env: &mut Env) -> Step {
        match self.request.policy().on_service_failure {
            OnServiceFailure::Refuse => self.not_understood(why, env),
            OnServiceFailure::Pass => {
                let note = Note::of(&self.request, Counter::PassedUnprotected);
                env.effect(Effect::Note(note.about(&self.key, 0).because(why)));
                // It keeps its owner: if the acquire did arrive, the record gets its outcome.
                let lease = Lease {
                    key: Arc::clone(&self.key),
                    owner: self.owner,
                    fence: 0,
                    lease_ms: self.request.policy().lease_ms,
                    since_ns: self.sent.most_ns,
                };
                env.effect(Effect::Track(lease.clone()));
                self.forward(lease, &Forwarding::Unprotected, env)
            }
        }
    }
}
