//! Makes answers from the results of calls, and finds what is still to be done before that.

use super::call::ScriptCall;
use super::errors::{is_out_of_memory, store_error};
use super::reply::{self, Elsewhere, Fetched, ReplyContext, ScriptReply};
use super::send::Outcome;
use super::RedisStore;
use crate::history::Failure;
use crate::machine::{Event, Room};
use crate::replay;
use crate::store::StoreError;
use bytes::Bytes;
use idempotency_protocol::{Answer, Fault, FaultCode, LookupKey};

impl RedisStore {
    /// Turns what came of operations into their answers.
    pub(super) async fn conclude(
        &self,
        asked: Vec<ReplyContext>,
        events: &[(LookupKey, Event)],
        calls: &[ScriptCall],
        outcomes: Vec<Outcome>,
    ) -> Vec<Concluded> {
        let mut concluded = Vec::with_capacity(calls.len());
        // Nearly always none: their futures are large, and not made before they are needed.
        let mut unfinished = Vec::new();
        let each = outcomes.into_iter().zip(asked).zip(events).zip(calls);
        for (at, (((outcome, asked), (_, event)), call)) in each.enumerate() {
            let confirmed = outcome.confirmed;
            let finish = match outcome.value {
                Ok(value) => match at_once(reply::answer(value, asked), confirmed) {
                    Ok(answer) => {
                        concluded.push(answer);
                        continue;
                    }
                    Err(reply) => Unfinished::Reply(reply),
                },
                Err(error) => Unfinished::Error(error, asked),
            };
            concluded.push(Concluded::old(reply::unreadable_answer()));
            unfinished.push(async move { (at, self.finish(finish, event, call).await) });
        }
        if !unfinished.is_empty() {
            for (at, answer) in futures_util::future::join_all(unfinished).await {
                if let Some(place) = concluded.get_mut(at) {
                    *place = answer;
                }
            }
        }
        concluded
    }

    /// Does what is left to do before an operation can be answered.
    async fn finish(&self, what: Unfinished, event: &Event, call: &ScriptCall) -> Concluded {
        let reply = match what {
            Unfinished::Reply(reply) => reply,
            // What ends an execution must get through, at least as a fact.
            Unfinished::Error(error, asked)
                if is_out_of_memory(&error) && call.must_get_through =>
            {
                let fact = ScriptCall::as_fact(event, call.key.clone());
                let reply = match self.shared.caller.at_any_cost(&fact).await {
                    Ok(value) => reply::answer(value, asked),
                    Err(error) => return Concluded::old(reply::fault(Some(event), &error)),
                };
                let confirmed = self.shared.connector.options().wait.is_none();
                match at_once(reply, confirmed) {
                    Ok(answer) => return answer,
                    Err(reply) => reply,
                }
            }
            Unfinished::Error(error, _) => {
                return Concluded::old(reply::fault(Some(event), &error))
            }
        };
        Concluded::old(match reply {
            ScriptReply::Fresh(_) => {
                self.take_back(event, call, Failure::NothingDone).await;
                unconfirmed("the grant was taken back")
            }
            ScriptReply::Elsewhere(found) => self.fetch(&call.key, found).await,
            ScriptReply::Answer(answer) => answer,
            ScriptReply::Illegible => replay::illegible(event),
            ScriptReply::New | ScriptReply::Waiting { .. } => reply::unreadable_answer(),
        })
    }

    /// Takes a grant back under which nobody executes: it might be forgotten, and given again. If an
    /// attempt before it may have been done, the record has noted that at the grant, and stays unknown.
    pub(super) async fn take_back(&self, event: &Event, call: &ScriptCall, failure: Failure) {
        let Event::Acquire(acquire) = event else {
            return;
        };
        let owner = acquire.owner;
        let undoing = Event::Fail { owner, failure };
        let taken = ScriptCall::apply(call.key.clone(), &undoing, Room::Plenty);
        // If this fails too, the lease runs out, and the key is unknown.
        let outcome = self.shared.caller.all(&[taken], false).await.pop();
        let value = outcome.and_then(|outcome| outcome.value.ok());
        let reply = value.map(|value| reply::answer(value, ReplyContext::nothing()));
        if let Some(ScriptReply::Answer(answer)) = reply {
            self.taken_back(&call.key, &undoing, &answer).await;
        }
    }

    /// Fetches an outcome that was too large to be sent along.
    pub(super) async fn fetch(&self, name: &Bytes, found: Elsewhere) -> Answer {
        let call = ScriptCall::outcome(name.clone(), found.digest.clone());
        let value = self.shared.caller.one(call, true).await;
        // It is done, whatever comes now: never an answer that a rule may take for an outage.
        match value.map_err(|e| store_error(&e)).and_then(reply::outcome) {
            Ok(Fetched::Data(data)) => found.answer(data),
            Ok(Fetched::Changed) => {
                let why = "Redis: the record changed while it was read".to_owned();
                replay::unread(&StoreError::Transient(why))
            }
            Err(error) => replay::unread(&error),
        }
    }
}

/// What is known of an operation that cannot be answered at once.
enum Unfinished {
    Reply(ScriptReply),
    Error(redis::RedisError, ReplyContext),
}

/// The answer, where a reply leaves nothing to do; else the reply, which is passed on at once.
#[allow(clippy::result_large_err)]
fn at_once(reply: ScriptReply, confirmed: bool) -> Result<Concluded, ScriptReply> {
    match reply {
        ScriptReply::Fresh(grant) if confirmed => Ok(Concluded {
            answer: Answer::Granted(grant),
            fresh: true,
            new: false,
        }),
        ScriptReply::New => Ok(Concluded {
            new: true,
            ..Concluded::old(reply::unreadable_answer())
        }),
        ScriptReply::Answer(
            Answer::Granted(_)
            | Answer::Completed { .. }
            | Answer::Failed
            | Answer::Abandoned
            | Answer::Marked
            | Answer::Extended { .. },
        ) if !confirmed => Ok(Concluded::old(unconfirmed("what was written stays"))),
        ScriptReply::Answer(answer) => Ok(Concluded::old(answer)),
        reply => Err(reply),
    }
}

/// An answer that may not be the last word yet; whether it is a grant that this very operation was
/// given.
pub(super) struct Concluded {
    pub answer: Answer,
    /// A grant that nobody knows of so far.
    pub fresh: bool,
    /// Not asked to the end yet: it would make a new record.
    pub new: bool,
}

impl Concluded {
    pub fn old(answer: Answer) -> Concluded {
        Concluded {
            answer,
            fresh: false,
            new: false,
        }
    }
}

fn unconfirmed(what: &str) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Unavailable,
        detail: format!("Redis: not enough replicas confirmed in time; {what}"),
    })
}
