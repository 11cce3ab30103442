//! From the fingerprint to the decision: acquire, wait, and what their answers mean.

use super::execute::Run;
use super::{Exchange, State, Step};
use crate::call::CallResult;
use crate::forward;
use idempotency_core::config::OnServiceFailure;
use idempotency_core::ending::Ending;
use idempotency_core::forward::Forwarding;
use idempotency_core::hop::MayBe;
use idempotency_core::problem::Problem;
use idempotency_core::reply;
use idempotency_core::request::Request;
use idempotency_protocol::{
    Answer, FaultCode, Fingerprint, Grant, LookupKey, Operation, Outcome, Owner, Stored, Wait,
};
use std::time::Duration;

/// How a record tells through what its request came.
const GATEWAY: &str = "kong";

/// What a client is told whose request two gateways protect that know nothing of each other.
const TWO_HOPS: &str =
    "The request was not executed: two gateways protect it with one lock, and no hop.key that \
                        both accept lets the second one know of the first.";

/// A request that asks for the right to execute.
pub(super) struct Ticket {
    key: LookupKey,
    fingerprint: Fingerprint,
    owner: Owner,
    /// When the acquire was sent: the lease counts from here.
    sent: Duration,
    /// Until when this request waits for another execution; set at the first *in flight*.
    wait_until: Option<Duration>,
    /// The fence that it waits for.
    fence: u64,
}

impl Ticket {
    pub fn new(key: LookupKey, fingerprint: Fingerprint, owner: Owner, now: Duration) -> Ticket {
        Ticket {
            key,
            fingerprint,
            owner,
            sent: now,
            wait_until: None,
            fence: 0,
        }
    }

    /// It leaves now.
    pub fn sent(&mut self, now: Duration) {
        self.sent = now;
    }

    /// Takes the acquire back, whether or not it has arrived: nothing was sent upstream.
    pub fn fail(self) -> Operation {
        Ending::NotSent.end().operation(self.key, self.owner)
    }

    /// The wait for what is in flight; `None`: its time is over.
    pub fn wait(&self, now: Duration) -> Option<Wait> {
        let left = self.wait_until?.saturating_sub(now);
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let wait = || Request::wait(self.key.clone(), self.fingerprint, self.fence, left_ms);
        (left_ms > 0).then(wait)
    }
}

/// Whether more than `lease − margin` has passed since the call that got the lease was sent.
pub(super) fn is_too_late(sent: Duration, now: Duration, lease_ms: u64, margin_ms: u64) -> bool {
    let usable = Duration::from_millis(lease_ms.saturating_sub(margin_ms));
    now.saturating_sub(sent) >= usable
}

impl Exchange {
    /// A request whose body is whole: it acquires, unless a gateway of ours before this one has proved that it is
    /// that gateway's execution.
    pub(super) fn ask(&mut self, request: &Request, ticket: Ticket) -> Step {
        let proven = request.proven(&ticket.key, &ticket.fingerprint);
        let Some(proven) = proven.filter(|proven| proven.ours) else {
            return self.acquire(request, ticket);
        };
        let redeem = Request::redeem(ticket.key.clone(), ticket.fingerprint, &proven);
        self.pending = Some(redeem);
        self.state = State::Redeeming(ticket);
        Step::Call
    }

    fn acquire(&mut self, request: &Request, ticket: Ticket) -> Step {
        self.alone = false;
        let key = ticket.key.clone();
        self.pending = Some(request.acquire(key, ticket.owner, ticket.fingerprint, GATEWAY));
        self.state = State::Acquiring(ticket);
        Step::Call
    }

    /// What the store says of a proof.
    pub(super) fn redeemed(
        &mut self,
        request: &Request,
        ticket: Ticket,
        result: CallResult,
        now: Duration,
    ) -> Step {
        let margin_ms = request.policy().lease_margin_ms;
        match result {
            Ok(Answer::Redeemed { lease_left_ms })
                if !is_too_late(ticket.sent, now, lease_left_ms, margin_ms) =>
            {
                self.forwarded = forward::fields(request, &ticket.key, &Forwarding::Relayed);
                // It is the other gateway's execution, and its answer passes.
                Step::Relay
            }
            // It was redeemed for this request, and is sent nowhere.
            Ok(Answer::Redeemed { .. }) => self.refuse(request, Problem::StoreUnavailable, None),
            // Another copy of this request was let through, and may still be executed.
            Ok(Answer::Spent) => self.refuse_copy(request, Problem::InFlight),
            // Not (any more) an execution of this store, or of a service that knows no proofs: a client's request.
            Ok(Answer::Lost) => self.acquire(request, ticket),
            Ok(Answer::Fault(fault)) if fault.code == FaultCode::Invalid => {
                self.acquire(request, ticket)
            }
            // Whether one was, nobody knows.
            _ => self.refuse_copy(request, Problem::StoreUnavailable),
        }
    }

    fn refuse_copy(&mut self, request: &Request, problem: Problem) -> Step {
        let step = self.refuse(request, problem, None);
        let (key, status) = (self.key.as_ref(), problem.status());
        self.reply = Some(request.problem_as(key, problem, status, None, MayBe::Executed));
        step
    }

