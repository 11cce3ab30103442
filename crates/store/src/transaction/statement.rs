//! What an application runs in a transaction of its own, so that its effects and their record are one commit.
//!
//! Any driver will do: a [`Statement`] is SQL with scalar parameters. The order is: acquire through the store, which
//! commits at once, so that everybody sees the key in flight (without waiting for the disk if the attempt is a
//! [`Transaction`](idempotency_protocol::AttemptKind::Transaction)); begin a transaction; the effects; the statement, last;
//! commit. Then [`Statements::after_commit`], which wakes those who wait.
//!
//! **One row, or roll back.** The statement returns one row if it has made its change. No row means that the
//! execution is not (any more) the caller's: its effects must not be committed. This holds in every isolation level.
//! Under REPEATABLE READ and SERIALIZABLE the statement, or the commit, may also fail with SQLSTATE 40001: the record
//! was changed after the transaction's snapshot was taken, for example by a renewal of its lease. Then the
//! transaction has done nothing and can be run again by the same owner.
//!
//! While the transaction is open, the record is what was last committed, so the key is in flight for everybody else
//! and nobody waits for it, whatever other keys their calls are about. A savepoint that is rolled back takes the
//! record's change with it.
//!
//! The names in a statement are qualified with the schema of the store's tables, so it works under every
//! `search_path`. The role needs `SELECT` and `UPDATE` on `idempotency_records`, `USAGE` on its schema and, where
//! tenants have quotas, `INSERT` on `idempotency_tenant_changes`.

use super::ids::Id;
use crate::record::StoredOutcome;
use bytes::Bytes;
use idempotency_protocol::{LookupKey, Owner};
use std::borrow::Cow;
use std::sync::Arc;

/// One statement with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The text, with `$1` for the first parameter. It is the same text for every key, so it can be prepared once.
    pub sql: Arc<str>,
    /// The parameters in their order.
    pub parameters: Vec<Parameter>,
}

/// A parameter of a [`Statement`]. None is ever NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// A `bytea`.
    Bytes(Bytes),
    /// A `bigint`.
    Integer(i64),
}

/// Makes statements for the tables of one store; see the [module](self). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    complete: Arc<str>,
    settle: Arc<str>,
    fail: Arc<str>,
    after_commit: Arc<str>,
    /// Completes, or fails.
    commit: Option<Arc<str>>,
    #[cfg(feature = "encryption")]
    sealer: Option<crate::sealed::Sealer>,
}

/// The SQLSTATE with which [`Statements::commit_in_tx`] fails where the execution is not (any more) the caller's.
pub const LOST: &str = "IG001";

/// Whether this program can read the row `r`; what statements ask that write without having read. The first
/// byte of a history is its format.
macro_rules! legible {
    () => {
        "r.format = 1 AND (r.history IS NULL OR substring(r.history FROM 1 FOR 1) = '\\x01')"
    };
}
#[cfg(feature = "postgres")]
pub(crate) use legible;

/// The name of the schema is put in for `{}`. The advisory lock shows services that the row is locked for as long as
/// an application likes; nobody waits for it. The setting has the counters of the record's tenant changed later: to
/// change them here would hold up all grants of the tenant until the transaction ends.
macro_rules! in_transaction {
    ($set:literal, $whom:literal) => {
        concat!(
            "WITH t AS MATERIALIZED (
    SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros,
        pg_advisory_xact_lock_shared($2::bigint)::text IS NOT NULL
            AND set_config('idempotency.in_transaction', 'on', true) = 'on' AS shown
    FROM {}.idempotency_now() AS now)
UPDATE {}.idempotency_records r
SET replaces = r.version, version = greatest(r.version + 1, t.micros),
    history_version = CASE WHEN r.history_version = r.version
        THEN greatest(r.version + 1, t.micros) ELSE r.history_version END,
    changed_at = t.now, ",
            $set,
            "
FROM t
WHERE t.shown AND r.id = $1::bytea AND ",
            $whom,
            "
    AND ",
            legible!(),
            "
RETURNING r.state, floor(extract(epoch FROM r.due) * 1000)::bigint AS expires_at_ms"
        )
    };
}

/// As `postgres::COMPLETE_STATEMENT`.
const COMPLETE: &str = in_transaction!(
    "state = 'completed', lease_until = NULL,
    due = t.now + r.ttl_ms * interval '1 ms', status = $5::bigint::integer,
    body_bytes = CASE WHEN $6::bigint >= 0 THEN $6::bigint END, outcome_digest = $7::bytea,
    outcome_size = $8::bigint, outcome = $9::bytea",
    "r.owner = $3::bytea AND r.fence = $4::bigint
    AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > t.now
        OR r.state = 'settled' AND r.lease_until > t.now)"
);

/// While the gateway's lease lives, it still holds the key, and attaches the bytes that its client gets.
const SETTLE: &str = in_transaction!(
    "state = CASE WHEN r.lease_until > t.now THEN 'settled' ELSE 'completed' END,
    lease_until = CASE WHEN r.lease_until > t.now THEN r.lease_until END,
    due = greatest(t.now + r.ttl_ms * interval '1 ms',
        CASE WHEN r.lease_until > t.now THEN r.lease_until END),
    status = $4::bigint::integer,
    body_bytes = CASE WHEN $5::bigint >= 0 THEN $5::bigint END, outcome_digest = $6::bytea,
    outcome_size = $7::bigint, outcome = $8::bytea",
    "r.fence = $3::bigint
    AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > t.now)"
);

