//! What is asked of a driver.

use idempotency_store::transaction::Statement;
use std::future::Future;

/// A connection with an open transaction.
///
/// Features of this crate implement it for `tokio_postgres` and `sqlx`. For another driver, implement it for a type of
/// yours around the driver's: run the text with its parameters, and hand on the row, if there is one.
pub trait InTransaction: Send {
    /// The driver's error.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Runs the statement. `None`: it returned no row.
    ///
    /// Behind PgBouncer in transaction mode it must not be prepared under a name.
    fn run(
        &mut self,
        statement: &Statement,
    ) -> impl Future<Output = Result<Option<Changed>, Self::Error>> + Send;

    /// The SQLSTATE that the server answered with; `None` if the error is not the server's.
    fn sqlstate(error: &Self::Error) -> Option<String>;
}

/// The row that a statement returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Column `state` (text): the record's state.
    pub state: String,
    /// Column `expires_at_ms` (bigint): when the record is forgotten, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// A transaction that this crate may end.
pub trait Transaction: InTransaction {
    /// COMMIT, and its answer.
    fn commit(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// ROLLBACK, and its answer.
    fn rollback(self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What transactions are begun on: a connection, or a pool of them.
pub trait Begin: Send {
    /// The driver's transaction.
    type Transaction<'c>: Transaction
    where
        Self: 'c;

    /// BEGIN, and its answer.
    fn begin_transaction(
        &mut self,
    ) -> impl Future<
        Output = Result<Self::Transaction<'_>, <Self::Transaction<'_> as InTransaction>::Error>,
    > + Send;
}
