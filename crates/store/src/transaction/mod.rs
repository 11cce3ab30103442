//! Transactions of applications on the tables of a PostgreSQL store: what they run ([`statement`]), and what the store
//! tells the program that runs them ([`Transactions`]). None of it needs a driver.

pub(crate) mod ids;
pub mod statement;

pub use statement::{Parameter, Statement, Statements, LOST};

use crate::store::StoreError;
use async_trait::async_trait;
use idempotency_protocol::{LookupKey, Owner};

/// What a store has for transactions of applications on its tables; see [`Store::transactions`](crate::Store::transactions).
#[async_trait]
pub trait Transactions: Send + Sync {
    /// The statements, for this store's schema.
    fn statements(&self) -> &Statements;

    /// Which server takes the writes, as far as this process has seen. Costs nothing.
    fn primary(&self) -> Primary;

    /// How a transaction ended whose commit got no answer, and which was to complete the execution of this owner and
    /// fence. It locks the record's row, and so waits for a server process that was cut off and still works on the
    /// transaction. `begun_on` is what [`Transactions::primary`] said before the key was acquired.
    ///
    /// # Errors
    ///
    /// [`StoreError::Transient`] while nobody can tell: the database cannot be reached, or the transaction has not
    /// ended within the store's lock timeout. Ask again.
    async fn read_back(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        begun_on: Primary,
    ) -> Result<ReadBack, StoreError>;

    /// To be called before the statements of this key are run by an application that has not acquired it through this
    /// store. Does nothing but where records are about to be moved: see `sealed`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it is not known where the record is. Do not run the statement.
    async fn prepare(&self, key: &LookupKey) -> Result<(), StoreError> {
        let _ = key;
        Ok(())
    }

    /// Wakes the waiters of these keys, in all processes. Nothing depends on it: a waiter that is not woken looks again.
    async fn wake(&self, keys: &[LookupKey]);
}

/// How a transaction ended whose commit got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It was committed.
    Committed {
        /// When the record is forgotten, milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
    /// It was rolled back, and can never be committed any more. The execution is its owner's as before.
    RolledBack,
    /// It was rolled back; the key was taken by another execution since.
    Lost,
    /// Nobody can tell: the primary has changed, or somebody has removed or decided the record meanwhile.
    Unknown,
}

/// A copy of the database: which cluster, and which of its timelines. It changes when a standby takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Primary(#[cfg_attr(not(feature = "postgres"), allow(dead_code))] Option<(i64, i64)>);

impl Primary {
    /// Nobody knows.
    pub const UNKNOWN: Primary = Primary(None);

    #[cfg(feature = "postgres")]
    pub(crate) fn new(system: i64, timeline: i64) -> Primary {
        Primary(Some((system, timeline)))
    }

    /// Whether both are certainly the same.
    #[cfg(feature = "postgres")]
    pub(crate) fn is(self, other: Primary) -> bool {
        self.0.is_some() && self == other
    }
}
