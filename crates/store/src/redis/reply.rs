//! What the script answers.

use super::errors;
use super::meta;
use crate::machine::{Event, Replay};
use crate::quota::Quota;
use crate::record::StoredOutcome;
use crate::replay::{self, damaged};
use crate::store::{RecordView, Resolved, StoreError};
use bytes::{Buf, Bytes};
use idempotency_protocol::{Answer, CarriedOutcome, Fault, FaultCode, Grant, LookupKey, Stored};
use redis::{RedisError, Value};

/// An answer, or the way to it.
#[derive(Debug)]
pub(super) enum ScriptReply {
    Answer(Answer),
    /// Granted by this very call, not by an earlier one that it repeats.
    Fresh(Grant),
    /// Stored, but too large to be sent along: fetch the outcome with that digest.
    Elsewhere(Elsewhere),
    /// It would be a new record, and it was not to be made yet.
    New,
    /// This build cannot read the record whole.
    Illegible,
    /// To a waiter: the execution goes on.
    Waiting {
        lease_left_ms: u64,
    },
}

/// A stored outcome that is still in the store.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub digest: Bytes,
    status: u16,
    fence: u64,
    attempt: u32,
    age_ms: u64,
    expires_at_ms: u64,
}

impl Elsewhere {
    /// The answer, once the outcome is there; `None`: it is not, though the record says so.
    pub fn answer(self, data: Option<Bytes>) -> Answer {
        replay::answer(Replay {
            outcome: StoredOutcome {
                status: self.status,
                // What only the digest and the sizes could tell is not asked any more.
                body_bytes: None,
                digest: [0; 32],
                size: 0,
                data,
            },
            fence: self.fence,
            attempt: self.attempt,
            age_ms: self.age_ms,
            expires_at_ms: self.expires_at_ms,
        })
    }
}

/// What is needed of an operation to read its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyContext {
    lease_ms: u64,
}

impl ReplyContext {
    pub fn of_event(event: &Event) -> ReplyContext {
        let lease_ms = match event {
            Event::Acquire(a) => a.lease_ms,
            Event::Extend { lease_ms, .. } => *lease_ms,
            _ => 0,
        };
        ReplyContext { lease_ms }
    }

    pub fn nothing() -> ReplyContext {
        ReplyContext { lease_ms: 0 }
    }
}

/// The fault in the place of an answer.
pub(super) fn fault(event: Option<&Event>, error: &RedisError) -> Answer {
    if errors::is_out_of_memory(error) && matches!(event, Some(Event::Acquire(_))) {
        return Answer::Fault(Fault {
            code: FaultCode::Capacity,
            detail: "Redis is out of memory: no new executions".into(),
        });
    }
    Answer::Fault(errors::store_error(error).into())
}

/// The parts of an array.
struct ArrayParts(std::vec::IntoIter<Value>);

impl ArrayParts {
    fn of(value: Value) -> Option<ArrayParts> {
        match value {
            Value::Array(parts) => Some(ArrayParts(parts.into_iter())),
            _ => None,
        }
    }

