//! The second statement of a batch: what the state machine decided, written where nothing has
//! changed since it was read.

use super::error::Trouble;
use super::ids::Id;
use super::pool::Connection;
use super::row::{encode_marks, signed, time, ttl};
use crate::record::{Slot, State};
use std::collections::HashSet;
use std::time::SystemTime;

/// One slot on its way into its row.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub id: &'a Id,
    /// The version that was read; 0: there was no row.
    pub replaces: u64,
    pub slot: &'a Slot,
}

/// A change that was decided on a version which is not there any more is not made; its id is
/// not among those that come back.
const WRITE: &str = "
    WITH written AS (
        INSERT INTO idempotency_records AS r (id, long_key, replaces, version, fence, state,
            owner, scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
            lease_until, status, body_bytes, outcome_digest, outcome_size, outcome, marks,
            marks_until, due)
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::text[], $7::bytea[], $8::bigint[], $9::bytea[], $10::bigint[], $11::bigint[],
            $12::bigint[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
            $16::integer[], $17::bigint[], $18::bytea[], $19::bigint[], $20::bytea[],
            $21::bytea[], $22::timestamptz[], $23::timestamptz[]) AS c(id)
        ORDER BY c.id
        ON CONFLICT (id) DO UPDATE SET
            replaces = excluded.replaces, version = excluded.version, fence = excluded.fence,
            state = excluded.state, owner = excluded.owner, scheme = excluded.scheme,
            digest = excluded.digest, attempt = excluded.attempt, ttl_ms = excluded.ttl_ms,
            unknown_ttl_ms = excluded.unknown_ttl_ms, created_at = excluded.created_at,
            changed_at = excluded.changed_at, lease_until = excluded.lease_until,
            status = excluded.status, body_bytes = excluded.body_bytes,
            outcome_digest = excluded.outcome_digest, outcome_size = excluded.outcome_size,
            outcome = excluded.outcome,
            marks = excluded.marks, marks_until = excluded.marks_until, due = excluded.due
        WHERE r.version = excluded.replaces
        RETURNING r.id, r.waited_until > idempotency_now() AS waited)
    SELECT id, CASE WHEN waited THEN pg_notify('idempotency_changed', encode(id, 'hex')) END
    FROM written";

/// Writes all changes that still hold, in one transaction. Returns the ids of those.
pub(super) async fn write(
    connection: &Connection,
    changes: &[Change<'_>],
) -> Result<HashSet<Vec<u8>>, Trouble> {
    let mut c = Columns::default();
    for change in changes {
        c.push(change);
    }
    let rows = connection
        .query(
            WRITE,
            &[
                &c.id,
                &c.long_key,
                &c.replaces,
                &c.version,
                &c.fence,
                &c.state,
                &c.owner,
                &c.scheme,
                &c.digest,
                &c.attempt,
                &c.ttl_ms,
                &c.unknown_ttl_ms,
                &c.created_at,
                &c.changed_at,
                &c.lease_until,
                &c.status,
                &c.body_bytes,
                &c.outcome_digest,
                &c.outcome_size,
                &c.outcome,
                &c.marks,
                &c.marks_until,
                &c.due,
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// One array per column.
#[derive(Default)]
struct Columns<'a> {
    id: Vec<&'a [u8]>,
    long_key: Vec<Option<&'a [u8]>>,
    replaces: Vec<i64>,
    version: Vec<i64>,
    fence: Vec<i64>,
    state: Vec<&'static str>,
    owner: Vec<Option<&'a [u8]>>,
    scheme: Vec<Option<i64>>,
    digest: Vec<Option<&'a [u8]>>,
    attempt: Vec<Option<i64>>,
    ttl_ms: Vec<Option<i64>>,
    unknown_ttl_ms: Vec<Option<i64>>,
    created_at: Vec<Option<SystemTime>>,
    changed_at: Vec<Option<SystemTime>>,
    lease_until: Vec<Option<SystemTime>>,
    status: Vec<Option<i32>>,
    body_bytes: Vec<Option<i64>>,
    outcome_digest: Vec<Option<&'a [u8]>>,
    outcome_size: Vec<Option<i64>>,
    outcome: Vec<Option<&'a [u8]>>,
    marks: Vec<Vec<u8>>,
    marks_until: Vec<Option<SystemTime>>,
    due: Vec<SystemTime>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, change: &Change<'a>) {
        let slot = change.slot;
        let e = slot.execution.as_ref();
        let state = e.map(|e| &e.state);
        let lease = match state {
            Some(State::Executing(lease)) => Some(lease),
            _ => None,
        };
        let outcome = match state {
            Some(State::Completed(outcome)) => Some(outcome),
            _ => None,
        };
        self.id.push(&change.id.id);
        self.long_key.push(change.id.long_key.as_deref());
        self.replaces.push(signed(change.replaces));
        self.version.push(signed(slot.version));
        self.fence.push(signed(slot.fence));
        self.state.push(match state {
            None => "vacant",
            Some(State::Executing(_)) => "executing",
            Some(State::Completed(_)) => "completed",
            Some(State::Settled(..)) => "settled",
            Some(State::Failed) => "failed",
            Some(State::Unknown) => "unknown",
        });
        self.owner
            .push(e.and_then(|e| e.owner.as_ref()).map(|o| o.0.as_slice()));
        // The same 64 bits.
        self.scheme
            .push(e.map(|e| i64::from_be_bytes(e.fingerprint.scheme.0.to_be_bytes())));
        self.digest.push(e.map(|e| e.fingerprint.digest.as_slice()));
        self.attempt.push(e.map(|e| i64::from(e.attempt)));
        self.ttl_ms.push(e.map(|e| ttl(e.retention.ttl_ms)));
        self.unknown_ttl_ms
            .push(e.map(|e| ttl(e.retention.unknown_ttl_ms)));
        self.created_at.push(e.map(|e| time(e.created_at)));
        self.changed_at.push(e.map(|e| time(e.changed_at)));
        self.lease_until.push(lease.map(|lease| time(lease.until)));
        self.status.push(outcome.map(|o| i32::from(o.status)));
        self.body_bytes
            .push(outcome.and_then(|o| o.body_bytes).map(signed));
        self.outcome_digest
            .push(outcome.map(|o| o.digest.as_slice()));
        self.outcome_size.push(outcome.map(|o| signed(o.size)));
        self.outcome.push(outcome.and_then(|o| o.data.as_deref()));
        self.marks.push(encode_marks(&slot.marks));
        self.marks_until
            .push(slot.marks.iter().map(|m| m.until).max().map(time));
        self.due.push(time(slot.due()));
    }
}
