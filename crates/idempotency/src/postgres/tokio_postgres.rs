//! The driver `tokio-postgres`.

use super::driver::{Begin, Changed, CommitError, InTransaction, Transaction};
use idempotency_store::transaction::{Parameter, Statement};
use std::future::{poll_fn, Future};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, GenericClient, Row};

/// Typed parameters: then one round trip does, and nothing is prepared under a name.
async fn run(client: &impl GenericClient, statement: &Statement) -> Result<Option<Changed>, Error> {
    let bytes: Vec<&[u8]> = statement.parameters.iter().map(bytes).collect();
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = statement
        .parameters
        .iter()
        .zip(&bytes)
        .map(|(parameter, bytes)| match parameter {
            Parameter::Integer(number) => (number as &(dyn ToSql + Sync), Type::INT8),
            Parameter::Bytes(_) => (bytes as &(dyn ToSql + Sync), Type::BYTEA),
        })
        .collect();
    let rows = client.query_typed(&statement.sql, &parameters).await?;
    rows.first().map(changed).transpose()
}

/// Runs a statement, and COMMIT behind it, without waiting in between. The second result: COMMIT was sent.
///
/// The driver sends what it is asked for when it is asked first, in this order. A statement that has failed by then was
/// not sent, and COMMIT is not either.
async fn with_commit(
    tx: &tokio_postgres::Transaction<'_>,
    statement: impl Future<Output = Result<Option<Changed>, Error>>,
) -> (Result<Option<Changed>, CommitError<Error>>, bool) {
    let mut statement = pin!(statement);
    let first = poll_fn(|cx| Poll::Ready(statement.as_mut().poll(cx))).await;
    let (ran, committed) = match first {
        Poll::Ready(Err(error)) => return (Err(CommitError::Statement(error)), false),
        Poll::Ready(ran) => (ran, tx.batch_execute("COMMIT").await),
        Poll::Pending => tokio::join!(statement, tx.batch_execute("COMMIT")),
    };
    let ended = match (ran, committed) {
        (Ok(changed), Ok(())) => Ok(changed),
        (Ok(_), Err(error)) => Err(CommitError::Commit(error)),
        (Err(error), _) if is_refusal(&error) => Err(CommitError::Statement(error)),
        (Err(error), _) => Err(CommitError::Commit(error)),
    };
    (ended, true)
}

/// Whether the server has run the statement and refused it. Not so if the connection broke, the server stops, or
/// PgBouncer has lost it (classes 08 and 57P).
fn is_refusal(error: &Error) -> bool {
    sqlstate(error).is_some_and(|state| !state.starts_with("08") && !state.starts_with("57P"))
}

fn changed(row: &Row) -> Result<Changed, Error> {
    Ok(Changed {
        state: row.try_get(0)?,
        expires_at_ms: row.try_get(1)?,
    })
}

fn bytes(parameter: &Parameter) -> &[u8] {
    match parameter {
        Parameter::Bytes(bytes) => bytes,
        Parameter::Integer(_) => &[],
    }
}

fn sqlstate(error: &Error) -> Option<String> {
    error.code().map(|state| state.code().to_owned())
}

impl InTransaction for tokio_postgres::Transaction<'_> {
    type Error = Error;

    async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
        run(self, statement).await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        sqlstate(error)
    }
}

/// For transactions that are begun and ended as statements.
impl InTransaction for Client {
    type Error = Error;

    async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
        run(self, statement).await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        sqlstate(error)
    }
}

impl Transaction for tokio_postgres::Transaction<'_> {
    const COMMITS_TOGETHER: bool = true;

    async fn commit_with(self, last: &Statement) -> Result<Option<Changed>, CommitError<Error>> {
        let (ended, over) = with_commit(&self, run(&self, last)).await;
        if over {
            // The ROLLBACK of its drop would follow a COMMIT.
            std::mem::forget(self);
        }
        ended
    }

    async fn commit(self) -> Result<(), Error> {
        tokio_postgres::Transaction::commit(self).await
    }

    async fn rollback(self) -> Result<(), Error> {
        tokio_postgres::Transaction::rollback(self).await
    }
}

