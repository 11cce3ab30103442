//! From the grant to the record: what was sent, what came back, and how the service took it.

use super::acquire::is_too_late;
use super::{Exchange, State, Step};
use crate::call::CallResult;
use crate::forward;
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::ending::Ending;
use idempotency_core::headers::Headers;
use idempotency_core::problem::Problem;
use idempotency_core::reply::{self, LocalReply};
use idempotency_core::request::Request;
use idempotency_core::settled::Settled;
use idempotency_protocol::{Answer, LookupKey, Operation, Owner};
use std::time::Duration;

/// The right to execute.
pub(super) struct Run {
    pub key: LookupKey,
    pub owner: Owner,
    /// The fence of the grant; 0 where there is none.
    pub fence: u64,
    /// How long it lasts without renewal, in milliseconds.
    pub lease_ms: u64,
    /// When the call that got or renewed it was sent.
    pub since: Duration,
}

impl Run {
    /// Provably not executed.
    pub fn not_sent(self) -> Operation {
        Ending::NotSent.end().operation(self.key, self.owner)
    }

    /// May have been executed.
    pub fn unknown(self) -> Operation {
        Ending::Unknown.end().operation(self.key, self.owner)
    }
}

/// An answer of the upstream that is arriving.
pub(super) struct Answering {
    run: Run,
    ending: Ending,
}

impl Answering {
    /// It was cut.
    pub fn cut(self) -> Operation {
        let end = self.ending.cut().end();
        end.operation(self.run.key, self.run.owner)
    }
}

/// A settlement that a client waits for.
pub(super) struct Settling {
    run: Run,
    /// What the client gets in place of an answer, of which there is none or half of one.
    instead: Option<LocalReply>,
}

/// How an execution ended that has no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// Nothing came in time.
    Late,
}

impl Cut {
    fn status(self) -> u16 {
        match self {
            Cut::Broken => 502,
            Cut::Late => 504,
        }
    }
}

