//! An execution that is completed in the caller's transaction.

use super::driver::InTransaction;
use super::outcome::{TransactionError, TxError};
use super::record::Record;
use super::BoxError;
use crate::error::{Error, SettleError};
use crate::execution::{Completed, Execution};
use crate::guard::Guard;
use crate::outcome::Outcome;
use crate::settle::Settled;
use idempotency_core::ending::End;
use idempotency_protocol::FailCause;
use idempotency_store::record::StoredOutcome;
use idempotency_store::transaction::{ReadBack, Statement, Statements};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, Instant};

/// How long a commit without an answer is read back, at most.
const LONGEST_READ_BACK: Duration = Duration::from_secs(30);
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How a transaction ended whose commit got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundCommit {
    Committed(Completed),
    RolledBack,
    Lost,
    Unknown,
}

impl Execution {
    /// Completes the record in the transaction that holds the effects. It counts from the commit on, and is gone with
    /// a rollback, also one to a savepoint. Let it be the last statement before the commit: from here to the commit
    /// the record's row is locked.
    ///
    /// After the commit say [`committed`](Execution::committed). If the commit got no answer, ask
    /// [`read_back`](Execution::read_back). After a rollback say how it ended, as always;
    /// [`fail`](Execution::fail) where nothing else was done.
    ///
    /// # Errors
    ///
    /// In every case: roll back.
    ///
    /// ```no_run
    /// # #[cfg(feature = "tokio-postgres")]
    /// # async fn example(guard: &idempotency::Guard, client: &mut tokio_postgres::Client)
    /// #     -> Result<(), Box<dyn std::error::Error>> {
    /// # use idempotency::{Entry, Fingerprint, Outcome};
    /// let same = Fingerprint::raw("a chair");
    /// if let Entry::Execute(mut execution) = guard.acquire_for_transaction("k", same).await? {
    ///     let mut tx = client.transaction().await?;
    ///     tx.execute("INSERT INTO orders (item) VALUES ('chair')", &[]).await?;
    ///     let outcome = Outcome::empty(201)?;
    ///     execution.complete_in_tx(&mut tx, &outcome).await?;
    ///     match tx.commit().await {
    ///         Ok(()) => execution.committed(),
    ///         Err(lost) => drop(execution.read_back(&outcome, lost).await?),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn complete_in_tx<T: InTransaction>(
        &mut self,
        tx: &mut T,
        outcome: &Outcome,
    ) -> Result<Completed, TxError> {
        let statement = self.complete_statement(outcome)?;
        let changed = tx.run(&statement).await.map_err(TxError::of::<T>)?;
        let changed = changed.ok_or(TxError::Lost)?;
        Ok(Completed::until(changed.expires_at_ms))
    }

    /// What [`complete_in_tx`](Execution::complete_in_tx) runs, for a driver of yours. It returns one row, or the
    /// transaction must be rolled back.
    ///
    /// # Errors
    ///
    /// [`TxError::NoDatabase`].
    pub fn complete_statement(&self, outcome: &Outcome) -> Result<Statement, TxError> {
        let (key, owner) = (self.claim().key(), self.claim().owner());
        let outcome = StoredOutcome::new(&outcome.0);
        self.with_statements(|all| all.complete_in_tx(key, owner, self.fence(), &outcome))
            .flatten()
            .ok_or(TxError::NoDatabase)
    }

    /// As [`complete_statement`](Execution::complete_statement), to be sent together with a COMMIT; `None` where it has
    /// to be waited for.
    pub(super) fn commit_statement(&self, outcome: &Outcome) -> Option<Statement> {
        let (key, owner) = (self.claim().key(), self.claim().owner());
        let outcome = StoredOutcome::new(&outcome.0);
        self.with_statements(|all| all.commit_in_tx(key, owner, self.fence(), &outcome))
            .flatten()
    }

    fn with_statements<R>(&self, then: impl FnOnce(&Statements) -> R) -> Option<R> {
        match &self.statements {
            Some(statements) => Some(then(statements)),
            None => {
                let store = &self.claim().shared().store;
                store.transactions().map(|t| then(t.statements()))
            }
        }
    }

    /// The transaction that has completed this record is committed: nothing is left to be said, and those who wait
    /// are woken.
    pub fn committed(self) {
        self.into_claim().committed();
    }

    /// The commit of the transaction that was to complete this record got no answer, or one that does not tell
    /// whether it was carried out (`error`). Looks it up, with a lock on the record's row, so that it waits for a
    /// server process that was cut off. `outcome` is the one that was to be stored. Takes 30 seconds at most.
    ///
    /// # Errors
    ///
    /// [`TransactionError::RolledBack`]: it was not committed and will not be, and the key is free;
    /// [`TransactionError::Record`] with [`TxError::Lost`]: neither, and another execution has the key;
    /// [`TransactionError::Unknown`]: nobody can tell. The record is *unknown* then, unless it was committed.
    pub async fn read_back(
        self,
        outcome: &Outcome,
        error: impl Into<BoxError>,
    ) -> Result<Completed, TransactionError<Infallible>> {
        let error = error.into();
        match self.find(outcome).await {
            FoundCommit::Committed(completed) => Ok(completed),
            FoundCommit::RolledBack => Err(TransactionError::RolledBack(error)),
            FoundCommit::Lost => Err(TransactionError::Record(TxError::Lost)),
            FoundCommit::Unknown => Err(TransactionError::Unknown(error)),
        }
    }

    pub(super) async fn find(mut self, outcome: &Outcome) -> FoundCommit {
        // Whatever becomes of this future.
        self.claim_mut().doubt();
        let found = match self.ask_database().await {
            Some(found) => found,
            None => return self.ask_store(outcome).await,
        };
        let claim = self.into_claim();
        match found {
            FoundCommit::Committed(_) => claim.committed(),
            FoundCommit::Lost => claim.lost(),
            FoundCommit::RolledBack => drop(claim.end(End::NotDone(FailCause::Other)).await),
            FoundCommit::Unknown => drop(claim.end(End::Unknown).await),
        }
        found
    }

    /// `None`: this process has no way to the database but the caller's.
    async fn ask_database(&self) -> Option<FoundCommit> {
        let claim = self.claim();
        let database = claim.shared().store.transactions()?;
        let (begun, (mut pause, longest)) = (Instant::now(), PAUSES);
        loop {
            let (key, owner) = (claim.key(), claim.owner());
            let asked = database.read_back(key, owner, self.fence(), claim.begun_on());
            match asked.await {
                Ok(ReadBack::Committed { expires_at_ms }) => {
                    return Some(FoundCommit::Committed(Completed { expires_at_ms }))
                }
                Ok(ReadBack::RolledBack) => return Some(FoundCommit::RolledBack),
                Ok(ReadBack::Lost) => return Some(FoundCommit::Lost),
                Ok(ReadBack::Unknown) => return Some(FoundCommit::Unknown),
                Err(error) if begun.elapsed() >= LONGEST_READ_BACK => {
                    tracing::warn!(%error, "a commit without an answer cannot be read back");
                    return Some(FoundCommit::Unknown);
                }
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Makes the record unknown, unless it is completed: that waits for the row, too. Whether the primary has changed
    /// cannot be seen, so nothing else is proven by it.
    async fn ask_store(self, outcome: &Outcome) -> FoundCommit {
        let mut claim = self.into_claim();
        match claim.tell(End::Unknown).await {
            Settled::Refused(SettleError::Refused) => {
                match claim.tell(End::Done(outcome.0.clone())).await {
                    Settled::Recorded { expires_at_ms } => {
                        let expires_at_ms = expires_at_ms.unwrap_or_default();
                        FoundCommit::Committed(Completed { expires_at_ms })
                    }
                    _ => FoundCommit::Unknown,
                }
            }
            Settled::Refused(SettleError::Lost) => FoundCommit::Lost,
            _ => FoundCommit::Unknown,
        }
    }
}

impl Guard {
    /// For a store that is in a PostgreSQL database although this process cannot see that: a
    /// [`Remote`](crate::remote::Remote) service's. `schema` has its tables, usually `public`. Transactions on any
    /// other database fail, and commit nothing.
    pub fn transactions_in(mut self, schema: &str) -> Guard {
        self.statements = Some(Arc::new(Statements::in_schema(schema)));
        self
    }

    /// The same for a service whose records are encrypted: with its keys, so that what transactions store is sealed
    /// as the service seals it. Without them every transaction is told [`TxError::Lost`](super::TxError::Lost).
    #[cfg(feature = "encryption")]
    pub fn encrypted_transactions_in(
        mut self,
        schema: &str,
        keys: &Arc<idempotency_store::sealed::KeyRing>,
    ) -> Guard {
        let sealer = idempotency_store::sealed::Sealer::new(Arc::clone(keys));
        let statements = Statements::in_schema(schema).sealed_by(sealer);
        self.statements = Some(Arc::new(statements));
        self
    }

    /// As [`acquire`](Guard::acquire), for an execution all of whose effects will be in one transaction that
    /// [completes](Execution::complete_in_tx) its record, too.
    ///
    /// That is noted in the record. It lets another transaction execute where this one has no recorded end, since
    /// then it was rolled back, unless [`on_unknown`](Guard::on_unknown) says otherwise; and waiters for this
    /// execution do not change the record meanwhile. An execution that is dropped before it was ended has failed: the
    /// key is free.
    ///
    /// Everybody sees the lock at once, but the acquire does not wait for the database's disk. If the server crashes, it may
    /// be gone, and the transaction with it: [`complete_in_tx`](Execution::complete_in_tx) says
    /// [`TxError::Lost`](super::TxError::Lost) then. What was committed always has its record.
    ///
    /// # Errors
    ///
    /// As [`Guard::acquire`].
    pub async fn acquire_for_transaction(
        &self,
        key: &str,
        fingerprint: crate::Fingerprint,
    ) -> Result<crate::Entry, Error> {
        self.acquire_on(key, fingerprint, self.transaction_terms()?)
            .await
    }

    /// Behind a gateway or an HTTP layer, which holds the key: in the transaction of the effects it says that they
    /// are done. `record` came with the request.
    ///
    /// From the commit on the outcome is settled. Until the holder has stored what its client got, or its lease is
    /// over, others are *in flight*; what the holder stores is what is replayed then, and this outcome if it is gone.
    ///
    /// # Errors
    ///
    /// In every case: roll back, and answer with an error.
    pub async fn settle_in_tx<T: InTransaction>(
        &self,
        tx: &mut T,
        record: &Record,
        outcome: &Outcome,
    ) -> Result<Completed, TxError> {
        self.prepare(record).await?;
        run(tx, &self.settle_statement(record, outcome)?).await
    }

    /// Behind a gateway or an HTTP layer: nothing was done, or what was done may be repeated, and the key is free
    /// from the commit on. For an upstream that cannot say it by its status.
    ///
    /// # Errors
    ///
    /// As [`Guard::settle_in_tx`].
    pub async fn fail_in_tx<T: InTransaction>(
        &self,
        tx: &mut T,
        record: &Record,
    ) -> Result<(), TxError> {
        self.prepare(record).await?;
        run(tx, &self.fail_statement(record)?).await.map(drop)
    }

    /// What [`settle_in_tx`](Guard::settle_in_tx) runs, for a driver of yours. It returns one row, or the transaction
    /// must be rolled back.
    ///
    /// # Errors
    ///
    /// [`TxError::NoDatabase`].
    pub fn settle_statement(
        &self,
        record: &Record,
        outcome: &Outcome,
    ) -> Result<Statement, TxError> {
        let outcome = StoredOutcome::new(&outcome.0);
        let statements = self.all_statements().ok_or(TxError::NoDatabase)?;
        let statement = statements.settle_in_tx(&record.key, record.fence(), &outcome);
        statement.ok_or(TxError::NoDatabase)
    }

    /// What [`fail_in_tx`](Guard::fail_in_tx) runs, for a driver of yours.
    ///
    /// # Errors
    ///
    /// [`TxError::NoDatabase`].
    pub fn fail_statement(&self, record: &Record) -> Result<Statement, TxError> {
        let statements = self.all_statements().ok_or(TxError::NoDatabase)?;
        Ok(statements.fail_in_tx(&record.key, record.fence()))
    }

    /// The record may be about to be moved, where records are sealed that were in clear.
    async fn prepare(&self, record: &Record) -> Result<(), TxError> {
        match self.shared.store.transactions() {
            Some(database) => {
                let prepared = database.prepare(&record.key).await;
                prepared.map_err(|error| TxError::Database(error.into()))
            }
            None => Ok(()),
        }
    }

    pub(super) fn all_statements(&self) -> Option<&Statements> {
        let of_store = || self.shared.store.transactions().map(|t| t.statements());
        self.statements.as_deref().or_else(of_store)
    }
}

async fn run<T: InTransaction>(tx: &mut T, statement: &Statement) -> Result<Completed, TxError> {
    let changed = tx.run(statement).await.map_err(TxError::of::<T>)?;
    let changed = changed.ok_or(TxError::Lost)?;
    Ok(Completed::until(changed.expires_at_ms))
}
