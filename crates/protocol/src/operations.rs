//! The byte form of operations.

use crate::about::About;
use crate::codec::{put_short, DecodeError, Decoded, Reader};
use crate::frame::{framed, reframe, Wire};
use crate::operation::{
    Acquire, AttemptKind, Complete, FailCause, OnUnknown, Operation, Redeem, Retention, Settle,
    Settlement,
};
use crate::parts::{
    fingerprint, key, outcome, owner, put_fingerprint, put_key, put_outcome, put_response, response,
};
use crate::response::CarriedOutcome;
use bytes::Bytes;
use std::sync::Arc;

mod op_kind {
    pub const ACQUIRE: u8 = 1;
    pub const COMPLETE: u8 = 2;
    pub const FAIL: u8 = 3;
    pub const ABANDON: u8 = 4;
    pub const EXTEND: u8 = 5;
    pub const SETTLE: u8 = 6;
    pub const REDEEM: u8 = 7;
}

/// Writes an operation. A peer of version 1 gets what it knows; what it does not know is left out, and each
/// such field has a meaning that is safe without it.
pub(crate) fn encode(operation: &Operation, wire: Wire, out: &mut Vec<u8>) {
    match operation {
        Operation::Acquire(a) => framed(op_kind::ACQUIRE, out, |o| {
            put_key(o, &a.key);
            o.extend_from_slice(&a.owner.0);
            put_fingerprint(o, &a.fingerprint);
            o.extend_from_slice(&a.lease_ms.to_be_bytes());
            o.extend_from_slice(&a.retention.ttl_ms.to_be_bytes());
            o.extend_from_slice(&a.retention.unknown_ttl_ms.to_be_bytes());
            put_policy(o, a, wire);
        }),
        Operation::Complete(c) => framed(op_kind::COMPLETE, out, |o| {
            put_key(o, &c.key);
            o.extend_from_slice(&c.owner.0);
            c.outcome.put(o);
        }),
        Operation::Fail { key, owner, cause } => framed(op_kind::FAIL, out, |o| {
            put_key(o, key);
            o.extend_from_slice(&owner.0);
            if wire == Wire::Two {
                put_cause(o, cause);
            }
        }),
        Operation::Abandon { key, owner } => framed(op_kind::ABANDON, out, |o| {
            put_key(o, key);
            o.extend_from_slice(&owner.0);
        }),
        Operation::Extend {
            key,
            owner,
            lease_ms,
        } => framed(op_kind::EXTEND, out, |o| {
            put_key(o, key);
            o.extend_from_slice(&owner.0);
            o.extend_from_slice(&lease_ms.to_be_bytes());
        }),
        Operation::Settle(s) => framed(op_kind::SETTLE, out, |o| {
            put_key(o, &s.key);
            o.extend_from_slice(&s.fence.to_be_bytes());
            match &s.settlement {
                Settlement::Completed(outcome) => {
                    o.push(0);
                    put_outcome(o, outcome);
                }
                Settlement::Failed => o.push(1),
            }
        }),
        // A receiver that does not know it answers with a fault, and does nothing.
        Operation::Redeem(r) => framed(op_kind::REDEEM, out, |o| {
            put_key(o, &r.key);
            o.extend_from_slice(&r.fence.to_be_bytes());
            put_fingerprint(o, &r.fingerprint);
            o.extend_from_slice(&r.expires_at_ms.to_be_bytes());
        }),
    }
}

/// Writes an operation with the `traceparent` of its request. A peer of version 1 gets none.
pub(crate) fn encode_traced(operation: &Operation, trace: &[u8], wire: Wire, out: &mut Vec<u8>) {
    let at = out.len();
    encode(operation, wire, out);
    if wire == Wire::Two && !trace.is_empty() {
        put_short(out, trace);
        reframe(at, out);
    }
}

/// Reads an operation of that kind.
pub(crate) fn decode(kind: u8, mut r: Reader, wire: Wire) -> Decoded<Operation> {
    let operation = read(kind, &mut r, wire)?;
    wire.end(&r)?;
    Ok(operation)
}

/// The same, with the `traceparent` of its request. One that cannot be read is none: nothing is decided by it.
pub(crate) fn decode_traced(kind: u8, mut r: Reader, wire: Wire) -> Decoded<(Operation, Bytes)> {
    let operation = read(kind, &mut r, wire)?;
    wire.end(&r)?;
    let trace = r.short("traceparent").unwrap_or_default();
    Ok((operation, trace))
}

