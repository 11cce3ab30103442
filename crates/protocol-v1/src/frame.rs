//! The byte layout.
//!
//! ```text
//! request   := version:u8 count:u16 operation*
//! operation := kind:u8 length:u32 payload
//! response  := version:u8 count:u16 answer*
//! answer    := kind:u8 length:u32 payload
//! wait      := version:u8 payload
//! ```
//!
//! Integers are big-endian. Strings are `u16 length` + UTF-8, header values and bodies
//! `u32 length` + bytes. The length before each payload lets a receiver answer an operation that
//! it cannot read with a fault of its own, and go on with the next one.
//!
//! # Sharing
//!
//! A message with several operations is shared by requests that know nothing of each other, so
//! none may make the others wait for its bytes. A sender puts at most [`MAX_OPERATIONS`] into one
//! message, and no outcome that is longer than [`MAX_SHARED_OUTCOME`] beside others. The answer to
//! several operations holds at most [`MAX_SHARED_ANSWER`] bytes of replays ([`Response::share`]);
//! what has no room there is answered with [`Answer::AskAlone`], and its sender asks again in a
//! message of its own. The answer to one operation has no such limit.

use crate::answer::{Answer, Fault, FaultCode, Grant, Stored};
use crate::codec::{put_long, put_short, DecodeError, Decoded, Reader};
use crate::key::{Fingerprint, LookupKey, Origin, Owner, Scheme};
use crate::operation::{
    Acquire, Complete, OnUnknown, Operation, Retention, Settle, Settlement, Wait,
};
use crate::response::{Outcome, StoredResponse, Tombstone, TombstoneReason};
use bytes::Bytes;

/// Version of the layout; the first byte of every message.
pub const VERSION: u8 = 1;

/// Most operations of one message that every receiver takes (it may be told to take fewer).
pub const MAX_OPERATIONS: usize = 64;

/// Longest outcome, in bytes of its encoded form (64 KiB), that travels beside other operations.
pub const MAX_SHARED_OUTCOME: usize = 64 << 10;

/// Most bytes of replays (1 MiB) in an answer to several operations.
pub const MAX_SHARED_ANSWER: usize = 1 << 20;

/// One or more operations, each answered on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// In the order in which the answers come.
    pub operations: Vec<Operation>,
}

impl Request {
    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        Request::encode_all(self.operations.iter())
    }

    /// Encodes the message that holds these operations.
    pub fn encode_all<'a>(operations: impl ExactSizeIterator<Item = &'a Operation>) -> Vec<u8> {
        let mut out = message(operations.len());
        for operation in operations {
            encode_operation(operation, &mut out);
        }
        out
    }

    /// Decodes a message. The outer error means that the framing itself is broken; an inner error
    /// concerns one operation only.
    pub fn decode(bytes: Bytes) -> Decoded<Vec<Decoded<Operation>>> {
        let mut reader = Reader(bytes);
        let count = open(&mut reader)?;
        let mut operations = Vec::with_capacity(usize::from(count).min(reader.0.len() / 5));
        for _ in 0..count {
            let kind = reader.u8("operation kind")?;
            let payload = reader.long("operation")?;
            operations.push(decode_operation(kind, payload));
        }
        reader.end()?;
        Ok(operations)
    }
}

/// The answers to a [`Request`], in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// One per operation.
    pub answers: Vec<Answer>,
}

impl Response {
    /// Makes the answer fit to be shared: replays are kept, in order, as long as they fit into
    /// [`MAX_SHARED_ANSWER`]; the others are told to ask alone. An answer to one operation stays
    /// as it is.
    pub fn share(&mut self) {
        if self.answers.len() < 2 {
            return;
        }
        let mut left = MAX_SHARED_ANSWER;
        for answer in &mut self.answers {
            let Answer::Stored(stored) = answer else {
                continue;
            };
            match left.checked_sub(stored.outcome.encoded_len()) {
                Some(rest) => left = rest,
                None => *answer = Answer::AskAlone,
            }
        }
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = message(self.answers.len());
        for answer in &self.answers {
            encode_answer(answer, &mut out);
        }
        out
    }

