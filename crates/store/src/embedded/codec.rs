//! The byte form of a slot on disk, for backends that have none of their own.
//!
//! ```text
//! slot      := format:u8 version:u64 fence:u64 mark-count:u8 mark* (0 | 1 execution)
//! mark      := owner:16 kind:u8 until:u64
//! execution := (0 | 1 owner:16) scheme:u64 digest:32 attempt:u32 ttl_ms:u64 unknown_ttl_ms:u64
//!              created_at:u64 changed_at:u64 history state
//! state     := 0 lease | 1 outcome | 2 | 3 | 4 lease outcome
//! lease     := until:u64 length_ms:u64 boot:u64
//! outcome   := status:u16 (0 | 1 body_bytes:u64) digest:32 size:u64 (0 | 1 data)
//! ```
//!
//! Integers are big-endian; `data` runs to the end; `history` is that of [`crate::history`]. Format 1, which the
//! first releases wrote, has no history, and is read as well: a record gets the newest format when it changes.

use crate::history::History;
use crate::record::{Execution, Lease, Mark, MarkKind, Slot, State, StoredOutcome};
use bytes::{Buf, BufMut, Bytes};
use idempotency_protocol::{Fingerprint, Owner, Retention, Scheme};

/// Layout of a slot.
const FORMAT: u8 = 2;
/// The layout without a history.
const FORMAT_1: u8 = 1;

/// Outcomes up to this size are kept inside the record: one read, one write. Larger ones have a
/// tree of their own, so that sweeping and listing do not read them.
pub const INLINE_MAX: u64 = 2_048;

/// Whether the slot's outcome is larger than [`INLINE_MAX`]: then [`encode`] leaves its data out,
/// and the backend keeps that elsewhere.
pub fn is_separate(slot: &Slot) -> bool {
    outcome(slot).is_some_and(|o| o.size > INLINE_MAX)
}

/// The slot's outcome, if it is completed.
pub fn outcome(slot: &Slot) -> Option<&StoredOutcome> {
    slot.execution.as_ref().and_then(|e| e.state.outcome())
}

/// Encodes a slot, with its outcome's data unless that [is kept elsewhere](is_separate).
pub fn encode(slot: &Slot) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_u8(FORMAT);
    out.put_u64(slot.version);
    out.put_u64(slot.fence);
    out.put_u8(u8::try_from(slot.marks.len()).unwrap_or(u8::MAX));
    for mark in slot.marks.iter().take(usize::from(u8::MAX)) {
        out.put_slice(&mark.owner.0);
        out.put_u8(match mark.kind {
            MarkKind::Cancelled => 0,
            MarkKind::Spent => 1,
        });
        out.put_u64(mark.until);
    }
    let Some(execution) = &slot.execution else {
        out.put_u8(0);
        return out;
    };
    out.put_u8(1);
    match execution.owner {
        None => out.put_u8(0),
        Some(owner) => {
            out.put_u8(1);
            out.put_slice(&owner.0);
        }
    }
    out.put_u64(execution.fingerprint.scheme.0);
    out.put_slice(&execution.fingerprint.digest);
    out.put_u32(execution.attempt);
    out.put_u64(execution.retention.ttl_ms);
    out.put_u64(execution.retention.unknown_ttl_ms);
    out.put_u64(execution.created_at);
    out.put_u64(execution.changed_at);
    execution.history.put(&mut out);
    match &execution.state {
        State::Executing(lease) => {
            out.put_u8(0);
            put_lease(&mut out, lease);
        }
        State::Settled(lease, outcome) => {
            out.put_u8(4);
            put_lease(&mut out, lease);
            put_outcome(&mut out, outcome);
        }
        State::Completed(outcome) => {
            out.put_u8(1);
            put_outcome(&mut out, outcome);
        }
        State::Failed => out.put_u8(2),
        State::Unknown => out.put_u8(3),
    }
    out
}

fn put_lease(out: &mut Vec<u8>, lease: &Lease) {
    out.put_u64(lease.until);
    out.put_u64(lease.length_ms);
    out.put_u64(lease.boot);
}

fn put_outcome(out: &mut Vec<u8>, outcome: &StoredOutcome) {
    out.put_u16(outcome.status);
    match outcome.body_bytes {
        None => out.put_u8(0),
        Some(bytes) => {
            out.put_u8(1);
            out.put_u64(bytes);
        }
    }
    out.put_slice(&outcome.digest);
    out.put_u64(outcome.size);
    match &outcome.data {
        Some(data) if outcome.size <= INLINE_MAX => {
            out.put_u8(1);
            out.put_slice(data);
        }
        _ => out.put_u8(0),
    }
}

/// Reads what [`encode`] wrote; `None` if the bytes are something else, which is damage and never
/// "no record". An outcome whose data is kept elsewhere comes without it: put it there before the
/// slot is replayed.
pub fn decode(mut input: Bytes) -> Option<Slot> {
    let r = &mut input;
    let has_history = match r.try_get_u8().ok()? {
        FORMAT => true,
        FORMAT_1 => false,
        _ => return None,
    };
    let version = r.try_get_u64().ok()?;
    let fence = r.try_get_u64().ok()?;
    let count = r.try_get_u8().ok()?;
    let mut marks = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let owner = Owner(array(r)?);
        let kind = match r.try_get_u8().ok()? {
            0 => MarkKind::Cancelled,
            1 => MarkKind::Spent,
            _ => return None,
        };
        marks.push(Mark {
            owner,
            kind,
            until: r.try_get_u64().ok()?,
        });
    }
    let execution = match r.try_get_u8().ok()? {
        0 => None,
        1 => Some(execution(r, has_history)?),
        _ => return None,
    };
    r.is_empty().then_some(Slot {
        version,
        fence,
        marks,
        execution,
    })
}