/// Reads what is known of an operation.
fn read(kind: u8, r: &mut Reader, wire: Wire) -> Decoded<Operation> {
    Ok(match kind {
        op_kind::ACQUIRE => Operation::Acquire(Acquire {
            key: key(r)?,
            owner: owner(r)?,
            fingerprint: fingerprint(r)?,
            lease_ms: r.u64("lease_ms")?,
            retention: Retention {
                ttl_ms: r.u64("ttl_ms")?,
                unknown_ttl_ms: r.u64("unknown_ttl_ms")?,
            },
            on_unknown: match r.u8("on_unknown")? {
                0 => OnUnknown::Refuse,
                1 => OnUnknown::Retry,
                2 if wire == Wire::Two => OnUnknown::RetryTransactions,
                _ => return Err(DecodeError::BadValue("on_unknown")),
            },
            kind: match wire {
                Wire::One => AttemptKind::Gateway,
                Wire::Two => attempt_kind(r)?,
            },
            about: match wire {
                Wire::One => None,
                Wire::Two => about(r)?,
            },
        }),
        op_kind::COMPLETE => Operation::Complete(Complete {
            key: key(r)?,
            owner: owner(r)?,
            outcome: CarriedOutcome::read(r)?,
        }),
        op_kind::FAIL => Operation::Fail {
            key: key(r)?,
            owner: owner(r)?,
            cause: match wire {
                Wire::One => FailCause::Other,
                Wire::Two => cause(r)?,
            },
        },
        op_kind::ABANDON => Operation::Abandon {
            key: key(r)?,
            owner: owner(r)?,
        },
        op_kind::EXTEND => Operation::Extend {
            key: key(r)?,
            owner: owner(r)?,
            lease_ms: r.u64("lease_ms")?,
        },
        op_kind::SETTLE => Operation::Settle(Settle {
            key: key(r)?,
            fence: r.u64("fence")?,
            settlement: match r.u8("settlement")? {
                0 => Settlement::Completed(outcome(r)?),
                1 => Settlement::Failed,
                _ => return Err(DecodeError::BadValue("settlement")),
            },
        }),
        op_kind::REDEEM if wire == Wire::Two => Operation::Redeem(Redeem {
            key: key(r)?,
            fence: r.u64("fence")?,
            fingerprint: fingerprint(r)?,
            expires_at_ms: r.u64("expires_at_ms")?,
        }),
        _ => return Err(DecodeError::BadValue("operation kind")),
    })
}

/// What an acquire says of its policy and of itself.
fn put_policy(o: &mut Vec<u8>, acquire: &Acquire, wire: Wire) {
    match wire {
        Wire::One => o.push(match acquire.on_unknown {
            OnUnknown::Retry => OnUnknown::Retry as u8,
            // Older services know no kinds of attempts: the safe side is not to execute again.
            OnUnknown::Refuse | OnUnknown::RetryTransactions => OnUnknown::Refuse as u8,
        }),
        Wire::Two => {
            o.push(acquire.on_unknown as u8);
            o.push(acquire.kind as u8);
            match &acquire.about {
                None => o.push(0),
                Some(about) => {
                    o.push(1);
                    for field in about.fields() {
                        put_short(o, field.as_bytes());
                    }
                }
            }
        }
    }
}

fn attempt_kind(r: &mut Reader) -> Decoded<AttemptKind> {
    match AttemptKind::from_code(r.u8("attempt kind")?) {
        // Nobody acquires as one.
        None | Some(AttemptKind::Relayed) => Err(DecodeError::BadValue("attempt kind")),
        Some(kind) => Ok(kind),
    }
}

fn about(r: &mut Reader) -> Decoded<Option<Arc<About>>> {
    match r.u8("about")? {
        0 => Ok(None),
        1 => {
            let mut about = About::default();
            for field in about.fields_mut() {
                *field = r.text("about")?;
            }
            about.shorten();
            Ok(Some(Arc::new(about)))
        }
        _ => Err(DecodeError::BadValue("about")),
    }
}

mod cause_code {
    pub const OTHER: u8 = 0;
    pub const NOT_SENT: u8 = 1;
    pub const REFUSED: u8 = 2;
    pub const REDIRECTED: u8 = 3;
}

fn put_cause(o: &mut Vec<u8>, cause: &FailCause) {
    match cause {
        FailCause::Other => o.push(cause_code::OTHER),
        FailCause::NotSent => o.push(cause_code::NOT_SENT),
        FailCause::Refused => o.push(cause_code::REFUSED),
        FailCause::Redirected(answer) => {
            o.push(cause_code::REDIRECTED);
            put_response(o, answer);
        }
    }
}

fn cause(r: &mut Reader) -> Decoded<FailCause> {
    Ok(match r.u8("cause")? {
        cause_code::NOT_SENT => FailCause::NotSent,
        cause_code::REFUSED => FailCause::Refused,
        cause_code::REDIRECTED => FailCause::Redirected(Box::new(response(r)?)),
        // A cause that is not known yet promises nothing.
        _ => FailCause::Other,
    })
}
