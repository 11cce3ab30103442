//! The byte layout of messages.
//!
//! ```text
//! request   := opening operation*
//! response  := opening answer*
//! operation := kind:u8 length:u32 payload [traceparent:string]
//! answer    := kind:u8 length:u32 payload
//! opening   := 1:u8 count:u16 | 2:u8 revision:u16 count:u16
//! wait      := 1:u8 payload | 2:u8 revision:u16 payload
//! ```
//!
//! Integers are big-endian. Strings are `u16 length` + UTF-8, header values and bodies
//! `u32 length` + bytes. The length before each payload lets a receiver answer an operation that
//! it cannot read with a fault of its own, and go on with the next one.
//!
//! # Growth
//!
//! The first byte is the version of the layout ([`Wire`]). Version 1 is what the first releases
//! speak: they refuse payloads with more fields than they know. Version 2 grows without a new
//! version:
//!
//! - A payload may have more fields than a receiver knows. They are at its end, and skipped.
//! - An operation or an answer of an unknown kind fails alone. Its receiver does nothing for it:
//!   a service answers with a fault, and a gateway does not forward the request.
//! - `revision` tells which of the fields and kinds the sender knows ([`REVISION`]). A service
//!   answers an older gateway with an older answer that refuses the same thing.
//!
//! A sender that knows version 2 begins with it, and goes back to version 1 when its message is
//! refused as one of an unknown version, which happens before any of its operations is applied.
//!
//! # Traces
//!
//! The operations of one message belong to requests that know nothing of each other, so each has the trace of its
//! own: after the last field of an operation, inside its length, stands the `traceparent` (W3C Trace Context) of its
//! request, at most [`crate::limits::MAX_TRACEPARENT_BYTES`] long, where the request has one. Nothing is decided by
//! it, so it has no revision: a receiver that does not know it skips it. (A field that comes after it needs the empty
//! string in its place.)
//!
//! # Sharing
//!
//! A message with several operations is shared by requests that know nothing of each other, so
//! none may make the others wait for its bytes. A sender puts at most [`MAX_OPERATIONS`] into one
//! message, and no outcome that is longer than [`MAX_SHARED_OUTCOME`] beside others. The answer to
//! several operations holds at most [`MAX_SHARED_ANSWER`] bytes of replays ([`Response::share`]);
//! what has no room there is answered with [`Answer::AskAlone`], and its sender asks again in a
//! message of its own. The answer to one operation has no such limit.

use crate::answer::Answer;
use crate::codec::{DecodeError, Decoded, Reader};
use crate::operation::{Operation, Wait};
use crate::parts::{fingerprint, key, outcome, put_fingerprint, put_key, put_outcome};
use crate::response::Outcome;
use crate::{answers, operations};
use bytes::Bytes;

/// Version of the layout; the first byte of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Wire {
    /// What the first releases speak: every payload is exactly as long as they know it.
    One = 1,
    /// Payloads may grow, and the two ends tell each other what they know.
    #[default]
    Two = 2,
}

/// What this build knows of version 2: all fields and kinds up to this number. A peer that speaks
/// version 1 counts as revision 1.
///
/// | revision | knows also |
/// |---|---|
/// | 2 | `about` and `kind` of an acquire, the cause of a fail, the answer `unreadable`, the faults `quota` and `untrusted` |
/// | 3 | the operation `redeem` and its answer `redeemed` |
pub const REVISION: u16 = 3;

/// Most operations of one message that every receiver takes (it may be told to take fewer).
pub const MAX_OPERATIONS: usize = 64;

/// Longest outcome, in bytes of its encoded form (64 KiB), that travels beside other operations.
pub const MAX_SHARED_OUTCOME: usize = 64 << 10;

/// Most bytes of replays (1 MiB) in an answer to several operations.
pub const MAX_SHARED_ANSWER: usize = 1 << 20;

/// A message as it came: who sent it, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<T> {
    /// Which revision the sender knows; 1 for a message of version 1.
    pub revision: u16,
    /// What the message holds, in its order. An error concerns one item only.
    pub items: Vec<Decoded<T>>,
}

impl<T> Received<T> {
    /// All items, where one that cannot be read makes the others useless.
    ///
    /// # Errors
    ///
    /// The first item's error.
    pub fn all(self) -> Decoded<Vec<T>> {
        self.items.into_iter().collect()
    }
}

/// One or more operations, each answered on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// In the order in which the answers come.
    pub operations: Vec<Operation>,
}

impl Request {
    /// Encodes the message in the newest version.
    pub fn encode(&self) -> Vec<u8> {
        Request::encode_all(Wire::Two, self.operations.iter())
    }