    /// Decodes a message; slices of `bytes` are shared, not copied.
    pub fn decode(bytes: Bytes) -> Decoded<Response> {
        let mut reader = Reader(bytes);
        let count = open(&mut reader)?;
        let mut answers = Vec::with_capacity(usize::from(count).min(reader.0.len() / 5));
        for _ in 0..count {
            let kind = reader.u8("answer kind")?;
            let payload = reader.long("answer")?;
            answers.push(decode_answer(kind, payload)?);
        }
        reader.end()?;
        Ok(Response { answers })
    }
}

impl Wait {
    /// Encodes the message for [`crate::WAIT_PATH`]; the answer is a [`Response`] with one answer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_key(&mut out, &self.key);
        put_fingerprint(&mut out, &self.fingerprint);
        out.extend_from_slice(&self.fence.to_be_bytes());
        out.extend_from_slice(&self.wait_ms.to_be_bytes());
        out
    }

    /// Decodes the message.
    pub fn decode(bytes: Bytes) -> Decoded<Wait> {
        let mut r = Reader(bytes);
        version(&mut r)?;
        let wait = Wait {
            key: key(&mut r)?,
            fingerprint: fingerprint(&mut r)?,
            fence: r.u64("fence")?,
            wait_ms: r.u64("wait_ms")?,
        };
        r.end()?;
        Ok(wait)
    }
}

impl Outcome {
    /// The byte form of an outcome, as it travels inside a complete; also what stores keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_outcome(&mut out, self);
        out
    }

    /// How long [`Outcome::encode`] makes it, in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Outcome::Response(response) => {
                let headers = response.headers.iter();
                let headers: usize = headers.map(|(n, v)| n.len() + v.len() + 6).sum();
                response.body.len() + headers + 9
            }
            Outcome::Tombstone(_) => 4,
        }
    }

    /// Reads what [`Outcome::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Decoded<Outcome> {
        let mut r = Reader(bytes);
        let value = outcome(&mut r)?;
        r.end()?;
        Ok(value)
    }
}

fn message(count: usize) -> Vec<u8> {
    // One allocation for the usual operation; a body makes its own room.
    let mut out = Vec::with_capacity(512);
    out.push(VERSION);
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    out
}

fn version(reader: &mut Reader) -> Decoded<()> {
    match reader.u8("version")? {
        VERSION => Ok(()),
        other => Err(DecodeError::Version(other)),
    }
}

fn open(reader: &mut Reader) -> Decoded<u16> {
    version(reader)?;
    reader.u16("count")
}

/// Writes `kind`, then the length of what `payload` writes, then that.
fn framed(kind: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out);
    let len = u32::try_from(out.len().saturating_sub(at + 4)).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
}

mod op_kind {
    pub const ACQUIRE: u8 = 1;
    pub const COMPLETE: u8 = 2;
    pub const FAIL: u8 = 3;
    pub const ABANDON: u8 = 4;
    pub const EXTEND: u8 = 5;
    pub const SETTLE: u8 = 6;
}

