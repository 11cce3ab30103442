//! Forgetting what is over, in one statement per batch.

use super::error::PostgresFailure;
use super::pool::PooledConnection;
use super::row::legible;
use crate::store::Swept;

/// Takes the rows that are due, without those that somebody else is at, and does with each what
/// [`crate::machine::sweep`] says. What it removes raises the floor of fences.
/// `$which`: a condition on them.
macro_rules! sweep {
    ($which:literal) => {
        concat!(
            "
    WITH t AS MATERIALIZED (
        SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
        FROM idempotency_now() AS now),
    d AS MATERIALIZED (
        SELECT r.id, r.state, coalesce(r.marks_until > (SELECT now FROM t), false) AS marked
        FROM idempotency_records r
        WHERE r.due <= (SELECT now FROM t) AND ",
            legible!(),
            $which,
            "
        ORDER BY r.due LIMIT $1
        FOR UPDATE SKIP LOCKED),
    lapsed AS (
        UPDATE idempotency_records r
        SET state = 'unknown', lease_until = NULL, changed_at = t.now, replaces = r.version,
            version = greatest(r.version + 1, t.micros),
            history_version = CASE WHEN r.history_version = r.version
                THEN greatest(r.version + 1, t.micros) ELSE r.history_version END,
            due = t.now + r.unknown_ttl_ms * interval '1 ms'
        FROM d CROSS JOIN t
        WHERE r.id = d.id AND d.state = 'executing'
        RETURNING r.id, r.waited_until > t.now AS waited),
    vacated AS (
        UPDATE idempotency_records r
        SET state = 'vacant', owner = NULL, scheme = NULL, digest = NULL, attempt = NULL,
            ttl_ms = NULL, unknown_ttl_ms = NULL, created_at = NULL, changed_at = NULL,
            lease_until = NULL, status = NULL, body_bytes = NULL, outcome_digest = NULL,
            outcome_size = NULL, outcome = NULL, due = r.marks_until, history = NULL,
            history_version = NULL, history_fence = NULL, history_since = NULL, about = NULL
        FROM d
        WHERE r.id = d.id AND d.state IN ('settled', 'completed', 'failed', 'unknown') AND d.marked
        RETURNING 1),
    removed AS (
        DELETE FROM idempotency_records r USING d
        WHERE r.id = d.id AND d.state <> 'executing' AND NOT d.marked
        RETURNING r.version, r.state),
    floored AS (
        UPDATE idempotency_floor f SET floor = m.version
        FROM (SELECT max(version) AS version FROM removed) m
        WHERE m.version > f.floor
        RETURNING 1)
    SELECT (SELECT count(*) FROM d),
        (SELECT count(*) FROM lapsed),
        (SELECT count(*) FROM vacated) + (SELECT count(*) FROM removed WHERE state <> 'vacant'),
        (SELECT count(*) FROM removed WHERE state = 'vacant'),
        (SELECT count(*) FROM floored),
        (SELECT count(CASE WHEN waited THEN
            pg_notify('idempotency_changed', encode(id, 'hex'))::text END) FROM lapsed)"
        )
    };
}

const SWEEP: &str = sweep!("");

/// Where tenants are counted, what a sweep changes and what it removes are two statements: the triggers
/// of each touch the tenants in their order, and those of both together would not.
const SWEEP_COUNTED: [&str; 2] = [
    sweep!(" AND (r.state = 'executing' OR coalesce(r.marks_until > (SELECT now FROM t), false))"),
    sweep!(
        " AND NOT (r.state = 'executing' OR coalesce(r.marks_until > (SELECT now FROM t), false))"
    ),
];

/// One batch of at most `limit` rows; `counted`: tenants are.
pub(super) async fn sweep(
    connection: &PooledConnection,
    limit: usize,
    counted: bool,
) -> Result<Swept, PostgresFailure> {
    if !counted {
        return run(connection, SWEEP, limit).await;
    }
    let mut swept = Swept::default();
    for statement in SWEEP_COUNTED {
        let left = limit.saturating_sub(swept.slots);
        let part = run(connection, statement, left).await?;
        swept.expired += part.expired;
        swept.lapsed += part.lapsed;
        swept.slots += part.slots;
        swept.more |= part.more;
    }
    Ok(swept)
}

async fn run(
    connection: &PooledConnection,
    statement: &str,
    limit: usize,
) -> Result<Swept, PostgresFailure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection.query(statement, &[&limit]).await?;
    let count = |column: usize| rows.first().map_or(0i64, |row| row.get(column));
    let size = |count: i64| usize::try_from(count).unwrap_or(0);
    let (lapsed, expired, vacant) = (size(count(1)), size(count(2)), size(count(3)));
    Ok(Swept {
        expired,
        lapsed,
        slots: lapsed + expired + vacant,
        more: limit > 0 && count(0) >= limit,
    })
}
