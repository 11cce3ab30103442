//! The first statement of a batch: it reads what is under the keys, and on the way it does the
//! two things that most operations come to, where no decision is needed.
//!
//! - An acquire whose key has no row at all is granted: an insert that a second one runs into.
//! - A complete whose owner holds the key is stored: one update, compared on the owner.
//!
//! Whatever else an operation meets is decided by the state machine, from the row that comes back.
//! Each statement is a transaction of its own and touches its rows in the order of their ids. None waits
//! for a row that somebody else has locked, as an open transaction of an application may have done: the
//! insert leaves out keys that have a row, and the update passes over rows that are locked.

use super::error::PostgresFailure;
use super::ids::Id;
use super::past;
use super::pool::PooledConnection;
use super::quota;
use super::row::{self, columns, found, legible, micros, signed, ttl, unsigned, FoundRow};
use crate::clock::Micros;
use crate::machine::AcquireEvent;
use crate::quota::{Quota, Quotas};
use crate::record::{Slot, StoredOutcome};
use idempotency_protocol::{AttemptKind, Owner};
use std::time::SystemTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::Row;

/// What is under one key.
#[derive(Debug)]
pub(super) struct SeenRow {
    /// Store time.
    pub now: Micros,
    /// Versions and fences begin above this where there is no row.
    pub floor: u64,
    /// The row.
    pub found: FoundRow,
    /// Which quota leaves its tenant no room for a new record, if one does.
    pub used_up: Option<Quota>,
}

impl SeenRow {
    /// Reads time, floor and slot, which are beside each other.
    fn read(row: &Row, first: usize) -> SeenRow {
        SeenRow {
            now: micros(row.get::<_, SystemTime>(first)),
            floor: unsigned(row.get(first + 1)),
            found: found(row, first + 2),
            used_up: None,
        }
    }

    /// The slot for the machine: where there is none, one that is empty and begins at the floor.
    pub fn start(&self) -> Slot {
        self.found.slot().cloned().unwrap_or_else(|| Slot {
            version: self.floor,
            fence: self.floor,
            ..Slot::default()
        })
    }

    /// The version that a change compares itself with; 0: there is no row.
    pub fn version(&self) -> u64 {
        self.found.slot().map_or(0, |slot| slot.version)
    }
}

/// How the statement left one key.
#[derive(Debug)]
pub(super) enum Stepped<T> {
    /// Done.
    Done(T),
    /// To be decided.
    Seen(Box<SeenRow>),
    /// Somebody else's row came while the statement ran.
    TooLate,
}

/// `$flushed`: an expression that is true, and sets how the statement is committed.
macro_rules! grant {
    ($flushed:literal) => {
        concat!(
            "WITH t AS MATERIALIZED (
                 SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros, ",
                    $flushed,
                    " AS is_set
                 FROM idempotency_now() AS now),
             granted AS (
                 INSERT INTO idempotency_records (id, long_key, replaces, version, fence, state, owner,
                     scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
                     lease_until, marks, due, history, history_version, history_fence, history_since,
                     about)
                 SELECT g.id, g.long_key, 0, greatest(f.floor + 1, t.micros),
                     greatest(f.floor + 1, t.micros), 'executing', g.owner, g.scheme, g.digest, 1,
                     g.ttl_ms, g.unknown_ttl_ms, t.now, t.now, t.now + g.lease_ms * interval '1 ms', '',
                     t.now + g.lease_ms * interval '1 ms',
                     overlay(g.history PLACING int8send(t.micros) FROM 5 FOR 8),
                     greatest(f.floor + 1, t.micros), greatest(f.floor + 1, t.micros), t.now, g.about
                 FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[],
                         $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[], $10::jsonb[])
                         AS g(id, long_key, owner, scheme, digest, lease_ms, ttl_ms, unknown_ttl_ms,
                             history, about)
                     CROSS JOIN t CROSS JOIN idempotency_floor f
                 WHERE t.is_set AND NOT EXISTS (SELECT FROM idempotency_records r WHERE r.id = g.id)
                 ORDER BY g.id
                 ON CONFLICT (id) DO NOTHING
                 RETURNING id, fence)
             SELECT i.n, granted.fence, idempotency_now(), f.floor, ",
            columns!("NULL::jsonb", "r.outcome"),
            " FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
                 CROSS JOIN idempotency_floor f
                 LEFT JOIN granted ON granted.id = i.id
                 LEFT JOIN idempotency_records r ON r.id = i.id"
        )
    };
}

/// What acquires one key, or as many as its arrays have; for measuring the server alone.
pub const GRANT: &str = grant!("true");

/// The same for executions that are transactions of this database, committed without waiting for the disk. The
/// commit of such a transaction comes after it in the log and is waited for, so whatever is left of the transaction
/// after a crash of the server, its acquire is left, too (ADR 18).
pub const GRANT_TRANSACTIONS: &str =
    grant!("set_config('synchronous_commit', 'off', true) = 'off'");