impl Exchange {
    /// To be asked with a connection to the upstream at hand, before the first byte is sent: whether it may be. If
    /// not ([`Step::Reply`]), the key is given back.
    pub fn may_send(&mut self, now: Duration) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Holding(run), Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        let margin_ms = request.policy().lease_margin_ms;
        if run.fence != 0 && is_too_late(run.since, now, run.lease_ms, margin_ms) {
            let why = "the upstream was not reached while the lease was good";
            self.pending = Some(run.not_sent());
            return self.refuse_since(&request, Problem::StoreUnavailable, why);
        }
        self.state = State::Sent(run);
        Step::Execute
    }

    /// The upstream could not be reached: nothing was sent. The host makes the answer itself, once the key is given
    /// back.
    pub fn unreachable(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Holding(run) => self.settle(run, Ending::NotSent, None),
            other => {
                self.state = other;
                self.defect()
            }
        }
    }

    /// It was sent, and there is no head of an answer.
    pub fn unanswered_by_upstream(&mut self, cut: Cut) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Sent(run), Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        self.why = "outcome-unknown: the request was sent, and no answer came".to_owned();
        let instead = request.cut(&run.key, cut.status());
        self.settle(run, Ending::Unknown, Some(instead))
    }

    /// The head of the upstream's answer has come; no status below 200.
    pub fn answered(&mut self, status: u16, fields: Vec<(Bytes, Bytes)>) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Sent(run), Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        let headers = Headers::lowered(fields);
        let sent = Some((&run.key, run.fence));
        let ending = Ending::answered(&request, sent, &Source::Upstream, status, &headers);
        self.passed = forward::passed(&request.settings.policies, &headers);
        self.state = State::Answering(Box::new(Answering { run, ending }));
        Step::Deliver
    }

    /// More of the answer's body.
    pub fn piece(&mut self, piece: &[u8]) {
        if let State::Answering(answering) = &mut self.state {
            answering.ending.body(piece);
        }
    }

    /// The answer has trailers.
    pub fn trailers(&mut self) {
        if let State::Answering(answering) = &mut self.state {
            answering.ending.trailers();
        }
    }

    /// The answer has ended; `None`: it is whole.
    pub fn ended(&mut self, cut: Option<Cut>) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (State::Answering(answering), Some(request)) = (state, self.request.clone()) else {
            return self.defect();
        };
        let Answering { run, ending } = *answering;
        let (ending, instead) = match cut {
            None => (ending, None),
            Some(cut) => (ending.cut(), Some(request.cut(&run.key, cut.status()))),
        };
        if matches!(ending, Ending::Unknown) {
            let why = match cut {
                None => "this answer does not show whether the request was executed",
                Some(_) => "the answer was cut off",
            };
            self.why = format!("outcome-unknown: {why}");
        }
        self.settle(run, ending, instead)
    }

    fn settle(&mut self, run: Run, ending: Ending, instead: Option<LocalReply>) -> Step {
        self.alone = false;
        self.pending = Some(ending.end().operation(run.key.clone(), run.owner));
        self.state = State::Settling(Box::new(Settling { run, instead }));
        Step::Call
    }

    /// How the service took a settlement that a client waits for.
    pub(super) fn settled(
        &mut self,
        request: &Request,
        settling: Settling,
        operation: Operation,
        result: &CallResult,
    ) -> Step {
        let completes = matches!(operation, Operation::Complete(_));
        let withheld = completes && self.withholds();
        match Settled::read(result) {
            Settled::Recorded { expires_at_ms } => {
                self.additions.extend(expires_at_ms.map(reply::expires));
            }
            settled => {
                self.why = format!("complete-failed: {}", told(result));
                if settled == Settled::Unanswered {
                    self.pending = Some(operation);
                }
                if withheld {
                    let key = Some(&settling.run.key);
                    self.reply = Some(request.problem(key, Problem::OutcomeUnrecorded, None));
                    return Step::Reply;
                }
            }
        }
        match settling.instead {
            Some(reply) => {
                self.reply = Some(reply);
                Step::Reply
            }
            None => Step::Deliver,
        }
    }

    /// How the service took an operation that nobody waits for.
    pub(super) fn delivered(&mut self, operation: Operation, result: &CallResult) -> Step {
        match Settled::read(result) {
            Settled::Unanswered => {
                self.pending = Some(operation);
                Step::Later
            }
            Settled::Recorded { .. } => Step::Done,
            Settled::Refused => {
                self.why = format!("complete-refused: {}", told(result));
                Step::Done
            }
        }
    }

    /// The renewal of a lease that is held, and when it is due; `None`: none is.
    pub fn renewal(&self) -> Option<(Operation, Bytes, Duration)> {
        let run = match &self.state {
            State::Holding(run) | State::Sent(run) => run,
            State::Answering(answering) => &answering.run,
            State::Settling(settling) => &settling.run,
            _ => return None,
        };
        let renewal = Operation::Extend {
            key: run.key.clone(),
            owner: run.owner,
            lease_ms: run.lease_ms,
        };
        let half = Duration::from_millis(run.lease_ms / 2);
        Some((renewal, self.trace(), run.since.saturating_add(half)))
    }

    /// What came of a renewal that was sent at `sent`. False: the lease is lost.
    pub fn renewed(&mut self, result: &CallResult, sent: Duration) -> bool {
        let run = match &mut self.state {
            State::Holding(run) | State::Sent(run) => run,
            State::Answering(answering) => &mut answering.run,
            State::Settling(settling) => &mut settling.run,
            _ => return true,
        };
        match result {
            Ok(Answer::Extended { lease_ms }) => {
                run.lease_ms = *lease_ms;
                run.since = sent;
                true
            }
            Ok(Answer::Lost | Answer::Refused) => false,
            _ => true,
        }
    }
}

/// What the operator is told of an answer.
fn told(result: &CallResult) -> String {
    match result {
        Ok(Answer::Lost) => "the key belongs to another execution by now".to_owned(),
        Ok(Answer::Differs) => "another outcome of this execution is stored".to_owned(),
        Ok(Answer::Refused) => "the record has another state".to_owned(),
        Ok(Answer::Fault(fault)) => fault.to_string(),
        Ok(answer) => answer.name().to_owned(),
        Err(failed) => failed.to_string(),
    }
}