fn execution(r: &mut Bytes, has_history: bool) -> Option<Execution> {
    let owner = match r.try_get_u8().ok()? {
        0 => None,
        1 => Some(Owner(array(r)?)),
        _ => return None,
    };
    let fingerprint = Fingerprint {
        scheme: Scheme(r.try_get_u64().ok()?),
        digest: array(r)?,
    };
    let attempt = r.try_get_u32().ok()?;
    let retention = Retention {
        ttl_ms: r.try_get_u64().ok()?,
        unknown_ttl_ms: r.try_get_u64().ok()?,
    };
    let created_at = r.try_get_u64().ok()?;
    let changed_at = r.try_get_u64().ok()?;
    let history = if has_history {
        History::take(r)?
    } else {
        History::of_old(created_at)
    };
    let state = match r.try_get_u8().ok()? {
        0 => State::Executing(lease(r)?),
        1 => State::Completed(stored_outcome(r)?),
        2 => State::Failed,
        3 => State::Unknown,
        4 => State::Settled(lease(r)?, stored_outcome(r)?),
        _ => return None,
    };
    Some(Execution {
        owner,
        fingerprint,
        attempt,
        retention,
        created_at,
        changed_at,
        state,
        history,
    })
}

fn lease(r: &mut Bytes) -> Option<Lease> {
    Some(Lease {
        until: r.try_get_u64().ok()?,
        length_ms: r.try_get_u64().ok()?,
        boot: r.try_get_u64().ok()?,
    })
}

fn stored_outcome(r: &mut Bytes) -> Option<StoredOutcome> {
    let status = r.try_get_u16().ok()?;
    let body_bytes = match r.try_get_u8().ok()? {
        0 => None,
        1 => Some(r.try_get_u64().ok()?),
        _ => return None,
    };
    let digest = array(r)?;
    let size = r.try_get_u64().ok()?;
    let data = match r.try_get_u8().ok()? {
        0 => None,
        1 => Some(r.split_to(r.len())),
        _ => return None,
    };
    if data
        .as_ref()
        .is_some_and(|d| u64::try_from(d.len()).ok() != Some(size))
    {
        return None;
    }
    Some(StoredOutcome {
        status,
        body_bytes,
        digest,
        size,
        data,
    })
}

fn array<const N: usize>(r: &mut Bytes) -> Option<[u8; N]> {
    let mut out = [0; N];
    r.try_copy_to_slice(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::AttemptKind;

    fn slots() -> Vec<Slot> {
        let execution = |state| Execution {
            owner: Some(Owner([7; 16])),
            fingerprint: Fingerprint {
                scheme: Scheme(9),
                digest: [3; 32],
            },
            attempt: 2,
            retention: Retention {
                ttl_ms: 5,
                unknown_ttl_ms: 6,
            },
            created_at: 10,
            changed_at: 11,
            state,
            history: History::first(AttemptKind::Guard, None, 10),
        };
        let data = Bytes::from_static(b"outcome");
        let outcome = StoredOutcome {
            status: 201,
            body_bytes: Some(3),
            digest: [1; 32],
            size: 7,
            data: Some(data),
        };
        let marks = vec![Mark {
            owner: Owner([1; 16]),
            kind: MarkKind::Cancelled,
            until: 99,
        }];
        let elsewhere = StoredOutcome {
            size: INLINE_MAX + 1,
            data: None,
            ..outcome.clone()
        };
        let lease = Lease {
            until: 4,
            length_ms: 5,
            boot: 6,
        };
        let states = [
            State::Executing(lease),
            State::Settled(lease, outcome.clone()),
            State::Completed(outcome),
            State::Completed(elsewhere),
            State::Failed,
            State::Unknown,
        ];
        let with = |execution| Slot {
            version: 1,
            fence: 2,
            marks: marks.clone(),
            execution,
        };
        let mut all: Vec<Slot> = states.map(|s| with(Some(execution(s)))).into();
        all.push(with(None));
        all.push(with(Some(Execution {
            owner: None,
            ..execution(State::Failed)
        })));
        all
    }

    #[test]
    fn a_slot_survives_the_round_trip() {
        for slot in slots() {
            assert_eq!(decode(Bytes::from(encode(&slot))), Some(slot));
        }
    }

    #[test]
    fn a_slot_that_is_cut_off_or_of_another_format_is_not_read() {
        for slot in slots() {
            let bytes = Bytes::from(encode(&slot));
            for cut in 0..bytes.len() {
                assert_eq!(decode(bytes.slice(..cut)), None);
            }
            let mut other = bytes.to_vec();
            other[0] = FORMAT + 1;
            assert_eq!(decode(Bytes::from(other)), None);
        }
    }
}