    /// Encodes the message that holds these operations, in the version that the receiver speaks.
    pub fn encode_all<'a>(
        wire: Wire,
        operations: impl ExactSizeIterator<Item = &'a Operation>,
    ) -> Vec<u8> {
        Request::encode_traced(wire, operations.map(|operation| (operation, &[][..])))
    }

    /// The same, each operation with the `traceparent` of its request; empty where it has none.
    pub fn encode_traced<'a>(
        wire: Wire,
        operations: impl ExactSizeIterator<Item = (&'a Operation, &'a [u8])>,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        Request::encode_into(wire, operations, &mut out);
        out
    }

    /// [`Request::encode_traced`] into room that is there.
    pub fn encode_into<'a>(
        wire: Wire,
        operations: impl ExactSizeIterator<Item = (&'a Operation, &'a [u8])>,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        put_message(wire, operations.len(), out);
        for (operation, trace) in operations {
            operations::encode_traced(operation, trace, wire, out);
        }
    }

    /// Decodes a message of any version. The outer error means that the framing itself is broken.
    pub fn decode(bytes: Bytes) -> Decoded<Received<Operation>> {
        decode_all(bytes, operations::decode)
    }

    /// The same, each operation with the `traceparent` of its request, as it came; empty where it has none.
    pub fn decode_traced(bytes: Bytes) -> Decoded<Received<(Operation, Bytes)>> {
        decode_all(bytes, operations::decode_traced)
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

    /// Encodes the message in the newest version.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_for(REVISION)
    }

    /// Encodes the message for a peer that knows this revision.
    pub fn encode_for(&self, revision: u16) -> Vec<u8> {
        let wire = if revision < 2 { Wire::One } else { Wire::Two };
        let mut out = message(wire, self.answers.len());
        for answer in &self.answers {
            answers::encode(answer, revision, &mut out);
        }
        out
    }

    /// Decodes a message of any version; slices of `bytes` are shared, not copied. The outer error
    /// means that the framing itself is broken.
    pub fn decode(bytes: Bytes) -> Decoded<Received<Answer>> {
        decode_all(bytes, answers::decode)
    }

    /// The same into room that is there, which holds nothing else afterwards; the revision that the sender knows.
    pub fn decode_into(bytes: &Bytes, answers: &mut Vec<Decoded<Answer>>) -> Decoded<u16> {
        answers.clear();
        decode_items(bytes, answers::decode, answers).inspect_err(|_| answers.clear())
    }
}

impl Wait {
    /// Encodes the message for [`crate::WAIT_PATH`] in the newest version; the answer is a
    /// [`Response`] with one answer.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_for(Wire::Two)
    }

    /// Encodes the message in the version that the receiver speaks.
    pub fn encode_for(&self, wire: Wire) -> Vec<u8> {
        let mut out = opening(wire);
        put_key(&mut out, &self.key);
        put_fingerprint(&mut out, &self.fingerprint);
        out.extend_from_slice(&self.fence.to_be_bytes());
        out.extend_from_slice(&self.wait_ms.to_be_bytes());
        out
    }

    /// Decodes the message: the revision that the sender knows, and the wait.
    pub fn decode(bytes: Bytes) -> Decoded<(u16, Wait)> {
        let mut r = Reader::of(&bytes);
        let (wire, revision) = open(&mut r)?;
        let wait = Wait {
            key: key(&mut r)?,
            fingerprint: fingerprint(&mut r)?,
            fence: r.u64("fence")?,
            wait_ms: r.u64("wait_ms")?,
        };
        wire.end(&r)?;
        Ok((revision, wait))
    }
}

impl Wire {
    /// After the last known field of a payload: may more follow?
    pub(crate) fn end(self, payload: &Reader) -> Decoded<()> {
        match self {
            Wire::One => payload.end(),
            Wire::Two => Ok(()),
        }
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
        let mut r = Reader::of(&bytes);
        let value = outcome(&mut r)?;
        r.end()?;
        Ok(value)
    }
}

fn put_opening(wire: Wire, out: &mut Vec<u8>) {
    out.push(wire as u8);
    if wire == Wire::Two {
        out.extend_from_slice(&REVISION.to_be_bytes());
    }
}

fn opening(wire: Wire) -> Vec<u8> {
    // One allocation for the usual operation; a body makes its own room.
    let mut out = Vec::with_capacity(512);
    put_opening(wire, &mut out);
    out
}

fn put_message(wire: Wire, count: usize, out: &mut Vec<u8>) {
    put_opening(wire, out);
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

fn message(wire: Wire, count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put_message(wire, count, &mut out);
    out
}

fn open(reader: &mut Reader) -> Decoded<(Wire, u16)> {
    match reader.u8("version")? {
        1 => Ok((Wire::One, 1)),
        // A sender of version 2 knows its first revision at least.
        2 => Ok((Wire::Two, reader.u16("revision")?.max(2))),
        other => Err(DecodeError::Version(other)),
    }
}

fn decode_all<T>(
    bytes: Bytes,
    decode: impl Fn(u8, Reader, Wire) -> Decoded<T>,
) -> Decoded<Received<T>> {
    let mut items = Vec::new();
    let revision = decode_items(&bytes, decode, &mut items)?;
    Ok(Received { revision, items })
}

/// Adds the items of a message; the revision that the sender knows.
fn decode_items<T>(
    bytes: &Bytes,
    decode: impl Fn(u8, Reader, Wire) -> Decoded<T>,
    items: &mut Vec<Decoded<T>>,
) -> Decoded<u16> {
    let mut reader = Reader::of(bytes);
    let (wire, revision) = open(&mut reader)?;
    let count = reader.u16("count")?;
    items.reserve(usize::from(count).min(reader.left() / 5));
    for _ in 0..count {
        let kind = reader.u8("kind")?;
        let payload = reader.part("payload")?;
        items.push(decode(kind, payload, wire));
    }
    reader.end()?;
    Ok(revision)
}

/// Writes `kind`, then the length of what `payload` writes, then that.
pub(crate) fn framed(kind: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out);
    set_length(at, out);
}

/// The item that begins at that place has grown at its end.
pub(crate) fn reframe(at: usize, out: &mut [u8]) {
    set_length(at.saturating_add(1), out);
}

/// Writes how much follows the four bytes at that place.
fn set_length(at: usize, out: &mut [u8]) {
    let len = u32::try_from(out.len().saturating_sub(at + 4)).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
}