    pub(super) fn acquired(
        &mut self,
        request: &Request,
        ticket: Ticket,
        result: CallResult,
        now: Duration,
    ) -> Step {
        match result {
            Ok(Answer::Granted(grant)) => self.granted(request, ticket, grant, now),
            Ok(Answer::Stored(stored)) => self.stored(request, &stored),
            Ok(Answer::InFlight { fence, .. }) => self.in_flight(request, ticket, fence, now),
            Ok(Answer::Mismatch) => self.refuse(request, Problem::KeyReused, None),
            Ok(Answer::NotComparable) => self.refuse(request, Problem::NotComparable, None),
            Ok(Answer::UnknownOutcome { .. }) => {
                self.refuse(request, Problem::OutcomeUnknown, None)
            }
            Ok(Answer::Unreadable { .. }) => self.refuse(request, Problem::NotReplayable, None),
            Ok(Answer::Fault(fault)) => match fault.code {
                FaultCode::Capacity | FaultCode::Untrusted => {
                    self.refuse_since(request, Problem::StoreUnavailable, &fault.to_string())
                }
                FaultCode::Quota => {
                    self.refuse_since(request, Problem::TenantQuota, &fault.to_string())
                }
                FaultCode::Unavailable => self.unanswered(request, ticket, &fault.to_string()),
                // The service is there, and said something else than that it is down.
                FaultCode::Invalid | FaultCode::Internal => {
                    self.not_understood(request, ticket, &fault.to_string())
                }
            },
            Err(failed) if failed.is_outage() => {
                self.unanswered(request, ticket, &failed.to_string())
            }
            Err(failed) => self.not_understood(request, ticket, &failed.to_string()),
            // `Cancelled` and `Spent` cannot concern a fresh owner of a live request, and the other answers are not
            // answers to an acquire.
            Ok(_) => self.not_understood(request, ticket, "the answer is none to an acquire"),
        }
    }

    fn granted(&mut self, request: &Request, ticket: Ticket, grant: Grant, now: Duration) -> Step {
        let margin_ms = request.policy().lease_margin_ms;
        if is_too_late(ticket.sent, now, grant.lease_ms, margin_ms) {
            let why = "the grant came too late to be forwarded";
            self.pending = Some(ticket.fail());
            return self.refuse_since(request, Problem::StoreUnavailable, why);
        }
        let forwarding = Forwarding::Granted {
            fence: grant.fence,
            attempt: grant.attempt,
            proof: request.prove(&ticket.key, &ticket.fingerprint, &grant),
        };
        let run = Run {
            key: ticket.key,
            owner: ticket.owner,
            fence: grant.fence,
            lease_ms: grant.lease_ms,
            since: ticket.sent,
        };
        self.hold(request, run, &forwarding)
    }

    fn hold(&mut self, request: &Request, run: Run, forwarding: &Forwarding) -> Step {
        self.forwarded = forward::fields(request, &run.key, forwarding);
        self.state = State::Holding(run);
        Step::Execute
    }

    fn stored(&mut self, request: &Request, stored: &Stored) -> Step {
        match &*stored.outcome {
            Outcome::Response(response) if reply::is_replayable(response) => {
                let policies = &request.settings.policies;
                let policy = request.policy();
                let origin = request.origin();
                self.state = State::Over;
                self.reply = Some(reply::replay(policies, policy, stored, response, origin));
                Step::Reply
            }
            _ => self.refuse(request, Problem::NotReplayable, None),
        }
    }

    fn in_flight(
        &mut self,
        request: &Request,
        mut ticket: Ticket,
        fence: u64,
        now: Duration,
    ) -> Step {
        if request.carries(fence) {
            return self.refuse(request, Problem::Misconfigured, Some(TWO_HOPS));
        }
        let wait = Duration::from_millis(request.policy().wait_ms);
        ticket.wait_until.get_or_insert(now.saturating_add(wait));
        ticket.fence = fence;
        if ticket.wait(now).is_none() {
            return self.refuse(request, Problem::InFlight, None);
        }
        self.state = State::Waiting(ticket);
        Step::Wait
    }

    pub(super) fn after_wait(
        &mut self,
        request: &Request,
        ticket: Ticket,
        result: CallResult,
        owner: Owner,
        now: Duration,
    ) -> Step {
        match result {
            Ok(Answer::Stored(stored)) => self.stored(request, &stored),
            Ok(Answer::Changed) => {
                let anew = Ticket {
                    owner,
                    sent: now,
                    ..ticket
                };
                self.acquire(request, anew)
            }
            Ok(Answer::Unreadable { .. }) => self.refuse(request, Problem::NotReplayable, None),
            // No answer to the wait changes nothing about what is known: it was in flight.
            _ => self.refuse(request, Problem::InFlight, None),
        }
    }

    /// An answer that is no reason to go on, whatever the rule says of outages.
    fn not_understood(&mut self, request: &Request, ticket: Ticket, why: &str) -> Step {
        // The service may have granted it: take it back, before or after it arrives.
        self.pending = Some(ticket.fail());
        self.refuse_since(request, Problem::StoreUnavailable, why)
    }

    /// The service is down: by the rule's policy.
    fn unanswered(&mut self, request: &Request, ticket: Ticket, why: &str) -> Step {
        if request.policy().on_service_failure == OnServiceFailure::Refuse {
            return self.not_understood(request, ticket, why);
        }
        self.why = format!("passed-unprotected: {why}");
        // It keeps its owner: if the acquire did arrive, the record gets its outcome.
        let run = Run {
            key: ticket.key,
            owner: ticket.owner,
            fence: 0,
            lease_ms: request.policy().lease_ms,
            since: ticket.sent,
        };
        self.hold(request, run, &Forwarding::Unprotected)
    }
}
