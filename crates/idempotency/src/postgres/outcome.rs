//! What comes out of transactions, and what can go wrong, told apart by what the caller should do.

use super::driver::InTransaction;
use super::BoxError;
use crate::entry::{InFlight, Unknown};
use crate::error::Error;
use crate::outcome::Done;

/// What [`Guard::transaction`](crate::Guard::transaction) came to.
#[derive(Debug)]
pub enum Transacted {
    /// It was done now: effects and record are committed.
    Committed(Done),
    /// It was done before: this is what came out.
    Replay(Done),
    /// Somebody is doing it at this moment: [`InFlight::ended`] waits, then call again.
    InFlight(Box<InFlight>),
    /// The key was used for something else.
    Mismatch,
    /// The key was used, and its fingerprint was made in another way.
    NotComparable,
    /// It may have been done, by an attempt that was no transaction of this database.
    Unknown(Unknown),
}

/// Why a record was not changed in a transaction. **Roll back**: the transaction must not be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxError {
    /// The execution does not hold its key any more, or has ended before: no row was changed.
    #[error("another execution holds the key, or this one has ended before; roll back")]
    Lost,
    /// Another transaction changed the record, or was in the way (SQLSTATE 40001, 40P01, 55P03). Nothing was done;
    /// the same execution may run its transaction again.
    #[error("the transaction met another one; roll back, and run it again: {0}")]
    Conflict(#[source] BoxError),
    /// The database, or the way to it, failed.
    #[error("the record cannot be changed in this transaction; roll back: {0}")]
    Database(#[source] BoxError),
    /// The guard's store has no records in a PostgreSQL database that is known here; see
    /// [`Guard::transactions_in`](crate::Guard::transactions_in).
    #[error("the guard's store is not known to be in a PostgreSQL database")]
    NoDatabase,
}

impl TxError {
    pub(super) fn of<T: InTransaction>(error: T::Error) -> TxError {
        match T::sqlstate(&error).as_deref() {
            Some("40001" | "40P01" | "55P03") => TxError::Conflict(Box::new(error)),
            _ => TxError::Database(Box::new(error)),
        }
    }

    /// Whether the same transaction may succeed when it is run again.
    pub fn is_transient(&self) -> bool {
        matches!(self, TxError::Conflict(_))
    }
}

/// Why [`Guard::transaction`](crate::Guard::transaction) has committed nothing, or does not know.
///
/// To call it again is safe in every case: the record tells whether to execute. `E` is the closure's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The key was not acquired. Nothing was done.
    #[error(transparent)]
    Acquire(#[from] Error),
    /// The closure failed. What it did is rolled back, and the key is free.
    #[error("rolled back: {0}")]
    Work(E),
    /// The record was not changed, so everything is rolled back; for [`TxError::Conflict`] and
    /// [`TxError::Database`] the key is free.
    #[error(transparent)]
    Record(#[from] TxError),
    /// BEGIN failed, or COMMIT did and everything is rolled back. The key is free. A COMMIT whose answer was lost
    /// was read back.
    #[error("nothing was committed: {0}")]
    RolledBack(#[source] BoxError),
    /// The answer to COMMIT was lost, and nobody can tell what became of it: the database's primary has changed, or
    /// could not be asked. A next call finds out, if anybody can.
    #[error("whether it was committed is unknown: {0}")]
    Unknown(#[source] BoxError),
}

impl<E> TransactionError<E> {
    /// Whether the same call may succeed later without anybody doing anything. The closure's errors do not count.
    pub fn is_transient(&self) -> bool {
        match self {
            TransactionError::Acquire(error) => error.is_transient(),
            TransactionError::Record(error) => {
                matches!(error, TxError::Conflict(_) | TxError::Lost)
            }
            TransactionError::RolledBack(_) => true,
            TransactionError::Work(_) | TransactionError::Unknown(_) => false,
        }
    }
}

/// Whether the server's answer to COMMIT says that nothing was committed: a conflict or a constraint, checked at the
/// end. A server that shuts down, or PgBouncer that lost its server, does not say so.
pub(super) fn is_refusal(sqlstate: &str) -> bool {
    let class = sqlstate.get(..2).unwrap_or_default();
    sqlstate != "40003" && ["22", "23", "25", "40", "44", "P0"].contains(&class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_errors_of_a_commit_tell_that_it_failed() {
        for state in ["40001", "40P01", "23505", "23503", "25P02", "P0001"] {
            assert!(is_refusal(state), "{state}");
        }
        for state in [
            "40003", "57P01", "57P02", "08P01", "08006", "XX000", "58030", "",
        ] {
            assert!(!is_refusal(state), "{state}");
        }
    }
}