impl Begin for Client {
    type Transaction<'c> = tokio_postgres::Transaction<'c>;

    async fn begin_transaction(&mut self) -> Result<tokio_postgres::Transaction<'_>, Error> {
        self.transaction().await
    }
}

/// A client that prepares what completes a record once, and uses it again: the server then need not plan it for every
/// transaction, which is most of what a record costs there. Not behind PgBouncer in transaction mode.
///
/// ```no_run
/// # async fn example(client: tokio_postgres::Client) {
/// let mut client = idempotency::postgres::Prepared::new(client);
/// // client.query(…), and guard.transaction(&mut client, …)
/// # let _ = &mut client;
/// # }
/// ```
#[derive(Debug)]
pub struct Prepared {
    client: Client,
    last: Option<(Arc<str>, tokio_postgres::Statement)>,
}

/// A transaction on a [`Prepared`] client.
pub struct PreparedTransaction<'c> {
    tx: tokio_postgres::Transaction<'c>,
    last: &'c mut Option<(Arc<str>, tokio_postgres::Statement)>,
}

impl Prepared {
    /// Of this client.
    pub fn new(client: Client) -> Prepared {
        Prepared { client, last: None }
    }

    /// The client again.
    pub fn into_inner(self) -> Client {
        self.client
    }
}

impl Deref for Prepared {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Prepared {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl<'c> Deref for PreparedTransaction<'c> {
    type Target = tokio_postgres::Transaction<'c>;

    fn deref(&self) -> &tokio_postgres::Transaction<'c> {
        &self.tx
    }
}

impl<'c> DerefMut for PreparedTransaction<'c> {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Transaction<'c> {
        &mut self.tx
    }
}

impl PreparedTransaction<'_> {
    async fn prepared(
        &mut self,
        statement: &Statement,
    ) -> Result<tokio_postgres::Statement, Error> {
        match &self.last {
            Some((sql, prepared)) if *sql == statement.sql => Ok(prepared.clone()),
            _ => {
                let prepared = self.tx.prepare(&statement.sql).await?;
                *self.last = Some((Arc::clone(&statement.sql), prepared.clone()));
                Ok(prepared)
            }
        }
    }

    async fn run_prepared(
        &self,
        prepared: &tokio_postgres::Statement,
        statement: &Statement,
    ) -> Result<Option<Changed>, Error> {
        let bytes: Vec<&[u8]> = statement.parameters.iter().map(bytes).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = statement
            .parameters
            .iter()
            .zip(&bytes)
            .map(|(parameter, bytes)| match parameter {
                Parameter::Integer(number) => number as &(dyn ToSql + Sync),
                Parameter::Bytes(_) => bytes as &(dyn ToSql + Sync),
            })
            .collect();
        let row = self.tx.query_opt(prepared, &parameters).await?;
        row.as_ref().map(changed).transpose()
    }
}

impl InTransaction for PreparedTransaction<'_> {
    type Error = Error;

    async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
        let prepared = self.prepared(statement).await?;
        self.run_prepared(&prepared, statement).await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        sqlstate(error)
    }
}

impl Transaction for PreparedTransaction<'_> {
    const COMMITS_TOGETHER: bool = true;

    async fn commit_with(
        mut self,
        last: &Statement,
    ) -> Result<Option<Changed>, CommitError<Error>> {
        let prepared = self.prepared(last).await.map_err(CommitError::Statement)?;
        let (ended, over) = with_commit(&self.tx, self.run_prepared(&prepared, last)).await;
        if over {
            std::mem::forget(self);
        }
        ended
    }

    async fn commit(self) -> Result<(), Error> {
        self.tx.commit().await
    }

    async fn rollback(self) -> Result<(), Error> {
        self.tx.rollback().await
    }
}

impl Begin for Prepared {
    type Transaction<'c> = PreparedTransaction<'c>;

    async fn begin_transaction(&mut self) -> Result<PreparedTransaction<'_>, Error> {
        let tx = self.client.transaction().await?;
        let last = &mut self.last;
        Ok(PreparedTransaction { tx, last })
    }
}
