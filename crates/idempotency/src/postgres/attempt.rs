//! A message that is completed in the transaction of its handler.

use super::driver::InTransaction;
use super::outcome::TxError;
use crate::message::{handled, Attempt};
use idempotency_store::record::StoredOutcome;
use idempotency_store::transaction::Statement;

impl Attempt {
    /// Completes the message's record in the transaction that holds the handler's effects: both are one commit, or
    /// neither is. Let it be the last statement before the commit, and return `Ok` after it. Where the commit fails,
    /// or got no answer, return the error: the next delivery finds out.
    ///
    /// A consumer that dies has then either done it, and that is recorded, or has done nothing. So
    /// [`OnUnknown::RunAgain`](crate::message::OnUnknown) runs nothing twice.
    ///
    /// The guard's store has to be in this database.
    ///
    /// # Errors
    ///
    /// In every case: roll back, and return the error.
    ///
    /// ```no_run
    /// # #[cfg(feature = "tokio-postgres")]
    /// # async fn example(attempt: idempotency::message::Attempt, client: &mut tokio_postgres::Client)
    /// #     -> Result<(), idempotency::message::Failure> {
    /// let mut tx = client.transaction().await?;
    /// tx.execute("INSERT INTO invoices (order_id) VALUES (7)", &[]).await?;
    /// attempt.complete_in_tx(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn complete_in_tx<T: InTransaction>(&self, tx: &mut T) -> Result<(), TxError> {
        let changed = tx.run(&self.complete_statement()?).await;
        changed.map_err(TxError::of::<T>)?.ok_or(TxError::Lost)?;
        Ok(())
    }

    /// What [`complete_in_tx`](Attempt::complete_in_tx) runs, for a driver of yours. It returns one row, or the
    /// transaction must be rolled back.
    ///
    /// # Errors
    ///
    /// [`TxError::NoDatabase`].
    pub fn complete_statement(&self) -> Result<Statement, TxError> {
        let outcome = handled().map_err(|error| TxError::Database(Box::new(error)))?;
        let outcome = StoredOutcome::new(&outcome.0);
        let statements = self.guard.all_statements().ok_or(TxError::NoDatabase)?;
        let statement = statements.complete_in_tx(&self.key, self.owner, self.fence(), &outcome);
        statement.ok_or(TxError::NoDatabase)
    }
}