/// The second byte of a history: 1, an earlier attempt may have been done; 2, a failed one may have left effects.
const FAIL: &str = in_transaction!(
    "lease_until = NULL,
    state = CASE WHEN substring(r.history FROM 2 FOR 1) IN ('\\x01', '\\x03')
        THEN 'unknown' ELSE 'failed' END,
    due = t.now + interval '1 ms' * CASE WHEN substring(r.history FROM 2 FOR 1) IN ('\\x01', '\\x03')
        THEN r.unknown_ttl_ms ELSE r.ttl_ms END,
    history = CASE WHEN substring(r.history FROM 2 FOR 1) IN ('\\x00')
        THEN set_byte(r.history, 1, 2) ELSE r.history END",
    "r.fence = $3::bigint
    AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > t.now
        AND (r.history IS NULL OR substring(r.history FROM 2 FOR 1) NOT IN ('\\x01', '\\x03')))"
);

/// As [`COMPLETE`]; the server keeps the plan of what is in the function. `$or_fail`: in place of returning no row.
macro_rules! complete_function {
    ($or_fail:literal) => {
        concat!(
            "SELECT state, expires_at_ms FROM {}.idempotency_complete_in_tx($1::bytea, $2::bigint, $3::bytea, \
             $4::bigint, $5::bigint, $6::bigint, $7::bytea, $8::bigint, $9::bytea, ",
            $or_fail,
            ")"
        )
    };
}

/// As [`SETTLE`].
const SETTLE_FUNCTION: &str =
    "SELECT state, expires_at_ms FROM {}.idempotency_settle_in_tx($1::bytea, $2::bigint, $3::bigint, \
     $4::bigint, $5::bigint, $6::bytea, $7::bigint, $8::bytea)";

const AFTER_COMMIT: &str =
    "SELECT pg_catalog.pg_notify('idempotency_changed', encode($1::bytea, 'hex'))::text";

impl Statements {
    /// For tables in this schema, named as it is (not quoted), of this release or of the one before: the server plans
    /// each statement that is not prepared.
    pub fn in_schema(schema: &str) -> Statements {
        Statements::of(schema, [COMPLETE, SETTLE], None)
    }

    /// For tables in this schema that are known to be this release's: by functions that came with it.
    pub fn with_functions(schema: &str) -> Statements {
        let complete = complete_function!("false");
        let commit = complete_function!("true");
        Statements::of(schema, [complete, SETTLE_FUNCTION], Some(commit))
    }

    fn of(schema: &str, [complete, settle]: [&str; 2], commit: Option<&str>) -> Statements {
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        let text = |sql: &str| Arc::from(sql.replace("{}", &schema));
        Statements {
            complete: text(complete),
            settle: text(settle),
            fail: text(FAIL),
            after_commit: text(AFTER_COMMIT),
            commit: commit.map(text),
            #[cfg(feature = "encryption")]
            sealer: None,
        }
    }

    /// The same for a store whose records are encrypted: what the statements store is sealed.
    #[cfg(feature = "encryption")]
    #[must_use]
    pub fn sealed_by(self, sealer: crate::sealed::Sealer) -> Statements {
        Statements {
            sealer: Some(sealer),
            ..self
        }
    }

