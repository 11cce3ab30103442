//! The second statement of a batch: what the state machine decided, written where nothing has
//! changed since it was read.
//!
//! Rows that are there are updated, keys that had none are inserted: two statements, so that the triggers of
//! each, where tenants are counted, touch the tenants in their order. Neither waits for a row that somebody
//! else has locked.

use super::error::PostgresFailure;
use super::ids::Id;
use super::past;
use super::pool::{Parameters, PooledConnection};
use super::row::{encode_marks, signed, time, ttl};
use crate::record::{Slot, State};
use serde_json::Value;
use std::collections::HashMap;
use std::time::SystemTime;
use tokio_postgres::types::ToSql;

/// One slot on its way into its row.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub id: &'a Id,
    /// The version that was read; 0: there was no row.
    pub replaces: u64,
    pub slot: &'a Slot,
}

/// How a change ended that was asked for. What is not told was decided on a version that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is made.
    Yes,
    /// Somebody else has locked the row, and has not changed it so far.
    Locked,
}

/// The changes, one a row, in the order of their ids.
macro_rules! changes {
    () => {
        "unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::text[], $7::bytea[], $8::bigint[], $9::bytea[], $10::bigint[], $11::bigint[],
            $12::bigint[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
            $16::integer[], $17::bigint[], $18::bytea[], $19::bigint[], $20::bytea[],
            $21::bytea[], $22::timestamptz[], $23::timestamptz[], $24::bytea[], $25::bigint[],
            $26::bigint[], $27::timestamptz[], $28::jsonb[])
            AS c(id, long_key, replaces, version, fence, state, owner, scheme, digest, attempt,
                ttl_ms, unknown_ttl_ms, created_at, changed_at, lease_until, status, body_bytes,
                outcome_digest, outcome_size, outcome, marks, marks_until, due, history,
                history_version, history_fence, history_since, about)"
    };
}

/// An outcome that was not read stays. `$about`: the description.
macro_rules! update {
    ($about:literal) => { concat!(
    "WITH mine AS MATERIALIZED (
        SELECT c.* FROM ",
    changes!(),
    "   JOIN idempotency_records r ON r.id = c.id
        WHERE r.version = c.replaces
        ORDER BY r.id
        FOR NO KEY UPDATE OF r SKIP LOCKED),
    written AS (
        UPDATE idempotency_records r SET
            replaces = c.replaces, version = c.version, fence = c.fence,
            state = c.state, owner = c.owner, scheme = c.scheme,
            digest = c.digest, attempt = c.attempt, ttl_ms = c.ttl_ms,
            unknown_ttl_ms = c.unknown_ttl_ms, created_at = c.created_at,
            changed_at = c.changed_at, lease_until = c.lease_until,
            status = c.status, body_bytes = c.body_bytes,
            outcome_digest = c.outcome_digest, outcome_size = c.outcome_size,
            outcome = CASE WHEN c.outcome_digest IS NULL THEN NULL
                ELSE coalesce(c.outcome, r.outcome) END,
            marks = c.marks, marks_until = c.marks_until, due = c.due,
            history = c.history, history_version = c.history_version,
            history_fence = c.history_fence, history_since = c.history_since,
            about = ",
    $about,
    "
        FROM mine c
        WHERE r.id = c.id
        RETURNING r.id, r.waited_until > idempotency_now() AS waited)
    SELECT id, true, CASE WHEN waited THEN pg_notify('idempotency_changed', encode(id, 'hex')) END
    FROM written
    UNION ALL
    SELECT r.id, false, NULL
    FROM unnest($1::bytea[], $3::bigint[]) AS c(id, replaces)
        JOIN idempotency_records r ON r.id = c.id
    WHERE r.version = c.replaces"
    ) };
}

/// The description of an attempt that was there before stays.
const UPDATE: &str =
    update!("CASE WHEN c.history_fence = r.history_fence THEN r.about ELSE c.about END");

/// For a slot that was read with its description.
const REWRITE: &str = update!("c.about");

/// The floor of fences rises with a row that is removed, as in a sweep.
const REMOVE: &str = "WITH mine AS MATERIALIZED (
        SELECT r.id FROM idempotency_records r
        WHERE r.id = $1 AND r.version = $2
        FOR UPDATE SKIP LOCKED),
    removed AS (
        DELETE FROM idempotency_records r USING mine WHERE r.id = mine.id
        RETURNING r.id, r.version, r.waited_until > idempotency_now() AS waited),
    floored AS (
        UPDATE idempotency_floor f SET floor = m.version
        FROM (SELECT max(version) AS version FROM removed) m
        WHERE m.version > f.floor
        RETURNING 1)
    SELECT id, true, CASE WHEN waited THEN pg_notify('idempotency_changed', encode(id, 'hex')) END,
        (SELECT count(*) FROM floored)
    FROM removed";

