//! A whole transaction: acquire, effects, record, commit.

use super::driver::{Begin, CommitError, InTransaction, Transaction};
use super::execution::FoundCommit;
use super::outcome::{is_refusal, Transacted, TransactionError, TxError};
use crate::entry::Entry;
use crate::execution::{Completed, Execution};
use crate::fingerprint::Fingerprint;
use crate::guard::Guard;
use crate::outcome::{Done, Outcome};
use idempotency_protocol::{Grant, Stored};
use idempotency_store::transaction::LOST;

impl Guard {
    /// Does something once per key, in one transaction with its record. Whichever process crashes, and at whatever
    /// moment, there is then both or neither.
    ///
    /// Acquires the key (committed at once, so that everybody sees it in flight), begins a transaction on `client`,
    /// runs `work` in it, completes the record with the outcome that `work` returns, commits, and wakes those who
    /// wait. If `work` fails, everything is rolled back and the key is free. If the answer to the commit is lost, it
    /// is read back.
    ///
    /// A key whose earlier attempts all were such transactions is never *unknown* here: one without a recorded end
    /// was rolled back, and this one executes. An attempt of a gateway, or of
    /// [`acquire`](Guard::acquire), keeps it unknown. With [`on_unknown`](Guard::on_unknown) it can be told otherwise.
    ///
    /// `client` is a `tokio_postgres::Client`, an `sqlx::PgPool` or an `sqlx::PgConnection`, by this crate's features;
    /// or anything for which you implement [`Begin`]. It goes to the database of the guard's store: on any other one
    /// nothing is committed.
    ///
    /// Let `work` be short: it holds a connection, and a lock on the record's row at its end. Let it have no effects
    /// outside of the database; they would not be rolled back.
    ///
    /// # Errors
    ///
    /// [`TransactionError`]. To call it again is safe in every case.
    ///
    /// ```no_run
    /// # #[cfg(feature = "tokio-postgres")]
    /// # async fn example(guard: &idempotency::Guard, client: &mut tokio_postgres::Client)
    /// #     -> Result<i64, Box<dyn std::error::Error>> {
    /// use idempotency::{postgres::Transacted, Fingerprint, Outcome};
    ///
    /// let request = serde_json::json!({"item": "chair"});
    /// let done = guard
    ///     .transaction(client, "key-1", Fingerprint::json(&request)?, async |tx, execution| {
    ///         let fence = i64::try_from(execution.fence())?;
    ///         let insert = "INSERT INTO orders (item, fence) VALUES ('chair', $1) RETURNING id";
    ///         let row = tx.query_one(insert, &[&fence]).await?;
    ///         let id: i64 = row.get(0);
    ///         Ok::<_, Box<dyn std::error::Error>>(Outcome::json(201, &id)?)
    ///     })
    ///     .await
    ///     .map_err(|error| error.to_string())?;
    /// let id = match done {
    ///     Transacted::Committed(done) | Transacted::Replay(done) => done.json()?,
    ///     other => return Err(format!("not now: {other:?}").into()),
    /// };
    /// # Ok(id)
    /// # }
    /// ```
    pub async fn transaction<C, E, F>(
        &self,
        client: &mut C,
        key: &str,
        fingerprint: Fingerprint,
        work: F,
    ) -> Result<Transacted, TransactionError<E>>
    where
        C: Begin,
        F: AsyncFnOnce(&mut C::Transaction<'_>, &Execution) -> Result<Outcome, E>,
    {
        if self.all_statements().is_none() {
            return Err(TxError::NoDatabase.into());
        }
        let mut execution = match self.acquire_for_transaction(key, fingerprint).await? {
            Entry::Execute(execution) => execution,
            Entry::Replay(done) => return Ok(Transacted::Replay(done)),
            Entry::InFlight(other) => return Ok(Transacted::InFlight(Box::new(other))),
            Entry::Mismatch => return Ok(Transacted::Mismatch),
            Entry::NotComparable => return Ok(Transacted::NotComparable),
            Entry::Unknown(unknown) => return Ok(Transacted::Unknown(unknown)),
        };
        let mut tx = match client.begin_transaction().await {
            Ok(tx) => tx,
            Err(error) => {
                let _ = execution.fail().await;
                return Err(TransactionError::RolledBack(Box::new(error)));
            }
        };
        let outcome = match work(&mut tx, &execution).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Without an answer the server rolls back when it misses the connection. Nothing of it can be
                // committed: the record was not completed in it.
                let _ = tx.rollback().await;
                let _ = execution.fail().await;
                return Err(TransactionError::Work(error));
            }
        };
        let grant = execution.grant();
        // In one round trip where the statement fails in place of returning no row, so that no effect is committed
        // without its record.
        let together = match <C::Transaction<'_> as Transaction>::COMMITS_TOGETHER {
            true => execution.commit_statement(&outcome),
            false => None,
        };
        let ended = match &together {
            Some(last) => {
                execution.claim_mut().doubt();
                let changed = tx.commit_with(last).await;
                changed.map(|changed| changed.map(|c| Completed::until(c.expires_at_ms)))
            }
            None => {
                let completed = match execution.complete_in_tx(&mut tx, &outcome).await {
                    Ok(completed) => completed,
                    Err(error) => {
                        let _ = tx.rollback().await;
                        return Err(not_recorded(execution, error).await);
                    }
                };
                execution.claim_mut().doubt();
                let committed = tx.commit().await.map_err(CommitError::Commit);
                committed.map(|()| Some(completed))
            }
        };
        let error = match ended {
            Ok(Some(completed)) => {
                execution.committed();
                return Ok(Transacted::Committed(done(outcome, grant, completed)));
            }
            Ok(None) => return Err(not_recorded(execution, TxError::Lost).await),
            Err(CommitError::Statement(error)) => {
                let sqlstate = <C::Transaction<'_> as InTransaction>::sqlstate(&error);
                let error = match sqlstate.as_deref() {
                    Some(LOST) => TxError::Lost,
                    _ => TxError::of::<C::Transaction<'_>>(error),
                };
                return Err(not_recorded(execution, error).await);
            }
            Err(CommitError::Commit(error)) => error,
        };
        let sqlstate = <C::Transaction<'_> as InTransaction>::sqlstate(&error);
        if sqlstate.as_deref().is_some_and(is_refusal) {
            let _ = execution.fail().await;
            return Err(match TxError::of::<C::Transaction<'_>>(error) {
                TxError::Database(error) => TransactionError::RolledBack(error),
                conflict => TransactionError::Record(conflict),
            });
        }
        match execution.find(&outcome).await {
            FoundCommit::Committed(completed) => {
                Ok(Transacted::Committed(done(outcome, grant, completed)))
            }
            FoundCommit::RolledBack => Err(TransactionError::RolledBack(Box::new(error))),
            FoundCommit::Lost => Err(TransactionError::Record(TxError::Lost)),
            FoundCommit::Unknown => Err(TransactionError::Unknown(Box::new(error))),
        }
    }
}

/// The record was not changed, and its transaction is rolled back.
async fn not_recorded<E>(execution: Execution, error: TxError) -> TransactionError<E> {
    match &error {
        TxError::Lost => execution.into_claim().lost(),
        _ => drop(execution.fail().await),
    }
    TransactionError::Record(error)
}

fn done(outcome: Outcome, grant: Grant, completed: Completed) -> Done {
    Done(Stored {
        outcome: outcome.0.into(),
        fence: grant.fence,
        attempt: grant.attempt,
        age_ms: 0,
        expires_at_ms: completed.expires_at_ms,
    })
}
