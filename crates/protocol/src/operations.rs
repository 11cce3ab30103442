//! The byte form of operations.

use crate::about::About;
use crate::codec::{put_short, DecodeError, Decoded, Reader};
use crate::frame::{framed, Wire};
use crate::operation::{
    Acquire, AttemptKind, Complete, FailCause, OnUnknown, Operation, Redeem, Retention, Settle,
    Settlement,
};
use crate::parts::{
    fingerprint, key, outcome, owner, put_fingerprint, put_key, put_outcome, put_response, response,
};
use bytes::Bytes;

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
            put_outcome(o, &c.outcome);
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

/// Reads an operation of that kind.
pub(crate) fn decode(kind: u8, payload: Bytes, wire: Wire) -> Decoded<Operation> {
    let mut r = Reader(payload);
    let operation = match kind {
        op_kind::ACQUIRE => Operation::Acquire(Acquire {
            key: key(&mut r)?,
            owner: owner(&mut r)?,
            fingerprint: fingerprint(&mut r)?,
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
                Wire::Two => attempt_kind(&mut r)?,
            },
            about: match wire {
                Wire::One => None,
                Wire::Two => about(&mut r)?,
            },
        }),
        op_kind::COMPLETE => Operation::Complete(Complete {
            key: key(&mut r)?,
            owner: owner(&mut r)?,
            outcome: outcome(&mut r)?,
        }),
        op_kind::FAIL => Operation::Fail {
            key: key(&mut r)?,
            owner: owner(&mut r)?,
            cause: match wire {
                Wire::One => FailCause::Other,
                Wire::Two => cause(&mut r)?,
            },
        },
        op_kind::ABANDON => Operation::Abandon {
            key: key(&mut r)?,
            owner: owner(&mut r)?,
        },
        op_kind::EXTEND => Operation::Extend {
            key: key(&mut r)?,
            owner: owner(&mut r)?,
            lease_ms: r.u64("lease_ms")?,
        },
        op_kind::SETTLE => Operation::Settle(Settle {
            key: key(&mut r)?,
            fence: r.u64("fence")?,
            settlement: match r.u8("settlement")? {
                0 => Settlement::Completed(outcome(&mut r)?),
                1 => Settlement::Failed,
                _ => return Err(DecodeError::BadValue("settlement")),
            },
        }),
        op_kind::REDEEM if wire == Wire::Two => Operation::Redeem(Redeem {
            key: key(&mut r)?,
            fence: r.u64("fence")?,
            fingerprint: fingerprint(&mut r)?,
            expires_at_ms: r.u64("expires_at_ms")?,
        }),
        _ => return Err(DecodeError::BadValue("operation kind")),
    };
    wire.end(&r)?;
    Ok(operation)
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

fn about(r: &mut Reader) -> Decoded<Option<Box<About>>> {
    match r.u8("about")? {
        0 => Ok(None),
        1 => {
            let mut about = About::default();
            for field in about.fields_mut() {
                *field = r.text("about")?;
            }
            about.shorten();
            Ok(Some(Box::new(about)))
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