const INSERT: &str = concat!(
    "INSERT INTO idempotency_records (id, long_key, replaces, version, fence, state,
        owner, scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
        lease_until, status, body_bytes, outcome_digest, outcome_size, outcome, marks,
        marks_until, due, history, history_version, history_fence, history_since, about)
    SELECT * FROM ",
    changes!(),
    " WHERE NOT EXISTS (SELECT FROM idempotency_records r WHERE r.id = c.id)
    ORDER BY c.id
    ON CONFLICT (id) DO NOTHING
    RETURNING id, true"
);

/// Makes all changes that still hold. Those that replace a row are one transaction, new rows another.
pub(super) async fn write(
    connection: &PooledConnection,
    changes: &[Change<'_>],
) -> Result<HashMap<Vec<u8>, Written>, PostgresFailure> {
    let (mut old, mut new) = (Columns::default(), Columns::default());
    for change in changes {
        let columns = if change.replaces == 0 {
            &mut new
        } else {
            &mut old
        };
        columns.push(change);
    }
    let (updated, inserted) =
        tokio::try_join!(old.run(connection, UPDATE), new.run(connection, INSERT))?;
    let mut ends = HashMap::new();
    for (id, made) in updated.into_iter().chain(inserted) {
        if made {
            ends.insert(id, Written::Yes);
        } else {
            // A row that was written is told twice: as it is, and as it was.
            ends.entry(id).or_insert(Written::Locked);
        }
    }
    Ok(ends)
}

/// Puts a slot, with its description, in the place of that version; false: something else is there, or somebody has
/// locked it.
pub(super) async fn rewrite(
    connection: &PooledConnection,
    change: &Change<'_>,
) -> Result<bool, PostgresFailure> {
    let mut columns = Columns::default();
    columns.push(change);
    let statement = if change.replaces == 0 {
        INSERT
    } else {
        REWRITE
    };
    let made = columns.run(connection, statement).await?;
    Ok(made.iter().any(|(_, made)| *made))
}

/// Removes the row at that version; false as in [`rewrite`].
pub(super) async fn remove(
    connection: &PooledConnection,
    id: &Id,
    replaces: u64,
) -> Result<bool, PostgresFailure> {
    let rows = connection
        .query(REMOVE, &[&id.id, &signed(replaces)])
        .await?;
    Ok(!rows.is_empty())
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
    history: Vec<Option<Vec<u8>>>,
    history_version: Vec<Option<i64>>,
    history_fence: Vec<Option<i64>>,
    history_since: Vec<Option<SystemTime>>,
    about: Vec<Option<Value>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, change: &Change<'a>) {
        let slot = change.slot;
        let e = slot.execution.as_ref();
        let state = e.map(|e| &e.state);
        let lease = state.and_then(State::lease);
        let outcome = state.and_then(State::outcome);
        self.id.push(&change.id.id);
        self.long_key.push(change.id.long_key.as_deref());
        self.replaces.push(signed(change.replaces));
        self.version.push(signed(slot.version));
        self.fence.push(signed(slot.fence));
        self.state.push(match state {
            None => "vacant",
            Some(State::Executing(_)) => "executing",
            Some(State::Settled(..)) => "settled",
            Some(State::Completed(_)) => "completed",
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
        self.history.push(e.map(|e| past::encode(&e.history)));
        self.history_version.push(e.map(|_| signed(slot.version)));
        self.history_fence.push(e.map(|_| signed(slot.fence)));
        self.history_since.push(e.map(|e| time(e.created_at)));
        self.about
            .push(e.and_then(|e| past::describe(e.history.about.as_deref())));
    }

    /// Runs the statement, which tells ids, and whether a change is made. Nothing to change: nothing to run.
    async fn run(
        &self,
        connection: &PooledConnection,
        statement: &str,
    ) -> Result<Vec<(Vec<u8>, bool)>, PostgresFailure> {
        if self.id.is_empty() {
            return Ok(Vec::new());
        }
        let columns: [&(dyn ToSql + Sync); 28] = [
            &self.id,
            &self.long_key,
            &self.replaces,
            &self.version,
            &self.fence,
            &self.state,
            &self.owner,
            &self.scheme,
            &self.digest,
            &self.attempt,
            &self.ttl_ms,
            &self.unknown_ttl_ms,
            &self.created_at,
            &self.changed_at,
            &self.lease_until,
            &self.status,
            &self.body_bytes,
            &self.outcome_digest,
            &self.outcome_size,
            &self.outcome,
            &self.marks,
            &self.marks_until,
            &self.due,
            &self.history,
            &self.history_version,
            &self.history_fence,
            &self.history_since,
            &self.about,
        ];
        let parameters: Parameters<'_> = &columns;
        let rows = connection.query(statement, parameters).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