    fn word(&mut self) -> Option<String> {
        match self.0.next()? {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
            Value::SimpleString(text) => Some(text),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        match self.0.next()? {
            Value::Int(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    fn signed(&mut self) -> Option<i64> {
        match self.0.next()? {
            Value::Int(n) => Some(n),
            _ => None,
        }
    }

    /// `None` where the script says `false`.
    fn bytes(&mut self) -> Option<Option<Bytes>> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Some(Some(Bytes::from(bytes))),
            Some(Value::Nil | Value::Boolean(false)) | None => Some(None),
            Some(_) => None,
        }
    }
}

/// The answer to an operation or to a waiter's look.
pub(super) fn answer(value: Value, asked: ReplyContext) -> ScriptReply {
    read(value, asked).unwrap_or_else(|| ScriptReply::Answer(unreadable_answer()))
}

/// An answer that is none to the question.
pub(super) fn unreadable_answer() -> Answer {
    damaged("the script's answer cannot be read".into())
}

fn read(value: Value, asked: ReplyContext) -> Option<ScriptReply> {
    let mut parts = ArrayParts::of(value)?;
    let answer = match parts.word()?.as_str() {
        "granted" => {
            let grant = Grant {
                fence: parts.number()?,
                attempt: u32::try_from(parts.number()?).ok()?,
                lease_ms: asked.lease_ms,
            };
            match u64::try_from(parts.signed()?) {
                Ok(lease_ms) => Answer::Granted(Grant { lease_ms, ..grant }),
                // Negative: given just now, as long as asked.
                Err(_) => return Some(ScriptReply::Fresh(grant)),
            }
        }
        "stored" => {
            let fence = parts.number()?;
            let attempt = u32::try_from(parts.number()?).ok()?;
            let age_ms = parts.number()?;
            let expires_at_ms = parts.number()?;
            // Status, whether there is a body, its size, digest.
            let mut facts = parts.bytes()??;
            let status = facts.try_get_u16().ok()?;
            let digest = facts.split_off(facts.len().checked_sub(32)?);
            let found = Elsewhere {
                status,
                digest,
                fence,
                attempt,
                age_ms,
                expires_at_ms,
            };
            match parts.bytes()? {
                Some(data) => found.answer(Some(data)),
                None => return Some(ScriptReply::Elsewhere(found)),
            }
        }
        "redirected" => {
            let fence = parts.number()?;
            let attempt = u32::try_from(parts.number()?).ok()?;
            let age_ms = parts.number()?;
            let expires_at_ms = parts.number()?;
            match CarriedOutcome::decode(parts.bytes()??) {
                Ok(outcome) => Answer::Stored(Stored {
                    outcome,
                    fence,
                    attempt,
                    age_ms,
                    expires_at_ms,
                }),
                // As the machine has it.
                Err(_) => Answer::Mismatch,
            }
        }
        "waiting" => {
            return Some(ScriptReply::Waiting {
                lease_left_ms: parts.number()?,
            })
        }
        "in_flight" => Answer::InFlight {
            fence: parts.number()?,
            lease_left_ms: parts.number()?,
        },
        "unknown_outcome" => Answer::UnknownOutcome {
            expires_at_ms: parts.number()?,
        },
        "completed" => Answer::Completed {
            expires_at_ms: parts.number()?,
        },
        "redeemed" => Answer::Redeemed {
            lease_left_ms: parts.number()?,
        },
        "mismatch" => Answer::Mismatch,
        "not_comparable" => Answer::NotComparable,
        "cancelled" => Answer::Cancelled,
        "spent" => Answer::Spent,
        "differs" => Answer::Differs,
        "failed" => Answer::Failed,
        "abandoned" => Answer::Abandoned,
        "marked" => Answer::Marked,
        "extended" => Answer::Extended {
            lease_ms: asked.lease_ms,
        },
        "lost" => Answer::Lost,
        "refused" => Answer::Refused,
        "changed" => Answer::Changed,
        "new" => return Some(ScriptReply::New),
        "illegible" => return Some(ScriptReply::Illegible),
        "capacity" => Answer::Fault(Fault {
            code: FaultCode::Capacity,
            detail: "above the high-water mark: no new executions".into(),
        }),
        _ => return None,
    };
    Some(ScriptReply::Answer(answer))
}

/// Whether a tenant has room for a new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It is reserved by this call.
    Now,
    /// Another call about the same key has reserved it, or executes.
    Before,
    /// It has none.
    UsedUp(Quota),
    /// Nor here, but the record seems to be there by now.
    UsedUpButKnown(Quota),
}

/// Reads whether a tenant has room; `None` if the reply is none to this question.
pub(super) fn reserved(value: Value) -> Option<Reserved> {
    let mut parts = ArrayParts::of(value)?;
    match parts.word()?.as_str() {
        "reserved" => Some(Reserved::Now),
        "held" => Some(Reserved::Before),
        "used_up" => {
            let at = usize::try_from(parts.number()?).ok()?;
            let quota = *Quota::ALL.get(at)?;
            Some(match parts.number()? {
                0 => Reserved::UsedUp(quota),
                _ => Reserved::UsedUpButKnown(quota),
            })
        }
        _ => None,
    }
}

/// The entries that a note has put; `None` if the reply is none to a note.
pub(super) fn noted(value: Value) -> Option<Vec<Bytes>> {
    let mut parts = ArrayParts::of(value)?;
    (parts.word()? == "noted").then_some(())?;
    let mut put = Vec::new();
    while let Some(entry) = parts.bytes()? {
        put.push(entry);
    }
    Some(put)
}

/// The outcome that was to be fetched.
pub(super) enum Fetched {
    /// What is stored; `None` if it is lost.
    Data(Option<Bytes>),
    /// The record has changed since.
    Changed,
}

/// Reads the outcome that was fetched.
pub(super) fn outcome(value: Value) -> Result<Fetched, StoreError> {
    let mut parts = ArrayParts::of(value).ok_or_else(unreadable)?;
    match parts.word().as_deref() {
        Some("outcome") => Ok(Fetched::Data(parts.bytes().ok_or_else(unreadable)?)),
        Some("changed" | "illegible") => Ok(Fetched::Changed),
        _ => Err(unreadable()),
    }
}

/// What an operator looks at.
pub(super) fn record(value: Value, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
    let mut parts = ArrayParts::of(value).ok_or_else(unreadable)?;
    match parts.word().as_deref() {
        Some("none") => Ok(None),
        Some("record") => view(&mut parts, key),
        Some("illegible") => Err(illegible()),
        _ => Err(unreadable()),
    }
}

/// What is stored for a completed record, without its data.
pub(super) fn stored(value: Value) -> Result<Option<StoredOutcome>, StoreError> {
    let mut parts = ArrayParts::of(value).ok_or_else(unreadable)?;
    match parts.word().as_deref() {
        Some("none") => return Ok(None),
        Some("record") => {}
        Some("illegible") => return Err(illegible()),
        _ => return Err(unreadable()),
    }
    parts.number().ok_or_else(unreadable)?;
    let m = parts.bytes().flatten().ok_or_else(unreadable)?;
    let slot = meta::decode(&m, None).ok_or_else(unreadable)?;
    let execution = slot.execution.as_ref();
    Ok(execution.and_then(|e| e.state.outcome().cloned()))
}

/// The same, of one of many: what cannot be read does not hide the others.
pub(super) fn listed(value: Value, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
    match record(value, key) {
        Err(error) if error == illegible() => Ok(None),
        result => result,
    }
}

/// Whether a sweep made an execution unknown.
pub(super) fn has_lapsed(value: Value) -> Result<bool, StoreError> {
    let mut parts = ArrayParts::of(value).ok_or_else(unreadable)?;
    match parts.word().as_deref() {
        Some("lapsed") => Ok(true),
        Some("kept" | "illegible") => Ok(false),
        _ => Err(unreadable()),
    }
}

/// How an operator's decision ended.
pub(super) fn resolved(value: Value, key: &LookupKey) -> Result<Resolved, StoreError> {
    let mut parts = ArrayParts::of(value).ok_or_else(unreadable)?;
    let word = parts.word().ok_or_else(unreadable)?;
    match word.as_str() {
        "no_such_key" => return Ok(Resolved::NoSuchKey),
        "illegible" => return Err(illegible()),
        _ => {}
    }
    let view = view(&mut parts, key)?;
    match (word.as_str(), view) {
        ("done", view) => Ok(Resolved::Done(view)),
        ("version_changed", Some(view)) => Ok(Resolved::VersionChanged(view)),
        ("executing", Some(view)) => Ok(Resolved::Executing(view)),
        _ => Err(unreadable()),
    }
}

fn view(parts: &mut ArrayParts, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
    let now = parts.number().ok_or_else(unreadable)?;
    let m = parts.bytes().flatten().ok_or_else(unreadable)?;
    let x = parts.bytes().ok_or_else(unreadable)?;
    meta::view(&m, x.as_deref(), key, now).ok_or_else(unreadable)
}

fn unreadable() -> StoreError {
    StoreError::Permanent("Redis: the script's answer cannot be read".into())
}

fn illegible() -> StoreError {
    StoreError::Permanent("Redis: the record cannot be read by this version".into())
}