/// The same where there are quotas (`migrations/0003_histories.sql`).
const GRANT_WITHIN: &str = concat!(
    "WITH granted AS MATERIALIZED (
         SELECT * FROM idempotency_grant_within($1::bytea[], $2::bytea[], $3::bytea[],
             $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[],
             $10::jsonb[], $11::bigint, $12::bigint, $13::bigint))
     SELECT i.n, granted.granted_fence, granted.used_up, idempotency_now(), f.floor, ",
    columns!("NULL::jsonb", "r.outcome"),
    " FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN granted ON granted.granted_id = i.id
         LEFT JOIN idempotency_records r ON r.id = i.id"
);

/// An acquire that may find its key unused. `ids` are in order and each one is there once.
pub(super) async fn grant(
    connection: &PooledConnection,
    asked: &[(&Id, &AcquireEvent)],
    quotas: Quotas,
) -> Result<Vec<Stepped<u64>>, PostgresFailure> {
    let each = |field: fn(&AcquireEvent) -> i64| -> Vec<i64> {
        asked.iter().map(|(_, event)| field(event)).collect()
    };
    let ids: Vec<&[u8]> = asked.iter().map(|(id, _)| id.id.as_slice()).collect();
    let long_keys: Vec<Option<&[u8]>> =
        asked.iter().map(|(id, _)| id.long_key.as_deref()).collect();
    let owners: Vec<&[u8]> = asked.iter().map(|(_, e)| e.owner.0.as_slice()).collect();
    let digests: Vec<&[u8]> = asked
        .iter()
        .map(|(_, e)| e.fingerprint.digest.as_slice())
        .collect();
    let (schemes, leases) = (
        each(|e| i64::from_be_bytes(e.fingerprint.scheme.0.to_be_bytes())),
        each(|e| ttl(e.lease_ms)),
    );
    let (ttls, unknown_ttls) = (
        each(|e| ttl(e.retention.ttl_ms)),
        each(|e| ttl(e.retention.unknown_ttl_ms.max(e.retention.ttl_ms))),
    );
    let histories: Vec<Vec<u8>> = asked.iter().map(|(_, e)| past::of_new(e.kind)).collect();
    let abouts: Vec<_> = asked
        .iter()
        .map(|(_, e)| past::describe(e.about.as_deref()))
        .collect();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
        &ids,
        &long_keys,
        &owners,
        &schemes,
        &digests,
        &leases,
        &ttls,
        &unknown_ttls,
        &histories,
        &abouts,
    ];
    if !quotas.any() {
        let is_transaction =
            |(_, event): &(&Id, &AcquireEvent)| event.kind == AttemptKind::Transaction;
        let statement = match asked.iter().all(is_transaction) {
            true => GRANT_TRANSACTIONS,
            false => GRANT,
        };
        let rows = connection.query(statement, &parameters).await?;
        return in_order(asked.len(), &rows, |row| {
            Ok(match row.get::<_, Option<i64>>(1) {
                Some(fence) => Stepped::Done(unsigned(fence)),
                None => Stepped::Seen(Box::new(SeenRow::read(row, 2))),
            })
        });
    }
    let most = [quotas.executions, quotas.records, quotas.bytes].map(|most| most.map(signed));
    parameters.extend(most.iter().map(|most| most as &(dyn ToSql + Sync)));
    let rows = connection.query(GRANT_WITHIN, &parameters).await?;
    in_order(asked.len(), &rows, |row| {
        if let Some(fence) = row.get::<_, Option<i64>>(1) {
            return Ok(Stepped::Done(unsigned(fence)));
        }
        let code: Option<i32> = row.get(2);
        let seen = SeenRow::read(row, 3);
        if code == Some(quota::A_ROW) && matches!(seen.found, FoundRow::Nothing) {
            return Ok(Stepped::TooLate);
        }
        Ok(Stepped::Seen(Box::new(SeenRow {
            used_up: quota::used_up(code),
            ..seen
        })))
    })
}

/// What completes one key, or as many as its arrays have; for measuring the server alone.
///
/// A row that somebody else has locked, or changes, shows it in `xmax`, and is left to the second statement. So is one
/// where that was so, which is rare. To lock rows first, as the second statement does, would cost a fifth more.
pub const COMPLETE: &str = concat!(
    "WITH t AS MATERIALIZED (
         SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
         FROM idempotency_now() AS now),
     done AS (
         UPDATE idempotency_records r
         SET replaces = r.version, version = greatest(r.version + 1, t.micros),
             history_version = CASE WHEN r.history_version = r.version
                 THEN greatest(r.version + 1, t.micros) ELSE r.history_version END,
             state = 'completed', changed_at = t.now, lease_until = NULL,
             due = t.now + r.ttl_ms * interval '1 ms', status = c.status,
             body_bytes = c.body_bytes, outcome_digest = c.digest, outcome_size = c.size,
             outcome = c.outcome
         FROM (SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::integer[], $4::bigint[],
                     $5::bytea[], $6::bigint[], $7::bytea[])
                     AS c(id, owner, status, body_bytes, digest, size, outcome)
                 ORDER BY id) c
             CROSS JOIN t
         WHERE r.id = c.id AND r.owner = c.owner AND r.xmax = '0'
             AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > t.now
                 OR r.state = 'settled' AND r.lease_until > t.now)
             AND ",
    legible!(),
    "
         RETURNING r.id, r.due, r.waited_until > t.now AS waited)
     SELECT i.n, done.due,
         CASE WHEN done.waited THEN pg_notify('idempotency_changed', encode(done.id, 'hex')) END,
         idempotency_now(), f.floor, ",
    columns!("NULL::jsonb", "NULL::bytea"),
    " FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN done ON done.id = i.id
         LEFT JOIN idempotency_records r ON r.id = i.id"
);

