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

/// Why a transaction did not end as it should that was committed [together](Transaction::commit_with) with its last
/// statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitError<E> {
    /// The server has refused the statement: the COMMIT behind it was a rollback.
    Statement(E),
    /// COMMIT failed, or the connection did: it may have been committed.
    Commit(E),
}

/// A transaction that this crate may end.
pub trait Transaction: InTransaction {
    /// Whether [`commit_with`](Transaction::commit_with) is one round trip.
    const COMMITS_TOGETHER: bool = false;

    /// Runs the last statement and COMMIT. Where both are sent without waiting in between, the statement must be one
    /// that fails where it would return no row.
    ///
    /// # Errors
    ///
    /// [`CommitError`].
    fn commit_with(
        mut self,
        last: &Statement,
    ) -> impl Future<Output = Result<Option<Changed>, CommitError<Self::Error>>> + Send
    where
        Self: Sized,
    {
        async move {
            let changed = self.run(last).await.map_err(CommitError::Statement)?;
            let ended = match changed {
                Some(_) => self.commit().await,
                None => self.rollback().await,
            };
            ended.map_err(CommitError::Commit)?;
            Ok(changed)
        }
    }

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
