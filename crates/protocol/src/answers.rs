//! The byte form of answers.

use crate::answer::{Answer, Fault, FaultCode, Grant, Stored};
use crate::codec::{put_short, DecodeError, Decoded, Reader};
use crate::frame::{framed, Wire};
use crate::response::{CarriedOutcome, Outcome, Tombstone, TombstoneReason};

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
    pub const UNREADABLE: u8 = 20;
    pub const REDEEMED: u8 = 21;
    pub const FAULT: u8 = 255;
}

/// Writes an answer for a peer that knows the answers up to `revision`. A newer answer becomes an older one
/// that refuses the same thing.
pub(crate) fn encode(answer: &Answer, revision: u16, out: &mut Vec<u8>) {
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
            s.outcome.put(o);
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
        Answer::Unreadable {
            status,
            fence,
            attempt,
            expires_at_ms,
        } if revision >= 2 => framed(k::UNREADABLE, out, |o| {
            o.extend_from_slice(&status.to_be_bytes());
            o.extend_from_slice(&fence.to_be_bytes());
            o.extend_from_slice(&attempt.to_be_bytes());
            o.extend_from_slice(&expires_at_ms.to_be_bytes());
        }),
        // The same to a client: done, and not to be replayed.
        Answer::Unreadable {
            status,
            fence,
            attempt,
            expires_at_ms,
        } => {
            let reason = TombstoneReason::NotStorable;
            let tombstone = Answer::Stored(Stored {
                outcome: Outcome::Tombstone(Tombstone {
                    status: *status,
                    reason,
                })
                .into(),
                fence: *fence,
                attempt: *attempt,
                age_ms: 0,
                expires_at_ms: *expires_at_ms,
            });
            encode(&tombstone, revision, out);
        }
        Answer::Redeemed { lease_left_ms } if revision >= 3 => framed(k::REDEEMED, out, |o| {
            o.extend_from_slice(&lease_left_ms.to_be_bytes());
        }),
        // Who does not know it has not asked for it.
        Answer::Redeemed { .. } => framed(k::LOST, out, nothing),
        Answer::Fault(fault) => framed(k::FAULT, out, |o| {
            let (code, detail) = fault.written(revision);
            o.push(code as u8);
            put_short(o, detail.as_bytes());
        }),
    }
}

/// Reads an answer of that kind.
pub(crate) fn decode(kind: u8, mut r: Reader, wire: Wire) -> Decoded<Answer> {
    use answer_kind as k;
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
            outcome: CarriedOutcome::read(&mut r)?,
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
        k::UNREADABLE if wire == Wire::Two => Answer::Unreadable {
            status: r.u16("status")?,
            fence: r.u64("fence")?,
            attempt: r.u32("attempt")?,
            expires_at_ms: r.u64("expires_at_ms")?,
        },
        k::REDEEMED if wire == Wire::Two => Answer::Redeemed {
            lease_left_ms: r.u64("lease_left_ms")?,
        },
        k::FAULT => {
            let code = match (r.u8("fault code")?, wire) {
                (0, _) => FaultCode::Unavailable,
                (1, _) => FaultCode::Capacity,
                (2, _) => FaultCode::Invalid,
                (3, _) => FaultCode::Internal,
                (4, Wire::Two) => FaultCode::Quota,
                (5, Wire::Two) => FaultCode::Untrusted,
                _ => return Err(DecodeError::BadValue("fault code")),
            };
            Answer::Fault(Fault::read(code, r.text("fault detail")?))
        }
        _ => return Err(DecodeError::BadValue("answer kind")),
    };
    wire.end(&r)?;
    Ok(answer)
}