/// A complete that most likely holds its key. Done: when the record is forgotten.
pub(super) async fn complete(
    connection: &PooledConnection,
    asked: &[(&Id, &Owner, &StoredOutcome)],
) -> Result<Vec<Stepped<Micros>>, PostgresFailure> {
    let ids: Vec<&[u8]> = asked.iter().map(|(id, ..)| id.id.as_slice()).collect();
    let owners: Vec<&[u8]> = asked.iter().map(|(_, o, _)| o.0.as_slice()).collect();
    let outcomes = || asked.iter().map(|(.., outcome)| outcome);
    let statuses: Vec<i32> = outcomes().map(|o| i32::from(o.status)).collect();
    let body_bytes: Vec<Option<i64>> = outcomes().map(|o| o.body_bytes.map(signed)).collect();
    let digests: Vec<&[u8]> = outcomes().map(|o| o.digest.as_slice()).collect();
    let sizes: Vec<i64> = outcomes().map(|o| signed(o.size)).collect();
    let data: Vec<Option<&[u8]>> = outcomes().map(|o| o.data.as_deref()).collect();
    let rows = connection
        .query(
            COMPLETE,
            &[
                &ids,
                &owners,
                &statuses,
                &body_bytes,
                &digests,
                &sizes,
                &data,
            ],
        )
        .await?;
    in_order(asked.len(), &rows, |row| {
        Ok(match row.get::<_, Option<SystemTime>>(1) {
            Some(due) => Stepped::Done(micros(due)),
            None => Stepped::Seen(Box::new(SeenRow::read(row, 3))),
        })
    })
}

/// `$about`: the expression for the description.
macro_rules! read {
    ($about:literal) => {
        concat!(
            "SELECT i.n, idempotency_now(), f.floor, ",
            columns!($about, "CASE WHEN i.whole THEN r.outcome END"),
            " FROM unnest($1::bytea[], $2::boolean[]) WITH ORDINALITY AS i(id, whole, n)
                 CROSS JOIN idempotency_floor f
                 LEFT JOIN idempotency_records r ON r.id = i.id"
        )
    };
}

pub(super) const READ: &str = read!("NULL::jsonb");
const INSPECT: &str = read!("r.about");

/// What is under these ids, without descriptions; with the outcome itself where that is wanted.
pub(super) async fn read(
    connection: &PooledConnection,
    asked: &[(&Id, bool)],
) -> Result<Vec<SeenRow>, PostgresFailure> {
    let ids: Vec<&[u8]> = asked.iter().map(|(id, _)| id.id.as_slice()).collect();
    let whole: Vec<bool> = asked.iter().map(|(_, whole)| *whole).collect();
    let rows = connection.query(READ, &[&ids, &whole]).await?;
    in_order(asked.len(), &rows, |row| Ok(SeenRow::read(row, 1)))
}

/// What is under this id, with its description and without its outcome.
pub(super) async fn inspect(
    connection: &PooledConnection,
    id: &Id,
) -> Result<SeenRow, PostgresFailure> {
    described(connection, id, false).await
}

/// Everything that is under this id.
pub(super) async fn export(
    connection: &PooledConnection,
    id: &Id,
) -> Result<SeenRow, PostgresFailure> {
    described(connection, id, true).await
}

async fn described(
    connection: &PooledConnection,
    id: &Id,
    whole: bool,
) -> Result<SeenRow, PostgresFailure> {
    let (ids, whole) = (vec![id.id.as_slice()], vec![whole]);
    let rows = connection.query(INSPECT, &[&ids, &whole]).await?;
    let seen = in_order(1, &rows, |row| Ok(SeenRow::read(row, 1)))?;
    seen.into_iter()
        .next()
        .ok_or_else(|| PostgresFailure::transient("no answer"))
}

/// One of each, by the number in the first column.
fn in_order<T>(
    count: usize,
    rows: &[Row],
    mut read: impl FnMut(&Row) -> Result<T, PostgresFailure>,
) -> Result<Vec<T>, PostgresFailure> {
    let mut found = rows
        .iter()
        .map(|row| Ok((row.get::<_, i64>(0), read(row)?)))
        .collect::<Result<Vec<_>, PostgresFailure>>()?;
    found.sort_by_key(|(n, _)| *n);
    if found.len() != count {
        return Err(row::Damaged("not one row per key").into());
    }
    Ok(found.into_iter().map(|(_, value)| value).collect())
}
