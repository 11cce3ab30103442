//! Reading the packed part of a record, as the script writes it (`LAYOUT` in `script.lua`).

use crate::clock::Micros;
use crate::record::{Execution, Lease, Slot, State, StoredOutcome};
use crate::store::RecordView;
use bytes::Buf;
use idempotency_protocol::{Fingerprint, LookupKey, Owner, Retention, Scheme};

const FORMAT: u8 = 1;

/// The slot, without its marks and without the outcome's data; `None` if the bytes are something
/// else.
pub(super) fn decode(mut input: &[u8]) -> Option<Slot> {
    let r = &mut input;
    if r.try_get_u8().ok()? != FORMAT {
        return None;
    }
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
    let state = match state {
        0 => None,
        1 => Some(State::Executing(lease)),
        2 => Some(State::Completed(outcome)),
        3 => Some(State::Failed),
        4 => Some(State::Unknown),
        _ => return None,
    };
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
            history: crate::history::History::of_old(created_at),
        }),
    })
}

/// The record as an operator sees it, at the server's time.
pub(super) fn view(bytes: &[u8], key: &LookupKey, now: Micros) -> Option<Option<RecordView>> {
    let slot = decode(bytes)?;
    let lease_until = match slot.execution.as_ref().map(|e| &e.state) {
        Some(State::Executing(lease)) => Some(lease.until),
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

fn array<const N: usize>(r: &mut &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    r.try_copy_to_slice(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_or_of_another_format_is_not_read() {
        let mut bytes = vec![0; 1 + 1 + 8 + 8 + 4 + 1 + 16 + 40 + 5 * 8 + 2 + 1 + 8 + 32 + 8];
        assert_eq!(decode(&bytes), None);
        bytes[0] = FORMAT;
        assert_eq!(decode(&bytes), Some(Slot::default()));
        assert_eq!(decode(&bytes[1..]), None);
        bytes.push(0);
        assert_eq!(decode(&bytes), None);
    }
}
