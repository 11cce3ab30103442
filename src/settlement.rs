//! How the service took the end of an execution, and what that means for the client.

use crate::call::CallResult;
use crate::note::Note;
use crate::stats::Counter;
use crate::stream::Effect;
use bytes::Bytes;
use idempotency_core::config::OnCompleteFailure;
use idempotency_core::problem::Problem;
use idempotency_core::reply::{self, LocalReply};
use idempotency_core::request::Request;
use idempotency_core::settled::Settled;
use idempotency_protocol::{Answer, Operation};

/// What is counted of a settlement that the service took so.
pub fn counter(settled: Settled, operation: &Operation) -> Option<Counter> {
    Some(match (settled, operation) {
        (Settled::Recorded { .. }, Operation::Complete(_)) => Counter::Completed,
        (Settled::Recorded { .. }, Operation::Fail { .. }) => Counter::Failed,
        (Settled::Recorded { .. }, Operation::Abandon { .. }) => Counter::Unknown,
        (Settled::Refused, Operation::Complete(_)) => Counter::CompleteRefused,
        (Settled::Unanswered, Operation::Complete(_)) => Counter::CompleteUnanswered,
        _ => return None,
    })
}

/// What the operator is told of how the service took an outcome, besides the count; `None`: nothing but that.
pub fn note(what: Counter, operation: &Operation, result: &CallResult) -> Option<Note> {
    let why = match what {
        Counter::CompleteRefused => match result {
            Ok(Answer::Lost) => "the key belongs to another execution by now".into(),
            Ok(Answer::Differs) => "another outcome of this execution is stored".into(),
            Ok(Answer::Fault(fault)) => fault.to_string().into(),
            _ => "the record has another state".into(),
        },
        Counter::CompleteUnanswered => match result {
            Ok(Answer::Fault(fault)) => fault.to_string().into(),
            Err(failed) => failed.to_string().into(),
            Ok(_) => "".into(),
        },
        _ => return None,
    };
    let mut note = Note::new(what);
    note.key = Some(operation.key().clone());
    note.why = why;
    Some(note)
}

/// A settlement has come back: it is counted, and goes on in the background where it got no answer. `request`: the
/// one that it is about, if that is still known.
pub fn returned(
    request: Option<&Request>,
    operation: Box<Operation>,
    result: &CallResult,
    effects: &mut Vec<Effect>,
) -> Settled {
    let settled = Settled::read(result);
    if let Some(what) = counter(settled, &operation) {
        effects.push(match note(what, &operation, result) {
            None => Effect::Count(what),
            Some(mut note) => {
                if let Some(request) = request {
                    note.add(request);
                }
                Effect::Note(Box::new(note))
            }
        });
    }
    if settled == Settled::Unanswered {
        effects.push(Effect::Background(operation));
    }
    settled
}

/// The same where a client waits for the end of its answer. `Ok`: it gets it, with this header where one can
/// still be added. `Err`: it gets this in its place, or sees its answer cut off.
pub fn answered(
    request: &Request,
    operation: Box<Operation>,
    result: &CallResult,
    effects: &mut Vec<Effect>,
) -> Result<Option<(Bytes, Bytes)>, LocalReply> {
    let withhold = request.policy().on_complete_failure == OnCompleteFailure::Withhold
        && matches!(*operation, Operation::Complete(_));
    let key = withhold.then(|| operation.key().clone());
    match returned(Some(request), operation, result, effects) {
        Settled::Recorded { expires_at_ms } => Ok(expires_at_ms.map(reply::expires)),
        _ if withhold => {
            let problem = Problem::OutcomeUnrecorded;
            effects.push(Effect::Note(Note::of(request, Counter::Problem(problem))));
            Err(request.problem(key.as_ref(), problem, None))
        }
        _ => Ok(None),
    }
}