fn encode_operation(operation: &Operation, out: &mut Vec<u8>) {
    match operation {
        Operation::Acquire(a) => framed(op_kind::ACQUIRE, out, |o| {
            put_key(o, &a.key);
            o.extend_from_slice(&a.owner.0);
            put_fingerprint(o, &a.fingerprint);
            o.extend_from_slice(&a.lease_ms.to_be_bytes());
            o.extend_from_slice(&a.retention.ttl_ms.to_be_bytes());
            o.extend_from_slice(&a.retention.unknown_ttl_ms.to_be_bytes());
            o.push(a.on_unknown as u8);
        }),
        Operation::Complete(c) => framed(op_kind::COMPLETE, out, |o| {
            put_key(o, &c.key);
            o.extend_from_slice(&c.owner.0);
            put_outcome(o, &c.outcome);
        }),
        Operation::Fail { key, owner } => framed(op_kind::FAIL, out, |o| {
            put_key(o, key);
            o.extend_from_slice(&owner.0);
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
    }
}

fn decode_operation(kind: u8, payload: Bytes) -> Decoded<Operation> {
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
                _ => return Err(DecodeError::BadValue("on_unknown")),
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
        _ => return Err(DecodeError::BadValue("operation kind")),
    };
    r.end()?;
    Ok(operation)
}

mod answer_kind {
    pub const GRANTED: u8 = 1;
    pub const STORED: u8 = 2;
    pub const IN_FLIGHT: u8 = 3;
    pub const MISMATCH: u8 = 4;
    pub const NOT_COMPARABLE: u8 = 5;
    pub const UNKNOWN_OUTCOME: u8 = 6;
    pub const CANCELLED: u8 = 7;
    pub const SPENT: u8 = 8;
    pub const COMPLETED: u8 = 9;
    pub const DIFFERS: u8 = 10;
    pub const FAILED: u8 = 11;
    pub const ABANDONED: u8 = 12;
    pub const MARKED: u8 = 13;
    pub const EXTENDED: u8 = 14;
    pub const LOST: u8 = 15;
    pub const REFUSED: u8 = 16;
    pub const CHANGED: u8 = 17;
    pub const TIMED_OUT: u8 = 18;
    pub const ASK_ALONE: u8 = 19;
    pub const FAULT: u8 = 255;
}

fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    use answer_kind as k;
    let nothing = |_: &mut Vec<u8>| {};
    match answer {
        Answer::Granted(g) => framed(k::GRANTED, out, |o| {
            o.extend_from_slice(&g.fence.to_be_bytes());
            o.extend_from_slice(&g.attempt.to_be_bytes());
            o.extend_from_slice(&g.lease_ms.to_be_bytes());
        }),
        Answer::Stored(s) => framed(k::STORED, out, |o| {
            o.extend_from_slice(&s.fence.to_be_bytes());
            o.extend_from_slice(&s.attempt.to_be_bytes());
            o.extend_from_slice(&s.age_ms.to_be_bytes());
            o.extend_from_slice(&s.expires_at_ms.to_be_bytes());
            put_outcome(o, &s.outcome);
        }),
        Answer::InFlight {
            fence,
            lease_left_ms,
        } => framed(k::IN_FLIGHT, out, |o| {
            o.extend_from_slice(&fence.to_be_bytes());
            o.extend_from_slice(&lease_left_ms.to_be_bytes());
        }),
        Answer::Mismatch => framed(k::MISMATCH, out, nothing),
        Answer::NotComparable => framed(k::NOT_COMPARABLE, out, nothing),
        Answer::UnknownOutcome { expires_at_ms } => framed(k::UNKNOWN_OUTCOME, out, |o| {
            o.extend_from_slice(&expires_at_ms.to_be_bytes());
        }),
        Answer::Cancelled => framed(k::CANCELLED, out, nothing),
        Answer::Spent => framed(k::SPENT, out, nothing),
        Answer::Completed { expires_at_ms } => framed(k::COMPLETED, out, |o| {
            o.extend_from_slice(&expires_at_ms.to_be_bytes());
        }),
        Answer::Differs => framed(k::DIFFERS, out, nothing),
        Answer::Failed => framed(k::FAILED, out, nothing),
        Answer::Abandoned => framed(k::ABANDONED, out, nothing),
        Answer::Marked => framed(k::MARKED, out, nothing),
        Answer::Extended { lease_ms } => framed(k::EXTENDED, out, |o| {
            o.extend_from_slice(&lease_ms.to_be_bytes());
        }),
        Answer::Lost => framed(k::LOST, out, nothing),
        Answer::Refused => framed(k::REFUSED, out, nothing),
        Answer::Changed => framed(k::CHANGED, out, nothing),
        Answer::TimedOut => framed(k::TIMED_OUT, out, nothing),
        Answer::AskAlone => framed(k::ASK_ALONE, out, nothing),
        Answer::Fault(fault) => framed(k::FAULT, out, |o| {
            let (code, detail) = fault.written();
            o.push(code as u8);
            put_short(o, detail.as_bytes());
        }),
    }
}

