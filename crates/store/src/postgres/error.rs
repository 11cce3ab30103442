//! What a failure means.

use super::row::Damaged;
use crate::store::StoreError;
use deadpool::managed::{PoolError, TimeoutType};
use std::error::Error as _;
use tokio_postgres::error::SqlState;

/// A failure, and what may be done about it.
#[derive(Debug)]
pub(super) struct PostgresFailure {
    pub error: StoreError,
    pub kind: RetryAdvice,
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryAdvice {
    /// Try again: a connection was lost, the server restarts, two writers met. Every operation
    /// can be repeated, since its owner recognises what it has already done.
    Retry,
    /// Trying again takes as long again: a statement ran into its timeout.
    TooSlow,
    /// It is about the operation, or about nothing that goes away by itself.
    Final,
}

impl PostgresFailure {
    pub fn transient(what: impl Into<String>) -> PostgresFailure {
        PostgresFailure {
            error: StoreError::Transient(what.into()),
            kind: RetryAdvice::Retry,
        }
    }

    pub fn permanent(what: impl Into<String>) -> PostgresFailure {
        PostgresFailure {
            error: StoreError::Permanent(what.into()),
            kind: RetryAdvice::Final,
        }
    }

    pub fn too_slow(what: impl Into<String>) -> PostgresFailure {
        PostgresFailure {
            error: StoreError::Transient(what.into()),
            kind: RetryAdvice::TooSlow,
        }
    }
}

impl From<Damaged> for PostgresFailure {
    fn from(Damaged(what): Damaged) -> PostgresFailure {
        PostgresFailure::permanent(format!("a record cannot be read: {what}"))
    }
}

impl From<PoolError<PostgresFailure>> for PostgresFailure {
    fn from(error: PoolError<PostgresFailure>) -> PostgresFailure {
        match error {
            PoolError::Backend(trouble) => trouble,
            PoolError::Timeout(TimeoutType::Wait) => {
                PostgresFailure::too_slow("PostgreSQL: all connections of the pool are in use")
            }
            PoolError::Timeout(_) => {
                PostgresFailure::transient("PostgreSQL: connecting took too long")
            }
            PoolError::Closed => PostgresFailure {
                error: StoreError::Transient("store is closed".into()),
                kind: RetryAdvice::Final,
            },
            other => PostgresFailure::transient(format!("PostgreSQL: the pool: {other:?}")),
        }
    }
}

impl From<tokio_postgres::Error> for PostgresFailure {
    fn from(error: tokio_postgres::Error) -> PostgresFailure {
        match error.as_db_error() {
            Some(db) => {
                // Neither detail nor hint: they may quote a row, and so a key.
                let text = format!("PostgreSQL: {} ({})", db.message(), db.code().code());
                match kind(db.code()) {
                    RetryAdvice::Retry => PostgresFailure::transient(text),
                    RetryAdvice::TooSlow => PostgresFailure::too_slow(text),
                    RetryAdvice::Final => PostgresFailure::permanent(text),
                }
            }
            None => {
                let why = error.source().map_or(String::new(), |e| format!(": {e}"));
                let text = format!("PostgreSQL: {error}{why}");
                // The driver's configuration errors have no kind of their own.
                if error.to_string().contains("configuration") {
                    return PostgresFailure::permanent(text);
                }
                PostgresFailure::transient(text)
            }
        }
    }
}

/// What the server's code means.
fn kind(code: &SqlState) -> RetryAdvice {
    let text = code.code();
    if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE {
        return RetryAdvice::TooSlow;
    }
    // 0A000: a prepared statement met a changed table. 25006: the server has become a standby.
    // 42501 and the rest of class 42, class 28, class 3D: somebody must act.
    let retry = [
        "08", "40", "53", "57", "58", "55P03", "0A000", "25006", "25P0",
    ];
    if retry.iter().any(|prefix| text.starts_with(prefix)) {
        RetryAdvice::Retry
    } else {
        RetryAdvice::Final
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_stays() {
        for retry in [
            "40001", "40P01", "57P01", "57P03", "53300", "08006", "25006", "0A000",
        ] {
            assert_eq!(
                kind(&SqlState::from_code(retry)),
                RetryAdvice::Retry,
                "{retry}"
            );
        }
        for slow in ["57014", "55P03"] {
            assert_eq!(
                kind(&SqlState::from_code(slow)),
                RetryAdvice::TooSlow,
                "{slow}"
            );
        }
        for last in ["28P01", "3D000", "42P01", "42501", "23514", "XX001"] {
            assert_eq!(
                kind(&SqlState::from_code(last)),
                RetryAdvice::Final,
                "{last}"
            );
        }
    }
}
