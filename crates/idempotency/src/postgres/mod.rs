//! The record in the caller's own PostgreSQL transaction: effect and record are one commit, or neither is.
//!
//! It works where the records are in the database that the effects are in. Three ways, by who holds the key:
//!
//! | | |
//! |---|---|
//! | [`Guard::transaction`](crate::Guard::transaction) | acquires, begins, runs your closure, completes the record, commits, wakes those who wait |
//! | [`Execution::complete_in_tx`](crate::Execution::complete_in_tx) | the same by hand, in a transaction that you begin and commit |
//! | [`Guard::settle_in_tx`](crate::Guard::settle_in_tx), [`fail_in_tx`](crate::Guard::fail_in_tx) | behind a gateway or an HTTP layer, which holds the key: your commit says how its execution ended |
//!
//! The order is always: acquire first, in a commit of its own, so that everybody sees the key in flight; the effects;
//! the record last; commit. The record's update compares owner and fence. If it changes nothing, another execution
//! has the key ([`TxError::Lost`]), and the transaction must be rolled back; then the effects are gone, too.
//!
//! Features bring the drivers: `tokio-postgres`, `sqlx-0_8`, `sqlx-0_9`. Any other one runs a [`Statement`]:
//! [`Execution::complete_statement`](crate::Execution::complete_statement),
//! [`Guard::settle_statement`](crate::Guard::settle_statement); or implement [`InTransaction`] for it.
//!
//! # What is promised
//!
//! - READ COMMITTED, REPEATABLE READ and SERIALIZABLE: it works, or fails as a [`TxError::Conflict`], which has done
//!   nothing and may be repeated. To choose the level, let it be the first statement of the transaction:
//!   `SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`.
//! - A savepoint that is rolled back takes the record's change with it: the key is *executing* again.
//! - Names are qualified with the store's schema; any `search_path` will do.
//! - Nothing is prepared under a name, so PgBouncer's transaction mode will do. What completes a record is a function of
//!   the schema, whose plan each connection keeps. Without PgBouncer a driver can prepare the call of it, too: `Prepared`
//!   does for `tokio-postgres`.
//! - With `tokio-postgres` the record's statement and COMMIT are one round trip.
//! - An open transaction holds up nobody: other keys go on, and its own is *in flight* for everybody.
//! - Those who wait are woken after the commit, not by it: a NOTIFY in it would make all commits of the server queue.
//! - A COMMIT whose answer was lost is read back, with a lock on the record's row, and never repeated blindly.
//!
//! What it does not cover: effects outside of the database, such as mails and calls of other services. An attempt
//! that was rolled back has left them, and is run again.

#[cfg(feature = "message")]
mod attempt;
mod driver;
mod execution;
mod outcome;
mod record;
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
mod sqlx;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;
mod transaction;

pub use driver::{Begin, Changed, CommitError, InTransaction, Transaction};
pub use idempotency_store::transaction::{Parameter, Statement, Statements};
pub use outcome::{Transacted, TransactionError, TxError};
#[cfg(feature = "http")]
pub use record::record_from;
pub use record::Record;
#[cfg(feature = "tokio-postgres")]
pub use tokio_postgres::{Prepared, PreparedTransaction};

/// An error of a driver.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