fn decode_answer(kind: u8, payload: Bytes) -> Decoded<Answer> {
    use answer_kind as k;
    let mut r = Reader(payload);
    let answer = match kind {
        k::GRANTED => Answer::Granted(Grant {
            fence: r.u64("fence")?,
            attempt: r.u32("attempt")?,
            lease_ms: r.u64("lease_ms")?,
        }),
        k::STORED => Answer::Stored(Stored {
            fence: r.u64("fence")?,
            attempt: r.u32("attempt")?,
            age_ms: r.u64("age_ms")?,
            expires_at_ms: r.u64("expires_at_ms")?,
            outcome: outcome(&mut r)?,
        }),
        k::IN_FLIGHT => Answer::InFlight {
            fence: r.u64("fence")?,
            lease_left_ms: r.u64("lease_left_ms")?,
        },
        k::MISMATCH => Answer::Mismatch,
        k::NOT_COMPARABLE => Answer::NotComparable,
        k::UNKNOWN_OUTCOME => Answer::UnknownOutcome {
            expires_at_ms: r.u64("expires_at_ms")?,
        },
        k::CANCELLED => Answer::Cancelled,
        k::SPENT => Answer::Spent,
        k::COMPLETED => Answer::Completed {
            expires_at_ms: r.u64("expires_at_ms")?,
        },
        k::DIFFERS => Answer::Differs,
        k::FAILED => Answer::Failed,
        k::ABANDONED => Answer::Abandoned,
        k::MARKED => Answer::Marked,
        k::EXTENDED => Answer::Extended {
            lease_ms: r.u64("lease_ms")?,
        },
        k::LOST => Answer::Lost,
        k::REFUSED => Answer::Refused,
        k::CHANGED => Answer::Changed,
        k::TIMED_OUT => Answer::TimedOut,
        k::ASK_ALONE => Answer::AskAlone,
        k::FAULT => {
            let code = match r.u8("fault code")? {
                0 => FaultCode::Unavailable,
                1 => FaultCode::Capacity,
                2 => FaultCode::Invalid,
                3 => FaultCode::Internal,
                _ => return Err(DecodeError::BadValue("fault code")),
            };
            Answer::Fault(Fault::read(code, r.text("fault detail")?))
        }
        _ => return Err(DecodeError::BadValue("answer kind")),
    };
    r.end()?;
    Ok(answer)
}

fn put_key(out: &mut Vec<u8>, key: &LookupKey) {
    put_short(out, key.tenant.as_bytes());
    put_short(out, key.namespace.as_bytes());
    out.push(key.origin as u8);
    put_short(out, key.key.as_bytes());
}

fn key(r: &mut Reader) -> Decoded<LookupKey> {
    Ok(LookupKey {
        tenant: r.text("tenant")?,
        namespace: r.text("namespace")?,
        origin: match r.u8("origin")? {
            0 => Origin::Client,
            1 => Origin::Derived,
            _ => return Err(DecodeError::BadValue("origin")),
        },
        key: r.text("key")?,
    })
}

fn owner(r: &mut Reader) -> Decoded<Owner> {
    r.array("owner").map(Owner)
}

fn put_fingerprint(out: &mut Vec<u8>, fingerprint: &Fingerprint) {
    out.extend_from_slice(&fingerprint.scheme.0.to_be_bytes());
    out.extend_from_slice(&fingerprint.digest);
}

fn fingerprint(r: &mut Reader) -> Decoded<Fingerprint> {
    Ok(Fingerprint {
        scheme: Scheme(r.u64("scheme")?),
        digest: r.array("digest")?,
    })
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Response(response) => {
            out.reserve(512 + response.body.len());
            out.push(0);
            out.extend_from_slice(&response.status.to_be_bytes());
            let count = u16::try_from(response.headers.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&count.to_be_bytes());
            for (name, value) in response.headers.iter().take(usize::from(count)) {
                put_short(out, name);
                put_long(out, value);
            }
            put_long(out, &response.body);
        }
        Outcome::Tombstone(tombstone) => {
            out.push(1);
            out.extend_from_slice(&tombstone.status.to_be_bytes());
            out.push(tombstone.reason as u8);
        }
    }
}

fn outcome(r: &mut Reader) -> Decoded<Outcome> {
    match r.u8("outcome")? {
        0 => {
            let status = r.u16("status")?;
            let count = r.u16("header count")?;
            let mut headers = Vec::with_capacity(usize::from(count).min(r.0.len() / 6));
            for _ in 0..count {
                headers.push((r.short("header name")?, r.long("header value")?));
            }
            let body = r.long("body")?;
            Ok(Outcome::Response(StoredResponse {
                status,
                headers,
                body,
            }))
        }
        1 => Ok(Outcome::Tombstone(Tombstone {
            status: r.u16("status")?,
            reason: match r.u8("tombstone reason")? {
                0 => TombstoneReason::TooLarge,
                1 => TombstoneReason::Trailers,
                2 => TombstoneReason::Capacity,
                3 => TombstoneReason::NotStorable,
                _ => return Err(DecodeError::BadValue("tombstone reason")),
            },
        })),
        _ => Err(DecodeError::BadValue("outcome")),
    }
}
