//! Reading a record as the script writes it (`LAYOUT` in `script/head.lua`).

use super::remembered;
use crate::clock::{micros, Micros};
use crate::record::{Execution, Lease, Slot, State, StoredOutcome};
use crate::store::RecordView;
use bytes::{Buf, BufMut};
use idempotency_protocol::{Fingerprint, LookupKey, Owner, Retention, Scheme};

/// What the previous release reads, too.
const FORMAT: u8 = 1;
/// Of a record that is settled.
const FORMAT_SETTLED: u8 = 2;

/// The slot, without its marks and without the outcome's data; `None` if the bytes are something
/// else. What is remembered of the attempts is left out where it cannot be read.
pub(super) fn decode(mut m: &[u8], x: Option<&[u8]>) -> Option<Slot> {
    let r = &mut m;
    let format = r.try_get_u8().ok()?;
    let state = r.try_get_u8().ok()?;
    let version = r.try_get_u64().ok()?;
    let fence = r.try_get_u64().ok()?;
    let attempt = r.try_get_u32().ok()?;
    let owned = r.try_get_u8().ok()? == 1;
    let owner = Owner(array(r)?);
    let fingerprint = Fingerprint {
        scheme: Scheme(r.try_get_u64().ok()?),
        digest: array(r)?,
    };
    let created_at = r.try_get_u64().ok()?;
    let changed_at = r.try_get_u64().ok()?;
    let retention = Retention {
        ttl_ms: r.try_get_u64().ok()? / 1_000,
        unknown_ttl_ms: r.try_get_u64().ok()? / 1_000,
    };
    let lease = Lease {
        until: r.try_get_u64().ok()?,
        length_ms: 0,
        boot: 0,
    };
    let status = r.try_get_u16().ok()?;
    let has_body = r.try_get_u8().ok()? == 1;
    let body_bytes = r.try_get_u64().ok()?;
    let outcome = StoredOutcome {
        status,
        body_bytes: has_body.then_some(body_bytes),
        digest: array(r)?,
        size: r.try_get_u64().ok()?,
        data: None,
    };
    let state = match (format, state) {
        (FORMAT, 0) => None,
        (FORMAT, 1) => Some(State::Executing(lease)),
        (FORMAT, 2) => Some(State::Completed(outcome)),
        (FORMAT, 3) => Some(State::Failed),
        (FORMAT, 4) => Some(State::Unknown),
        (FORMAT_SETTLED, 5) => Some(State::Settled(lease, outcome)),
        _ => return None,
    };
    let is_completed = matches!(state, Some(State::Completed(_)));
    let history = remembered::decode(x, created_at, version, is_completed);
    r.is_empty().then_some(Slot {
        version,
        fence,
        marks: Vec::new(),
        execution: state.map(|state| Execution {
            owner: owned.then_some(owner),
            fingerprint,
            attempt,
            retention,
            created_at,
            changed_at,
            state,
            history: history.unwrap_or_default(),
        }),
    })
}

/// The reverse of [`decode`], for what it tells.
pub(super) fn encode(slot: &Slot) -> Vec<u8> {
    let execution = slot.execution.as_ref();
    let state = execution.map(|e| &e.state);
    let (format, number) = match state {
        None => (FORMAT, 0),
        Some(State::Executing(_)) => (FORMAT, 1),
        Some(State::Completed(_)) => (FORMAT, 2),
        Some(State::Failed) => (FORMAT, 3),
        Some(State::Unknown) => (FORMAT, 4),
        Some(State::Settled(..)) => (FORMAT_SETTLED, 5),
    };
    let mut out = Vec::with_capacity(170);
    out.put_u8(format);
    out.put_u8(number);
    out.put_u64(slot.version);
    out.put_u64(slot.fence);
    out.put_u32(execution.map_or(0, |e| e.attempt));
    let owner = execution.and_then(|e| e.owner);
    out.put_u8(u8::from(owner.is_some()));
    out.put_slice(&owner.map_or([0; 16], |owner| owner.0));
    let fingerprint = execution.map(|e| &e.fingerprint);
    out.put_u64(fingerprint.map_or(0, |f| f.scheme.0));
    out.put_slice(&fingerprint.map_or([0; 32], |f| f.digest));
    out.put_u64(execution.map_or(0, |e| e.created_at));
    out.put_u64(execution.map_or(0, |e| e.changed_at));
    out.put_u64(execution.map_or(0, |e| micros(e.retention.ttl_ms)));
    out.put_u64(execution.map_or(0, |e| micros(e.retention.unknown_ttl_ms)));
    let lease = state.and_then(State::lease);
    out.put_u64(lease.map_or(0, |lease| lease.until));
    let outcome = state.and_then(State::outcome);
    out.put_u16(outcome.map_or(0, |o| o.status));
    let body_bytes = outcome.and_then(|o| o.body_bytes);
    out.put_u8(u8::from(body_bytes.is_some()));
    out.put_u64(body_bytes.unwrap_or(0));
    out.put_slice(&outcome.map_or([0; 32], |o| o.digest));
    out.put_u64(outcome.map_or(0, |o| o.size));
    out
}

/// The record as an operator sees it, at the server's time.
pub(super) fn view(
    m: &[u8],
    x: Option<&[u8]>,
    key: &LookupKey,
    now: Micros,
) -> Option<Option<RecordView>> {
    let slot = decode(m, x)?;
    let lease_until = match slot.execution.as_ref().map(|e| &e.state) {
        Some(State::Executing(lease)) => Some(lease.until),
        Some(State::Settled(lease, _)) => Some(lease.until).filter(|until| now < *until),
        _ => None,
    };
    Some(slot.view(key, now, lease_until))
}

/// When the lease of an executing record is over; `None` for all others.
pub(super) fn lease_until(slot: &Slot) -> Option<Micros> {
    match &slot.execution.as_ref()?.state {
        State::Executing(lease) => Some(lease.until),
        _ => None,
    }
}

/// Whether a sweep may have something to do.
pub(super) fn has_lease(slot: &Slot) -> bool {
    let state = slot.execution.as_ref().map(|e| &e.state);
    state.is_some_and(|state| state.lease().is_some())
}

fn array<const N: usize>(r: &mut &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    r.try_copy_to_slice(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 + 1 + 8 + 8 + 4 + 1 + 16 + 40 + 5 * 8 + 2 + 1 + 8 + 32 + 8;

    #[test]
    fn what_is_too_short_or_of_another_format_is_not_read() {
        let mut bytes = vec![0; SIZE];
        assert_eq!(decode(&bytes, None), None);
        bytes[0] = FORMAT;
        assert_eq!(decode(&bytes, None), Some(Slot::default()));
        assert_eq!(decode(&bytes[1..], None), None);
        bytes.push(0);
        assert_eq!(decode(&bytes, None), None);
    }

    #[test]
    fn only_what_is_settled_is_of_the_second_format() {
        for format in 0..4 {
            for state in 0..8 {
                let mut bytes = vec![0; SIZE];
                (bytes[0], bytes[1]) = (format, state);
                let known = (format == 1 && state <= 4) || (format == 2 && state == 5);
                assert_eq!(decode(&bytes, None).is_some(), known, "{format} {state}");
            }
        }
    }

    #[test]
    fn a_history_that_cannot_be_read_hides_no_record() {
        let mut bytes = vec![0; SIZE];
        (bytes[0], bytes[1]) = (FORMAT, 3);
        assert!(decode(&bytes, Some(b"?")).unwrap().execution.is_some());
    }
}