    /// The key under which the record is kept.
    fn place<'k>(&self, key: &'k LookupKey) -> Cow<'k, LookupKey> {
        #[cfg(feature = "encryption")]
        if let Some(sealer) = &self.sealer {
            return Cow::Owned(sealer.place(key));
        }
        Cow::Borrowed(key)
    }

    /// What is stored of an outcome, in the order of the columns.
    fn columns(
        &self,
        place: &LookupKey,
        fence: u64,
        outcome: &StoredOutcome,
    ) -> Option<[Parameter; 5]> {
        #[cfg(feature = "encryption")]
        if let Some(sealer) = &self.sealer {
            return columns(&sealer.outcome(place, fence, outcome)?);
        }
        let _ = (place, fence);
        columns(outcome)
    }

    /// Completes the execution of this owner and fence, in the transaction that holds its effects. `None` if the
    /// outcome's data is not at hand.
    ///
    /// One row: `state` (text), and `expires_at_ms` (bigint), when the record is forgotten, in milliseconds since
    /// the Unix epoch, counted from now. No row: the key is lost, or was completed before; roll back.
    pub fn complete_in_tx(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        outcome: &StoredOutcome,
    ) -> Option<Statement> {
        let place = self.place(key);
        let [id, number] = row(&place);
        let of_fence = Parameter::Integer(signed(fence));
        let mut parameters = vec![id, number, bytes(&owner.0), of_fence];
        parameters.extend(self.columns(&place, fence, outcome)?);
        Some(Statement {
            sql: Arc::clone(&self.complete),
            parameters,
        })
    }

    /// As [`Statements::complete_in_tx`], to be sent together with a COMMIT: where that would return no row, this
    /// fails with SQLSTATE [`LOST`], and the COMMIT behind it is a rollback. `None` also where the tables may be
    /// those of the release before.
    pub fn commit_in_tx(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        outcome: &StoredOutcome,
    ) -> Option<Statement> {
        let commit = Arc::clone(self.commit.as_ref()?);
        let complete = self.complete_in_tx(key, owner, fence, outcome)?;
        Some(Statement {
            sql: commit,
            ..complete
        })
    }

    /// Settles the execution with this fence: it is done, with this outcome. For an upstream of a gateway, whose
    /// effects are in this transaction. The fence came with the request. `None` if the outcome's data is not at
    /// hand.
    ///
    /// One row, as [`Statements::complete_in_tx`]: `state` is `settled` if the gateway still holds the key, and
    /// else `completed`. No row: somebody else has the key, or the execution was settled before; roll back.
    pub fn settle_in_tx(
        &self,
        key: &LookupKey,
        fence: u64,
        outcome: &StoredOutcome,
    ) -> Option<Statement> {
        let place = self.place(key);
        let [id, number] = row(&place);
        let mut parameters = vec![id, number, Parameter::Integer(signed(fence))];
        parameters.extend(self.columns(&place, fence, outcome)?);
        Some(Statement {
            sql: Arc::clone(&self.settle),
            parameters,
        })
    }

    /// Settles the execution with this fence: it has done nothing, or what it did may be repeated.
    ///
    /// One row: `state` is `failed`, or `unknown` where an earlier attempt may have been done. No row: somebody else
    /// has the key, or the execution was settled before; roll back.
    pub fn fail_in_tx(&self, key: &LookupKey, fence: u64) -> Statement {
        let [id, number] = row(&self.place(key));
        Statement {
            sql: Arc::clone(&self.fail),
            parameters: vec![id, number, Parameter::Integer(signed(fence))],
        }
    }

    /// Wakes the waiters of this key, in all services. To be run after the commit and outside of a transaction:
    /// within one it would make commits wait for each other. Nothing depends on it: a waiter that is not woken looks
    /// again within a second where the attempt is a
    /// [`Transaction`](idempotency_protocol::AttemptKind::Transaction), and within `poll_interval` otherwise.
    pub fn after_commit(&self, key: &LookupKey) -> Statement {
        let [id, _] = row(&self.place(key));
        Statement {
            sql: Arc::clone(&self.after_commit),
            parameters: vec![id],
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn bytes(bytes: &[u8]) -> Parameter {
    Parameter::Bytes(Bytes::copy_from_slice(bytes))
}

/// Where the record is, and the number of its advisory lock.
fn row(key: &LookupKey) -> [Parameter; 2] {
    let id = Id::of(key);
    let number = Parameter::Integer(id.advisory());
    [Parameter::Bytes(id.id.into()), number]
}

fn columns(outcome: &StoredOutcome) -> Option<[Parameter; 5]> {
    Some([
        Parameter::Integer(i64::from(outcome.status)),
        Parameter::Integer(outcome.body_bytes.map_or(-1, signed)),
        bytes(&outcome.digest),
        Parameter::Integer(signed(outcome.size)),
        Parameter::Bytes(outcome.data.clone()?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_qualified_and_every_parameter_is_there() {
        for statements in [
            Statements::in_schema("odd \"name"),
            Statements::with_functions("odd \"name"),
        ] {
            names_and_parameters(&statements);
        }
    }

    fn names_and_parameters(statements: &Statements) {
        let key = LookupKey {
            tenant: "t".into(),
            namespace: String::new(),
            origin: idempotency_protocol::Origin::Client,
            key: "k".into(),
        };
        let outcome = StoredOutcome::new(&idempotency_protocol::Outcome::Tombstone(
            idempotency_protocol::Tombstone {
                status: 200,
                reason: idempotency_protocol::TombstoneReason::TooLarge,
            },
        ));
        let all = [
            statements
                .complete_in_tx(&key, Owner([1; 16]), 7, &outcome)
                .unwrap(),
            statements.settle_in_tx(&key, 7, &outcome).unwrap(),
            statements.fail_in_tx(&key, 7),
            statements.after_commit(&key),
        ];
        let commit = statements.commit_in_tx(&key, Owner([1; 16]), 7, &outcome);
        for Statement { sql, parameters } in all.into_iter().chain(commit) {
            assert!(!sql.contains("{}"), "{sql}");
            let names = sql.matches("idempotency_").count();
            let ours = sql.matches("\"odd \"\"name\".idempotency_").count();
            let told = sql.matches("'idempotency_changed'").count();
            assert_eq!(names, ours + told, "{sql}");
            for n in 1..=parameters.len() {
                assert!(sql.contains(&format!("${n}::")), "{n}: {sql}");
            }
            assert!(!sql.contains(&format!("${}::", parameters.len() + 1)));
        }
        let unread = StoredOutcome {
            data: None,
            ..outcome
        };
        assert!(statements.settle_in_tx(&key, 7, &unread).is_none());
    }
}
